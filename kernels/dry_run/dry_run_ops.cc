// The dry run: every operation takes its scratch and counts its work, and touches nothing.
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

void Count(Context& context, double matrix_flops,
           std::initializer_list<const TensorView*> tensors) {
  if (context.count == nullptr) return;
  context.count->matrix_flops += matrix_flops;
  context.count->calls += 1;
  for (const TensorView* tensor : tensors) {
    if (!tensor->empty()) context.count->bytes += static_cast<double>(tensor->Bytes());
  }
}

// Takes what the operation takes, and gives it back.
template <typename Args>
void TouchScratch(const Args& args, Context& context) {
  ArenaScope scope(context.workspace);
  TakeScratch(args, context);
}

double Product(const TensorView& a, const TensorView& b) {
  return 2.0 * static_cast<double>(a.shape[0]) * static_cast<double>(b.NumElements());
}

void LinearForward(const LinearForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, Product(a.x, a.weight), {&a.x, &a.weight, &a.bias, &a.y});
}

void LinearBackwardInput(const LinearBackwardInputArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, Product(a.dy, a.weight), {&a.dy, &a.weight, &a.dx});
}

void LinearBackwardWeight(const LinearBackwardWeightArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, Product(a.dy, a.dweight), {&a.dy, &a.x, &a.dweight, &a.dbias});
}

// Of one product of all windows' scores with vectors.
double AttentionProduct(const WindowGeometry& g, const TensorView& qkv) {
  const double tokens = static_cast<double>(g.batch * g.height * g.width);
  const double channels = static_cast<double>(qkv.shape[3]) / 3;
  return 2 * tokens * static_cast<double>(g.WindowTokens()) * channels;
}

void WindowAttentionForward(const WindowAttentionForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, 2 * AttentionProduct(a.geometry, a.qkv), {&a.qkv, &a.bias, &a.out, &a.lse});
}

void WindowAttentionBackward(const WindowAttentionBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  // Scores again, then the gradients of the weights, v, q and k.
  Count(c, 5 * AttentionProduct(a.geometry, a.qkv),
        {&a.qkv, &a.bias, &a.lse, &a.dout, &a.dqkv, &a.dbias});
}

void PositionBiasForward(const PositionBiasForwardArgs& a, Context& context) {
  ArenaScope scope(context.workspace);
  const PositionBiasScratch s = TakeScratch(a, context);
  Count(context, 0, {&a.coords, &a.bias});
  LinearForward({.x = s.hidden, .weight = a.w2, .bias = {}, .y = s.table}, context);
}

void PositionBiasBackward(const PositionBiasBackwardArgs& a, Context& context) {
  ArenaScope scope(context.workspace);
  const PositionBiasScratch s = TakeScratch(a, context);
  Count(context, 0, {&a.coords, &a.dbias});
  LinearForward({.x = s.hidden, .weight = a.w2, .bias = {}, .y = s.table}, context);
  LinearBackwardWeight({.dy = s.dtable, .x = s.hidden, .dweight = a.dw2, .dbias = {}}, context);
  LinearBackwardInput({.dy = s.dtable, .weight = a.w2, .dx = s.dhidden, .accumulate = false},
                      context);
}

void LayerNormForward(const LayerNormForwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.gamma, &a.beta, &a.residual, &a.y, &a.mean, &a.rstd});
}

void LayerNormBackward(const LayerNormBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, 0, {&a.x, &a.gamma, &a.mean, &a.rstd, &a.dy, &a.dx});
}

void GeluForward(const GeluForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void GeluBackward(const GeluBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.dy, &a.dx, &a.y});
}
void PatchGather(const PatchGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void PatchScatter(const PatchScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void MergeGather(const MergeGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void MergeScatter(const MergeScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void MeanPoolForward(const MeanPoolForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void MeanPoolBackward(const MeanPoolBackwardArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void CrossEntropy(const CrossEntropyArgs& a, Context& c) {
  Count(c, 0, {&a.logits, &a.target, &a.dlogits});
}
void Add(const AddArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void AddBroadcast(const AddBroadcastArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void SumBroadcast(const SumBroadcastArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void Fill(const FillArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void SumOfSquares(const SumOfSquaresArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void AdamW(const AdamWArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.m, &a.m, &a.v, &a.v});
}
void Sgd(const SgdArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.momentum, &a.momentum});
}

}  // namespace

const OpTable& DryRunOps() {
  static const OpTable table = {
      .linear_forward = LinearForward,
      .linear_backward_input = LinearBackwardInput,
      .linear_backward_weight = LinearBackwardWeight,
      .window_attention_forward = WindowAttentionForward,
      .window_attention_backward = WindowAttentionBackward,
      .position_bias_forward = PositionBiasForward,
      .position_bias_backward = PositionBiasBackward,
      .layer_norm_forward = LayerNormForward,
      .layer_norm_backward = LayerNormBackward,
      .gelu_forward = GeluForward,
      .gelu_backward = GeluBackward,
      .patch_gather = PatchGather,
      .patch_scatter = PatchScatter,
      .merge_gather = MergeGather,
      .merge_scatter = MergeScatter,
      .mean_pool_forward = MeanPoolForward,
      .mean_pool_backward = MeanPoolBackward,
      .cross_entropy = CrossEntropy,
      .add = Add,
      .add_broadcast = AddBroadcast,
      .sum_broadcast = SumBroadcast,
      .fill = Fill,
      .sum_of_squares = SumOfSquares,
      .adamw = AdamW,
      .sgd = Sgd,
  };
  return table;
}

}  // namespace swinfleet
