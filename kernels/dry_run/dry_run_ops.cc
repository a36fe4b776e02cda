// The dry run: every operation takes its scratch and counts its work, and touches nothing.
#include "kernels/cpu/scratch.h"
#include "kernels/cuda/scratch.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

void Count(Context& context, double matrix_flops,
           std::initializer_list<const TensorView*> tensors) {
  if (context.count == nullptr) return;
  context.count->matrix_flops += matrix_flops;
  context.count->calls += 1;
  for (const TensorView* tensor : tensors) {
    if (tensor->empty()) continue;
    context.count->bytes += static_cast<double>(tensor->Bytes());
    if (context.count->tensors != nullptr) context.count->tensors->push_back(*tensor);
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

void CountOf(const LinearForwardArgs& a, Context& c) {
  Count(c, Product(a.x, a.weight), {&a.x, &a.weight, &a.bias, &a.y});
}
void LinearForward(const LinearForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void CountOf(const LinearBackwardInputArgs& a, Context& c) {
  Count(c, Product(a.dy, a.weight), {&a.dy, &a.weight, &a.dx});
}
void LinearBackwardInput(const LinearBackwardInputArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void CountOf(const LinearBackwardWeightArgs& a, Context& c) {
  Count(c, Product(a.dy, a.dweight), {&a.dy, &a.x, &a.dweight, &a.dbias});
}
void LinearBackwardWeight(const LinearBackwardWeightArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

// Of one product of all windows' scores with vectors: for each window, its tokens that attend times
// themselves.
double AttentionProduct(const WindowGeometry& g, const WindowRange& range, bool exclude_padding,
                        const TensorView& qkv) {
  const double channels = static_cast<double>(qkv.shape[qkv.shape.rank() - 1]) / 3;
  const int64_t windows = range.count > 0 ? range.count : g.WindowsPerPicture();
  double pairs = 0;
  for (int64_t i = 0; i < windows; ++i) {
    double tokens = static_cast<double>(g.WindowTokens());
    for (int64_t t = 0; exclude_padding && g.HasPadding() && t < g.WindowTokens(); ++t) {
      if (g.TokenAt((range.first + i) % g.WindowsPerPicture(), t) < 0) tokens -= 1;
    }
    pairs += tokens * tokens;
  }
  if (range.count == 0) pairs *= static_cast<double>(g.batch);
  return 2 * pairs * channels;
}

void CountOf(const WindowAttentionForwardArgs& a, Context& c) {
  Count(c, 2 * AttentionProduct(a.geometry, a.range, a.exclude_padding, a.qkv),
        {&a.qkv, &a.bias, &a.out, &a.lse});
}

void WindowAttentionForward(const WindowAttentionForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void CountOf(const WindowAttentionBackwardArgs& a, Context& c) {
  // Scores again, then the gradients of the weights, v, q and k.
  Count(c, 5 * AttentionProduct(a.geometry, a.range, a.exclude_padding, a.qkv),
        {&a.qkv, &a.bias, &a.lse, &a.dout, &a.dqkv, &a.dbias});
}
void WindowAttentionBackward(const WindowAttentionBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void WindowGather(const WindowGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void WindowScatter(const WindowScatterArgs& a, Context& c) {
  Count(c, 0, {&a.rows, &a.rows});
  // What is added to is read too.
  if (a.accumulate && c.count != nullptr) c.count->bytes += static_cast<double>(a.rows.Bytes());
}

// The products are those of the second layer.
void CountOf(const PositionTableForwardArgs& a, Context& c) {
  Count(c, Product(a.coords, a.w2), {&a.coords, &a.w1, &a.b1, &a.w2, &a.table});
}
void PositionTableForward(const PositionTableForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void CountOf(const PositionTableBackwardArgs& a, Context& c) {
  Count(c, 3 * Product(a.coords, a.w2),
        {&a.coords, &a.w1, &a.b1, &a.w2, &a.dtable, &a.dw1, &a.db1, &a.dw2});
}
void PositionTableBackward(const PositionTableBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void CountOf(const BiasGatherArgs& a, Context& c) {
  Count(c, 0, {&a.table, &a.index, &a.mask, &a.bias});
}
void BiasGather(const BiasGatherArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void CountOf(const BiasScatterArgs& a, Context& c) {
  Count(c, 0, {&a.dbias, &a.index, &a.dtable, &a.dtable});
}
void BiasScatter(const BiasScatterArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void LayerNormForward(const LayerNormForwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.gamma, &a.beta, &a.residual, &a.y, &a.mean, &a.rstd});
}

void CountOf(const LayerNormBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.gamma, &a.mean, &a.rstd, &a.dy, &a.dx});
  if (a.accumulate && c.count != nullptr) c.count->bytes += static_cast<double>(a.dx.Bytes());
}
void LayerNormBackward(const LayerNormBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

void ResidualAdd(const ResidualAddArgs& a, Context& c) { Count(c, 0, {&a.x, &a.branch, &a.y}); }
void ScaleRows(const ScaleRowsArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void GeluForward(const GeluForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const GeluBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.dy, &a.dx, &a.y, &a.dbias});
}
void GeluBackward(const GeluBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void PatchGather(const PatchGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void PatchScatter(const PatchScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void MergeGather(const MergeGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void MergeScatter(const MergeScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void Pad(const PadArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void TokenGather(const TokenGatherArgs& a, Context& c) { Count(c, 0, {&a.y, &a.index, &a.y}); }
void TokenScatter(const TokenScatterArgs& a, Context& c) { Count(c, 0, {&a.y, &a.index, &a.y}); }
void Cast(const CastArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void MeanPoolForward(const MeanPoolForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void MeanPoolBackward(const MeanPoolBackwardArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void CrossEntropy(const CrossEntropyArgs& a, Context& c) {
  Count(c, 0, {&a.logits, &a.target, &a.dlogits});
}
void MaskTokensForward(const MaskTokensForwardArgs& a, Context& c) { Count(c, 0, {&a.mask, &a.x}); }
void MaskTokensBackward(const MaskTokensBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.mask, &a.dx});
}
void MaskedL1(const MaskedL1Args& a, Context& c) {
  Count(c, 0, {&a.prediction, &a.target, &a.mask, &a.dprediction});
}
void MaskedMse(const MaskedMseArgs& a, Context& c) {
  Count(c, 0, {&a.prediction, &a.target, &a.mask, &a.dprediction});
}
void NormTargets(const NormTargetsArgs& a, Context& c) {
  TouchScratch(a, c);
  Count(c, 0, {&a.x, &a.y});
}
void PatchTargets(const PatchTargetsArgs& a, Context& c) { Count(c, 0, {&a.image, &a.y}); }
void Add(const AddArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void AddBroadcast(const AddBroadcastArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void SumBroadcast(const SumBroadcastArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void Fill(const FillArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void SumOfSquares(const SumOfSquaresArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void AdamW(const AdamWArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.m, &a.m, &a.v, &a.v, &a.master, &a.master});
}
void Sgd(const SgdArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.momentum, &a.momentum, &a.master, &a.master});
}

void AddCompensated(const AddCompensatedArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.sum, &a.sum, &a.error, &a.error});
}

// What the CUDA backend does with other scratch.
namespace on_cuda {

template <typename Args>
void TouchScratch(const Args& args, Context& context) {
  ArenaScope scope(context.workspace);
  cuda::TakeScratch(args, context);
}

void LinearForward(const LinearForwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void LinearBackwardInput(const LinearBackwardInputArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void LinearBackwardWeight(const LinearBackwardWeightArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void WindowAttentionForward(const WindowAttentionForwardArgs& a, Context& c) { CountOf(a, c); }
void WindowAttentionBackward(const WindowAttentionBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void BiasGather(const BiasGatherArgs& a, Context& c) { CountOf(a, c); }
void BiasScatter(const BiasScatterArgs& a, Context& c) { CountOf(a, c); }
void LayerNormBackward(const LayerNormBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void GeluBackward(const GeluBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}
void SumOfSquares(const SumOfSquaresArgs& a, Context& c) {
  TouchScratch(a, c);
  swinfleet::SumOfSquares(a, c);
}
void NormTargets(const NormTargetsArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void PositionTableForward(const PositionTableForwardArgs& a, Context& c) { CountOf(a, c); }
void PositionTableBackward(const PositionTableBackwardArgs& a, Context& c) {
  TouchScratch(a, c);
  CountOf(a, c);
}

}  // namespace on_cuda

}  // namespace

const OpTable& DryRunOps() {
  static const OpTable table = {
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
      .add = Add,
      .add_broadcast = AddBroadcast,
      .sum_broadcast = SumBroadcast,
      .fill = Fill,
      .sum_of_squares = SumOfSquares,
      .adamw = AdamW,
      .sgd = Sgd,
      .add_compensated = AddCompensated,
  };
  return table;
}

const OpTable& CudaDryRunOps() {
  static const OpTable table = [] {
    OpTable ops = DryRunOps();
    ops.linear_forward = on_cuda::LinearForward;
    ops.linear_backward_input = on_cuda::LinearBackwardInput;
    ops.linear_backward_weight = on_cuda::LinearBackwardWeight;
    ops.window_attention_forward = on_cuda::WindowAttentionForward;
    ops.window_attention_backward = on_cuda::WindowAttentionBackward;
    ops.position_table_forward = on_cuda::PositionTableForward;
    ops.position_table_backward = on_cuda::PositionTableBackward;
    ops.bias_gather = on_cuda::BiasGather;
    ops.bias_scatter = on_cuda::BiasScatter;
    ops.layer_norm_backward = on_cuda::LayerNormBackward;
    ops.gelu_backward = on_cuda::GeluBackward;
    ops.norm_targets = on_cuda::NormTargets;
    ops.sum_of_squares = on_cuda::SumOfSquares;
    return ops;
  }();
  return table;
}

}  // namespace swinfleet
