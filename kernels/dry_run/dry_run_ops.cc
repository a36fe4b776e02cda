// The dry run: every operation takes its scratch and counts its work, and touches nothing.
#include "kernels/cpu/scratch.h"
#include "kernels/cuda/launch_counts.h"
#include "kernels/cuda/scratch.h"
#include "kernels/op_entries.h"
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

double Product(const TensorView& a, const TensorView& b) {
  return 2.0 * static_cast<double>(a.shape[0]) * static_cast<double>(b.NumElements());
}

void CountOf(const LinearForwardArgs& a, Context& c) {
  Count(c, Product(a.x, a.weight), {&a.x, &a.weight, &a.bias, &a.y});
}

void CountOf(const LinearBackwardInputArgs& a, Context& c) {
  Count(c, Product(a.dy, a.weight), {&a.dy, &a.weight, &a.dx});
}

void CountOf(const LinearBackwardWeightArgs& a, Context& c) {
  Count(c, Product(a.dy, a.dweight), {&a.dy, &a.x, &a.dweight, &a.dbias});
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

void CountOf(const WindowAttentionBackwardArgs& a, Context& c) {
  // Scores again, then the gradients of the weights, v, q and k.
  Count(c, 5 * AttentionProduct(a.geometry, a.range, a.exclude_padding, a.qkv),
        {&a.qkv, &a.bias, &a.lse, &a.dout, &a.dqkv, &a.dbias});
}

void CountOf(const WindowGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void CountOf(const WindowScatterArgs& a, Context& c) {
  Count(c, 0, {&a.rows, &a.rows});
  // What is added to is read too.
  if (a.accumulate && c.count != nullptr) c.count->bytes += static_cast<double>(a.rows.Bytes());
}

// The products are those of the second layer.
void CountOf(const PositionTableForwardArgs& a, Context& c) {
  Count(c, Product(a.coords, a.w2), {&a.coords, &a.w1, &a.b1, &a.w2, &a.table});
}

void CountOf(const PositionTableBackwardArgs& a, Context& c) {
  Count(c, 3 * Product(a.coords, a.w2),
        {&a.coords, &a.w1, &a.b1, &a.w2, &a.dtable, &a.dw1, &a.db1, &a.dw2});
}

void CountOf(const BiasGatherArgs& a, Context& c) {
  Count(c, 0, {&a.table, &a.index, &a.mask, &a.bias});
}
void CountOf(const BiasScatterArgs& a, Context& c) {
  Count(c, 0, {&a.dbias, &a.index, &a.dtable, &a.dtable});
}

void CountOf(const LayerNormForwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.gamma, &a.beta, &a.residual, &a.y, &a.mean, &a.rstd});
}

void CountOf(const LayerNormBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.gamma, &a.mean, &a.rstd, &a.dy, &a.dx});
  if (a.accumulate && c.count != nullptr) c.count->bytes += static_cast<double>(a.dx.Bytes());
}

void CountOf(const ResidualAddArgs& a, Context& c) { Count(c, 0, {&a.x, &a.branch, &a.y}); }
void CountOf(const ScaleRowsArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const GeluForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const GeluBackwardArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.dy, &a.dx, &a.y, &a.dbias});
}
void CountOf(const PatchGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void CountOf(const PatchScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
// The first tensor is of the call's dtype.
void CountOf(const PatchEmbeddingForwardArgs& a, Context& c) {
  Count(c, Product(a.y, a.weight), {&a.y, &a.image, &a.weight, &a.bias});
}
void CountOf(const PatchEmbeddingBackwardArgs& a, Context& c) {
  const double product = Product(a.dy, a.dweight);
  if (a.dimage.empty()) return Count(c, product, {&a.dy, &a.image, &a.dweight, &a.dbias});
  Count(c, 2 * product, {&a.dy, &a.image, &a.weight, &a.dweight, &a.dbias, &a.dimage});
}
void CountOf(const MergeGatherArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void CountOf(const MergeScatterArgs& a, Context& c) { Count(c, 0, {&a.rows, &a.rows}); }
void CountOf(const PadArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const TokenGatherArgs& a, Context& c) { Count(c, 0, {&a.y, &a.index, &a.y}); }
void CountOf(const TokenScatterArgs& a, Context& c) { Count(c, 0, {&a.y, &a.index, &a.y}); }
void CountOf(const CastArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const MeanPoolForwardArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const MeanPoolBackwardArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void CountOf(const CrossEntropyArgs& a, Context& c) {
  Count(c, 0, {&a.logits, &a.target, &a.dlogits});
}
void CountOf(const MaskTokensForwardArgs& a, Context& c) { Count(c, 0, {&a.mask, &a.x}); }
void CountOf(const MaskTokensBackwardArgs& a, Context& c) { Count(c, 0, {&a.mask, &a.dx}); }
void CountOf(const MaskedL1Args& a, Context& c) {
  Count(c, 0, {&a.prediction, &a.target, &a.mask, &a.dprediction});
}
void CountOf(const MaskedMseArgs& a, Context& c) {
  Count(c, 0, {&a.prediction, &a.target, &a.mask, &a.dprediction});
}
void CountOf(const NormTargetsArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y}); }
void CountOf(const PatchTargetsArgs& a, Context& c) { Count(c, 0, {&a.image, &a.y}); }
void CountOf(const MixPicturesArgs& a, Context& c) { Count(c, 0, {&a.image, &a.image}); }
void CountOf(const AddArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void CountOf(const AddBroadcastArgs& a, Context& c) { Count(c, 0, {&a.x, &a.y, &a.y}); }
void CountOf(const SumBroadcastArgs& a, Context& c) { Count(c, 0, {&a.dy, &a.dx}); }
void CountOf(const FillArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void CountOf(const SumOfSquaresArgs& a, Context& c) { Count(c, 0, {&a.x}); }
void CountOf(const AdamWArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.m, &a.m, &a.v, &a.v, &a.master, &a.master});
}
void CountOf(const SgdArgs& a, Context& c) {
  Count(c, 0, {&a.param, &a.param, &a.grad, &a.momentum, &a.momentum, &a.master, &a.master});
}

void CountOf(const AddCompensatedArgs& a, Context& c) {
  Count(c, 0, {&a.x, &a.sum, &a.sum, &a.error, &a.error});
}

// Of operations that take scratch, takes it and gives it back.
template <typename Args>
void RunDry(const Args& args, Context& context) {
  if constexpr (requires { TakeScratch(args, context); }) {
    ArenaScope scope(context.workspace);
    TakeScratch(args, context);
  }
  CountOf(args, context);
}

// The same for the CUDA backend, with the kernels that it starts.
template <typename Args>
void RunDryOnCuda(const Args& args, Context& context) {
  if constexpr (requires { cuda::TakeScratch(args, context); }) {
    ArenaScope scope(context.workspace);
    cuda::TakeScratch(args, context);
  }
  CountOf(args, context);
  if (context.count != nullptr) context.count->launches += cuda::LaunchesOf(args);
}

}  // namespace

const OpTable& DryRunOps() {
  static const OpTable table = [] {
    OpTable ops;
    std::apply([&ops](const auto&... entries) { ((ops.*entries.function = RunDry), ...); },
               kOpEntries);
    return ops;
  }();
  return table;
}

const OpTable& CudaDryRunOps() {
  static const OpTable table = [] {
    OpTable ops;
    std::apply([&ops](const auto&... entries) { ((ops.*entries.function = RunDryOnCuda), ...); },
               kOpEntries);
    return ops;
  }();
  return table;
}

}  // namespace swinfleet
