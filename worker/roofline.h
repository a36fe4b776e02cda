// What a step of a job would take on a GPU that nobody has asked: its operations against what the
// GPU's maker says of it.
#ifndef SWINFLEET_WORKER_ROOFLINE_H_
#define SWINFLEET_WORKER_ROOFLINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "kernels/profile.h"

namespace swinfleet {

// From the data sheets of their makers, without sparsity.
struct GpuLimits {
  // As --roofline takes it, and as it is sold.
  std::string name;
  std::string full_name;
  // FLOP/s of products of bfloat16 and float16 numbers on tensor cores, of float32 ones there in
  // TF32, and beside them.
  double half_flops = 0;
  double tf32_flops = 0;
  double float_flops = 0;
  // Bytes/s of its memory.
  double bandwidth = 0;
};
const std::vector<GpuLimits>& KnownGpus();

// What keeps an operation from being faster.
enum class Bound { kCompute, kMemory, kLaunch };
const char* NameOf(Bound bound);

// Calls of one operation in a step, or of all of them.
struct RooflineRow {
  std::string name;
  int64_t calls = 0;
  int64_t launches = 0;
  double matrix_flops = 0;
  double bytes = 0;
  // Of the products alone, at the peak.
  double compute_seconds = 0;
  // Of each call the longest of what products, memory and launches take.
  double seconds = 0;
  // Of `seconds`, those of the calls that each bound holds back.
  double bound_seconds[3] = {0, 0, 0};

  // The one that holds back the most.
  Bound bound() const;
};

struct Roofline {
  // The longest first.
  std::vector<RooflineRow> operations;
  RooflineRow all;

  // Of the peak, what the products could reach if each operation reached its own limit.
  double ShareOfPeak() const { return all.seconds > 0 ? all.compute_seconds / all.seconds : 0; }
};

// A step of one micro-batch of rank `rank` of `ranks`, run dry; exchanges between ranks are not in
// it. `launch_seconds` is what the start of a kernel takes when nothing hides it. `config` is valid
// and for GPUs.
Roofline RooflineOf(const JobConfig& config, int rank, int ranks, const GpuLimits& gpu,
                    double launch_seconds);

// The same of calls that were recorded on a dry run of the CUDA backend.
Roofline RooflineOf(const std::vector<Profile::Call>& calls, Matmul matmul, const GpuLimits& gpu,
                    double launch_seconds);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_ROOFLINE_H_
