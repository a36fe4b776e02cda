#include "worker/roofline.h"

#include <algorithm>
#include <functional>
#include <string_view>

#include "distributed/communicator.h"
#include "kernels/op_entries.h"
#include "worker/dry_run.h"

namespace swinfleet {
namespace {

// Products of float32 numbers are made beside tensor cores, but for those of libraries where TF32
// is asked for. So are those of the position table, whatever the dtype.
double PeakOf(const Profile::Call& call, Matmul matmul, const GpuLimits& gpu) {
  const std::string_view name = kOpNames[call.op];
  const bool half = !call.tensors.empty() && call.tensors[0].dtype != DType::kF32;
  if (half && !name.starts_with("position_table")) return gpu.half_flops;
  const bool library = name.starts_with("linear") || name.starts_with("patch_embedding");
  return library && matmul == Matmul::kTf32 ? gpu.tf32_flops : gpu.float_flops;
}

void Add(const Profile::Call& call, Matmul matmul, const GpuLimits& gpu, double launch_seconds,
         RooflineRow* row) {
  const double seconds[] = {call.matrix_flops / PeakOf(call, matmul, gpu),
                            call.bytes / gpu.bandwidth,
                            static_cast<double>(call.launches) * launch_seconds};
  const auto longest = std::ranges::max_element(seconds);
  ++row->calls;
  row->launches += call.launches;
  row->matrix_flops += call.matrix_flops;
  row->bytes += call.bytes;
  row->compute_seconds += seconds[0];
  row->seconds += *longest;
  row->bound_seconds[longest - seconds] += *longest;
}

}  // namespace

const std::vector<GpuLimits>& KnownGpus() {
  static const std::vector<GpuLimits> gpus = {
      {"a100", "A100 SXM 80 GB", 312e12, 156e12, 19.5e12, 2.039e12},
      {"h100", "H100 SXM 80 GB", 989.4e12, 494.7e12, 66.9e12, 3.35e12},
      {"h200", "H200 SXM 141 GB", 989.4e12, 494.7e12, 66.9e12, 4.8e12},
  };
  return gpus;
}

const char* NameOf(Bound bound) {
  switch (bound) {
    case Bound::kCompute:
      return "computing";
    case Bound::kMemory:
      return "memory";
    case Bound::kLaunch:
      return "launches";
  }
  return "";
}

Bound RooflineRow::bound() const {
  return static_cast<Bound>(std::ranges::max_element(bound_seconds) - bound_seconds);
}

Roofline RooflineOf(const std::vector<Profile::Call>& calls, Matmul matmul, const GpuLimits& gpu,
                    double launch_seconds) {
  Roofline roofline;
  roofline.all.name = "all operations";
  std::vector<RooflineRow>& rows = roofline.operations;
  for (const Profile::Call& call : calls) {
    const char* name = kOpNames[call.op];
    auto row = std::ranges::find(rows, name, &RooflineRow::name);
    if (row == rows.end()) row = rows.insert(row, RooflineRow{.name = name});
    Add(call, matmul, gpu, launch_seconds, &*row);
    Add(call, matmul, gpu, launch_seconds, &roofline.all);
  }
  std::ranges::stable_sort(rows, std::greater(), &RooflineRow::seconds);
  return roofline;
}

Roofline RooflineOf(const JobConfig& config, int rank, int ranks, const GpuLimits& gpu,
                    double launch_seconds) {
  DryRun run(
      WithLeaves(config, ranks, 1),
      [rank, ranks](DryRun* /*run*/) { return MakeDryRunCommunicator(rank, ranks); },
      Device::kCuda);
  Profile profile(CudaDryRunOps());
  run.context.ops = &ProfilingOps();
  run.context.profile = &profile;
  run.Step();
  return RooflineOf(profile.calls(), config.train.matmul, gpu, launch_seconds);
}

}  // namespace swinfleet
