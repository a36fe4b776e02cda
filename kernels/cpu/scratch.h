// The scratch memory of the CPU backend's operations. The operation and its dry run take it with
// the same function, so that what the dry run counts is what the operation takes.
#ifndef SWINFLEET_KERNELS_CPU_SCRATCH_H_
#define SWINFLEET_KERNELS_CPU_SCRATCH_H_

#include <cstdint>

#include "kernels/ops.h"

namespace swinfleet {

// The scratchpad that oneDNN asks for.
void* TakeScratch(const LinearForwardArgs& args, Context& context);
void* TakeScratch(const LinearBackwardInputArgs& args, Context& context);

struct LinearBackwardWeightScratch {
  void* pad = nullptr;
  float* column_sums = nullptr;  // (threads, N)
};
LinearBackwardWeightScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context);

struct WindowAttentionScratch {
  // One thread's floats, and all threads' block of them.
  int64_t floats_per_thread = 0;
  float* block = nullptr;
  // Sums of the position bias's gradient for threads after the first, (threads - 1, heads, N, N).
  float* dbias = nullptr;
  // Sums of the scales' gradients, (threads, heads).
  double* dscale = nullptr;
};
WindowAttentionScratch TakeScratch(const WindowAttentionForwardArgs& args, Context& context);
WindowAttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context);

struct PositionBiasScratch {
  TensorView hidden;   // (T, hidden)
  TensorView table;    // (T, heads)
  TensorView dtable;   // (T, heads)
  TensorView dhidden;  // (T, hidden)
};
PositionBiasScratch TakeScratch(const PositionBiasForwardArgs& args, Context& context);
PositionBiasScratch TakeScratch(const PositionBiasBackwardArgs& args, Context& context);

// (threads, 2, C)
float* TakeScratch(const LayerNormBackwardArgs& args, Context& context);

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CPU_SCRATCH_H_
