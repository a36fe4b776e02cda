// The functions of the CPU backend, by operation.
#ifndef SWINFLEET_KERNELS_CPU_CPU_KERNELS_H_
#define SWINFLEET_KERNELS_CPU_CPU_KERNELS_H_

#include "kernels/ops.h"

namespace swinfleet::cpu {

void LinearForward(const LinearForwardArgs& args, Context& context);
void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context);
void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context);
void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context);
void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context);
void PositionBiasForward(const PositionBiasForwardArgs& args, Context& context);
void PositionBiasBackward(const PositionBiasBackwardArgs& args, Context& context);
void LayerNormForward(const LayerNormForwardArgs& args, Context& context);
void LayerNormBackward(const LayerNormBackwardArgs& args, Context& context);
void GeluForward(const GeluForwardArgs& args, Context& context);
void GeluBackward(const GeluBackwardArgs& args, Context& context);
void PatchGather(const PatchGatherArgs& args, Context& context);
void PatchScatter(const PatchScatterArgs& args, Context& context);
void MergeGather(const MergeGatherArgs& args, Context& context);
void MergeScatter(const MergeScatterArgs& args, Context& context);
void MeanPoolForward(const MeanPoolForwardArgs& args, Context& context);
void MeanPoolBackward(const MeanPoolBackwardArgs& args, Context& context);
void CrossEntropy(const CrossEntropyArgs& args, Context& context);
void Add(const AddArgs& args, Context& context);
void AddBroadcast(const AddBroadcastArgs& args, Context& context);
void SumBroadcast(const SumBroadcastArgs& args, Context& context);
void Fill(const FillArgs& args, Context& context);
void SumOfSquares(const SumOfSquaresArgs& args, Context& context);
void AdamW(const AdamWArgs& args, Context& context);
void Sgd(const SgdArgs& args, Context& context);

}  // namespace swinfleet::cpu

#endif  // SWINFLEET_KERNELS_CPU_CPU_KERNELS_H_
