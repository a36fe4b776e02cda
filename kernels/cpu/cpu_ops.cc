#include <hwy/targets.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/ops.h"

namespace swinfleet {

const OpTable& CpuOps() {
  static const OpTable table = {
      .linear_forward = cpu::LinearForward,
      .linear_backward_input = cpu::LinearBackwardInput,
      .linear_backward_weight = cpu::LinearBackwardWeight,
      .window_attention_forward = cpu::WindowAttentionForward,
      .window_attention_backward = cpu::WindowAttentionBackward,
      .position_bias_forward = cpu::PositionBiasForward,
      .position_bias_backward = cpu::PositionBiasBackward,
      .layer_norm_forward = cpu::LayerNormForward,
      .layer_norm_backward = cpu::LayerNormBackward,
      .gelu_forward = cpu::GeluForward,
      .gelu_backward = cpu::GeluBackward,
      .patch_gather = cpu::PatchGather,
      .patch_scatter = cpu::PatchScatter,
      .merge_gather = cpu::MergeGather,
      .merge_scatter = cpu::MergeScatter,
      .mean_pool_forward = cpu::MeanPoolForward,
      .mean_pool_backward = cpu::MeanPoolBackward,
      .cross_entropy = cpu::CrossEntropy,
      .add = cpu::Add,
      .add_broadcast = cpu::AddBroadcast,
      .sum_broadcast = cpu::SumBroadcast,
      .fill = cpu::Fill,
      .sum_of_squares = cpu::SumOfSquares,
      .adamw = cpu::AdamW,
      .sgd = cpu::Sgd,
  };
  return table;
}

const char* CpuInstructionSet() {
  // The lowest bit of the supported targets is the best one.
  const int64_t supported = hwy::SupportedTargets() & ~HWY_DISABLED_TARGETS;
  return hwy::TargetName(supported & -supported);
}

}  // namespace swinfleet
