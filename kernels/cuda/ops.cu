// The CUDA backend's table, which has every operation.
#include "kernels/cuda/cuda_kernels.h"

namespace swinfleet::cuda {

namespace {

// A member that is left out is a warning.
constexpr OpTable kTable = {
    .linear_forward = LinearForward,
    .linear_backward_input = LinearBackwardInput,
    .linear_backward_weight = LinearBackwardWeight,
    .window_attention_forward = WindowAttentionForward,
    .window_attention_backward = WindowAttentionBackward,
    .window_gather = WindowGather,
    .window_scatter = WindowScatter,
    .position_table_forward = PositionTableForward,
    .position_table_backward = PositionTableBackward,
    .bias_gather = BiasGather,
    .bias_scatter = BiasScatter,
    .layer_norm_forward = LayerNormForward,
    .layer_norm_backward = LayerNormBackward,
    .residual_add = ResidualAdd,
    .scale_rows = ScaleRows,
    .gelu_forward = GeluForward,
    .gelu_backward = GeluBackward,
    .patch_gather = PatchGather,
    .patch_scatter = PatchScatter,
    .patch_embedding_forward = PatchEmbeddingForward,
    .patch_embedding_backward = PatchEmbeddingBackward,
    .merge_gather = MergeGather,
    .merge_scatter = MergeScatter,
    .pad = Pad,
    .token_gather = TokenGather,
    .token_scatter = TokenScatter,
    .cast = Cast,
    .mean_pool_forward = MeanPoolForward,
    .mean_pool_backward = MeanPoolBackward,
    .cross_entropy = CrossEntropy,
    .mask_tokens_forward = MaskTokensForward,
    .mask_tokens_backward = MaskTokensBackward,
    .masked_l1 = MaskedL1,
    .masked_mse = MaskedMse,
    .norm_targets = NormTargets,
    .patch_targets = PatchTargets,
    .mix_pictures = MixPictures,
    .add = Add,
    .add_broadcast = AddBroadcast,
    .sum_broadcast = SumBroadcast,
    .fill = Fill,
    .sum_of_squares = SumOfSquares,
    .adamw = AdamW,
    .sgd = Sgd,
    .add_compensated = AddCompensated,
};

}  // namespace

const OpTable& Ops() { return kTable; }

}  // namespace swinfleet::cuda
