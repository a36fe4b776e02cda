#include <hwy/highway.h>
#include <hwy/targets.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

// AVX3_DL is compiled with instructions for bfloat16, which not every processor has that Highway
// means by it. Before main, so that nothing was dispatched yet.
[[maybe_unused]] const bool kTargetsChosen = [] {
#if HWY_ARCH_X86
  if (!__builtin_cpu_supports("avx512bf16")) hwy::DisableTargets(HWY_AVX3_DL);
#endif
  return true;
}();

}  // namespace

const OpTable& CpuOps() {
  static const OpTable table = {
      .linear_forward = cpu::LinearForward,
      .linear_backward_input = cpu::LinearBackwardInput,
      .linear_backward_weight = cpu::LinearBackwardWeight,
      .window_attention_forward = cpu::WindowAttentionForward,
      .window_attention_backward = cpu::WindowAttentionBackward,
      .window_gather = cpu::WindowGather,
      .window_scatter = cpu::WindowScatter,
      .position_table_forward = cpu::PositionTableForward,
      .position_table_backward = cpu::PositionTableBackward,
      .bias_gather = cpu::BiasGather,
      .bias_scatter = cpu::BiasScatter,
      .layer_norm_forward = cpu::LayerNormForward,
      .layer_norm_backward = cpu::LayerNormBackward,
      .residual_add = cpu::ResidualAdd,
      .scale_rows = cpu::ScaleRows,
      .gelu_forward = cpu::GeluForward,
      .gelu_backward = cpu::GeluBackward,
      .patch_gather = cpu::PatchGather,
      .patch_scatter = cpu::PatchScatter,
      .patch_embedding_forward = cpu::PatchEmbeddingForward,
      .patch_embedding_backward = cpu::PatchEmbeddingBackward,
      .merge_gather = cpu::MergeGather,
      .merge_scatter = cpu::MergeScatter,
      .pad = cpu::Pad,
      .token_gather = cpu::TokenGather,
      .token_scatter = cpu::TokenScatter,
      .cast = cpu::Cast,
      .mean_pool_forward = cpu::MeanPoolForward,
      .mean_pool_backward = cpu::MeanPoolBackward,
      .cross_entropy = cpu::CrossEntropy,
      .mask_tokens_forward = cpu::MaskTokensForward,
      .mask_tokens_backward = cpu::MaskTokensBackward,
      .masked_l1 = cpu::MaskedL1,
      .masked_mse = cpu::MaskedMse,
      .norm_targets = cpu::NormTargets,
      .patch_targets = cpu::PatchTargets,
      .mix_pictures = cpu::MixPictures,
      .add = cpu::Add,
      .add_broadcast = cpu::AddBroadcast,
      .sum_broadcast = cpu::SumBroadcast,
      .fill = cpu::Fill,
      .sum_of_squares = cpu::SumOfSquares,
      .adamw = cpu::AdamW,
      .sgd = cpu::Sgd,
      .add_compensated = cpu::AddCompensated,
  };
  return table;
}

const char* CpuInstructionSet() {
  // The lowest bit of the supported targets is the best one.
  const int64_t supported = hwy::SupportedTargets() & ~HWY_DISABLED_TARGETS;
  return hwy::TargetName(supported & -supported);
}

}  // namespace swinfleet
