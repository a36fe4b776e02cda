// The CUDA backend's table, and the one symbol that the shared library shows.
#include "kernels/cuda/cuda_kernels.h"

namespace swinfleet::cuda {

const OpTable& Ops() {
  static const OpTable table = [] {
    OpTable ops = {};
    ops.linear_forward = LinearForward;
    ops.linear_backward_input = LinearBackwardInput;
    ops.linear_backward_weight = LinearBackwardWeight;
    ops.window_attention_forward = WindowAttentionForward;
    ops.window_attention_backward = WindowAttentionBackward;
    ops.window_gather = WindowGather;
    ops.window_scatter = WindowScatter;
    ops.position_table_forward = PositionTableForward;
    ops.position_table_backward = PositionTableBackward;
    ops.bias_gather = BiasGather;
    ops.bias_scatter = BiasScatter;
    ops.layer_norm_forward = LayerNormForward;
    ops.layer_norm_backward = LayerNormBackward;
    ops.residual_add = ResidualAdd;
    ops.scale_rows = ScaleRows;
    ops.gelu_forward = GeluForward;
    ops.gelu_backward = GeluBackward;
    ops.patch_gather = PatchGather;
    ops.patch_scatter = PatchScatter;
    ops.merge_gather = MergeGather;
    ops.merge_scatter = MergeScatter;
    ops.pad = Pad;
    ops.token_gather = TokenGather;
    ops.token_scatter = TokenScatter;
    ops.cast = Cast;
    ops.mean_pool_forward = MeanPoolForward;
    ops.mean_pool_backward = MeanPoolBackward;
    ops.cross_entropy = CrossEntropy;
    ops.mask_tokens_forward = MaskTokensForward;
    ops.mask_tokens_backward = MaskTokensBackward;
    ops.masked_l1 = MaskedL1;
    ops.masked_mse = MaskedMse;
    ops.norm_targets = NormTargets;
    ops.patch_targets = PatchTargets;
    ops.add = Add;
    ops.add_broadcast = AddBroadcast;
    ops.sum_broadcast = SumBroadcast;
    ops.fill = Fill;
    ops.sum_of_squares = SumOfSquares;
    ops.adamw = AdamW;
    ops.sgd = Sgd;
    ops.add_compensated = AddCompensated;
    return ops;
  }();
  return table;
}

}  // namespace swinfleet::cuda

// The table, of a library opened at run time.
extern "C" __attribute__((visibility("default"))) const swinfleet::OpTable* SwinfleetCudaOps() {
  return &swinfleet::cuda::Ops();
}
