// The functions of the CUDA backend, by operation.
#ifndef SWINFLEET_KERNELS_CUDA_CUDA_KERNELS_H_
#define SWINFLEET_KERNELS_CUDA_CUDA_KERNELS_H_

#include "kernels/ops.h"

namespace swinfleet::cuda {

void LinearForward(const LinearForwardArgs& args, Context& context);
void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context);
void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context);
void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context);
void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context);
void WindowGather(const WindowGatherArgs& args, Context& context);
void WindowScatter(const WindowScatterArgs& args, Context& context);
void PositionTableForward(const PositionTableForwardArgs& args, Context& context);
void PositionTableBackward(const PositionTableBackwardArgs& args, Context& context);
void BiasGather(const BiasGatherArgs& args, Context& context);
void BiasScatter(const BiasScatterArgs& args, Context& context);
void LayerNormForward(const LayerNormForwardArgs& args, Context& context);
void LayerNormBackward(const LayerNormBackwardArgs& args, Context& context);
void ResidualAdd(const ResidualAddArgs& args, Context& context);
void ScaleRows(const ScaleRowsArgs& args, Context& context);
void GeluForward(const GeluForwardArgs& args, Context& context);
void GeluBackward(const GeluBackwardArgs& args, Context& context);
void PatchGather(const PatchGatherArgs& args, Context& context);
void PatchScatter(const PatchScatterArgs& args, Context& context);
void PatchEmbeddingForward(const PatchEmbeddingForwardArgs& args, Context& context);
void PatchEmbeddingBackward(const PatchEmbeddingBackwardArgs& args, Context& context);
void MergeGather(const MergeGatherArgs& args, Context& context);
void MergeScatter(const MergeScatterArgs& args, Context& context);
void Pad(const PadArgs& args, Context& context);
void TokenGather(const TokenGatherArgs& args, Context& context);
void TokenScatter(const TokenScatterArgs& args, Context& context);
void Cast(const CastArgs& args, Context& context);
void MeanPoolForward(const MeanPoolForwardArgs& args, Context& context);
void MeanPoolBackward(const MeanPoolBackwardArgs& args, Context& context);
void CrossEntropy(const CrossEntropyArgs& args, Context& context);
void MaskTokensForward(const MaskTokensForwardArgs& args, Context& context);
void MaskTokensBackward(const MaskTokensBackwardArgs& args, Context& context);
void MaskedL1(const MaskedL1Args& args, Context& context);
void MaskedMse(const MaskedMseArgs& args, Context& context);
void NormTargets(const NormTargetsArgs& args, Context& context);
void PatchTargets(const PatchTargetsArgs& args, Context& context);
void MixPictures(const MixPicturesArgs& args, Context& context);
void Add(const AddArgs& args, Context& context);
void AddBroadcast(const AddBroadcastArgs& args, Context& context);
void SumBroadcast(const SumBroadcastArgs& args, Context& context);
void Fill(const FillArgs& args, Context& context);
void SumOfSquares(const SumOfSquaresArgs& args, Context& context);
void AdamW(const AdamWArgs& args, Context& context);
void Sgd(const SgdArgs& args, Context& context);
void AddCompensated(const AddCompensatedArgs& args, Context& context);

const OpTable& Ops();

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_CUDA_KERNELS_H_
