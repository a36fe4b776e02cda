#include "worker/communication_plan.h"

#include <memory>

#include "distributed/shard_layout.h"
#include "worker/dry_run.h"

namespace swinfleet {
namespace {

// Micro-batches of a rank that are run dry one by one.
constexpr int64_t kLeavesRun = 4;
// Before the step that counts: what it does depends on the one before, whose parameters it waits
// for, and on the order in which units were used.
constexpr int kStepsBefore = 2;

// Of a step, or of some steps together.
struct Figures {
  double flops = 0;
  double waited = 0;
  double communication = 0;
  LinkModel::Made made{};
};

// one + times * (two - one), field by field.
Figures Extrapolate(const Figures& one, const Figures& two, double times) {
  const auto line = [times](double a, double b) { return a + times * (b - a); };
  Figures figures = {.flops = line(one.flops, two.flops),
                     .waited = line(one.waited, two.waited),
                     .communication = line(one.communication, two.communication)};
  for (size_t i = 0; i < figures.made.size(); ++i) figures.made[i] = line(one.made[i], two.made[i]);
  return figures;
}

Figures RunStep(const JobConfig& config, int rank, int ranks, const Links& links,
                double flops_per_second, Device device) {
  ModelledTraffic traffic;
  const auto communicate = [&](DryRun* dry) {
    const auto computed = [work = &dry->work, flops_per_second] {
      return flops_per_second > 0 ? work->matrix_flops / flops_per_second : 0;
    };
    return MakeModelledCommunicator(rank, ranks, links, computed, &traffic);
  };
  DryRun run(config, communicate, device);
  const auto so_far = [&] {
    return Figures{.flops = run.work.matrix_flops,
                   .waited = run.communicator->wait_seconds(),
                   .communication = traffic.seconds,
                   .made = traffic.made};
  };
  for (int i = 0; i < kStepsBefore; ++i) run.Step();
  const Figures before = so_far();
  run.Step();
  Figures step = so_far();
  step.flops -= before.flops;
  step.waited -= before.waited;
  step.communication -= before.communication;
  for (size_t i = 0; i < step.made.size(); ++i) step.made[i] -= before.made[i];
  return step;
}

// Of a step of this rank. One more micro-batch adds what the last one did.
Figures FiguresOf(const JobConfig& config, int rank, int ranks, const Links& links,
                  double flops_per_second, Device device) {
  const auto run = [&](const JobConfig& job) {
    return RunStep(job, rank, ranks, links, flops_per_second, device);
  };
  const int64_t leaves =
      ShardLayout::LeavesOf(config.train.accumulation, rank, ranks, config.train.micro_batches())
          .count;
  if (leaves <= kLeavesRun) return run(config);
  return Extrapolate(run(WithLeaves(config, ranks, kLeavesRun - 1)),
                     run(WithLeaves(config, ranks, kLeavesRun)),
                     static_cast<double>(leaves - kLeavesRun + 1));
}

}  // namespace

CommunicationPlan PlanCommunication(const JobConfig& config, int rank, int ranks,
                                    const Links& links, double flops_per_second, Device device) {
  const Figures step = FiguresOf(config, rank, ranks, links, flops_per_second, device);
  CommunicationPlan plan;
  plan.traffic = LinkModel(links, rank, ranks).TrafficOf(step.made);
  plan.communication_seconds = step.communication;
  if (flops_per_second > 0) {
    const double compute = step.flops / flops_per_second;
    plan.time = PlannedTime{.step_seconds = compute + step.waited,
                            .compute_seconds = compute,
                            .exposed_seconds = step.waited};
  }
  return plan;
}

}  // namespace swinfleet
