// swinfleet-bench step: how fast a training step is on this machine.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "worker/bench/bench.h"

namespace swinfleet::bench {
namespace {

struct StepCommand {
  Setting setting;
  int steps = 6;
  bool json = false;
};

// FLOP/s of the best of several square products of 1024 to 4096, in float32.
double MatrixPeak(int threads) {
  Arena workspace = Arena::OnHost("workspace", size_t{64} << 20);
  Context context = {
      .ops = &CpuOps(), .workspace = &workspace, .threads = threads, .count = nullptr};
  double best = 0;
  for (int64_t n : {1024, 2048, 4096}) {
    std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
    const LinearForwardArgs product = {.x = ViewOf(a.data(), {n, n}),
                                       .weight = ViewOf(b.data(), {n, n}),
                                       .bias = {},
                                       .y = ViewOf(c.data(), {n, n})};
    const int repeats = n == 4096 ? 2 : 4;
    for (int i = 0; i <= repeats; ++i) {
      const double seconds = SecondsOf([&] { context.ops->linear_forward(product, context); });
      if (i > 0) best = std::max(best, 2.0 * n * n * n / seconds);
    }
  }
  return best;
}

void RunStep(const StepCommand& command) {
  const Setting& setting = command.setting;
  const StepFigures figures = TimeSteps(MakeJob(setting), command.steps);
  const double peak = MatrixPeak(setting.threads);
  const double share = figures.matrix_flops / peak / figures.best_seconds;
  const double images = static_cast<double>(setting.batch) / figures.best_seconds;
  std::printf("%s%s%s, batch %" PRId64 ", %s, checkpointing %s, sequential %" PRId64
              ", %d threads, %s: %.4f s a step (median %.4f), %.2f images/s\n",
              setting.model.c_str(), setting.pretrain.empty() ? "" : ", ", setting.pretrain.c_str(),
              setting.batch, setting.dtype.c_str(), setting.checkpointing.c_str(),
              setting.sequential, setting.threads, CpuInstructionSet(), figures.best_seconds,
              figures.median_seconds, images);
  std::printf(
      "matrix products: %.1f GFLOP a step, fp32 peak %.1f GFLOP/s, share %.1f%%; process %zu MiB, "
      "planned %zu MiB\n",
      figures.matrix_flops / 1e9, peak / 1e9, 100 * share, figures.peak_bytes >> 20,
      figures.planned_bytes >> 20);
  if (!command.json) return;
  const nlohmann::json line = {{"model", setting.model},
                               {"batch", setting.batch},
                               {"dtype", setting.dtype},
                               {"pretrain", setting.pretrain},
                               {"checkpointing", setting.checkpointing},
                               {"sequential", setting.sequential},
                               {"threads", setting.threads},
                               {"instruction_set", CpuInstructionSet()},
                               {"step_s", figures.best_seconds},
                               {"step_s_median", figures.median_seconds},
                               {"images_per_s", images},
                               {"peak_mib", figures.peak_bytes >> 20},
                               {"planned_mib", figures.planned_bytes >> 20},
                               {"gemm_share", share},
                               {"gemm_gflop", figures.matrix_flops / 1e9},
                               {"gemm_peak_gflops", peak / 1e9}};
  std::cout << line.dump() << std::endl;
}

}  // namespace

void AddStepCommand(CLI::App* app) {
  const auto command = std::make_shared<StepCommand>();
  CLI::App* step = app->add_subcommand("step", "whole training steps on random pictures");
  AddSettingOptions(step, &command->setting);
  step->add_option("--steps", command->steps, "steps; the first is not counted")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  step->add_flag("--json", command->json, "one JSON object on the last line");
  step->callback([command] { RunStep(*command); });
}

}  // namespace swinfleet::bench
