#include "core/nn/block.h"

#include "kernels/profile.h"

namespace swinfleet {
namespace {

// SwinTransformerBlock of the official Swin V2, with the paper's additional normalisation of the
// main branch (timm's norm3) where the configuration asks for it.
class PostNormBlock : public BlockBase {
 public:
  PostNormBlock(const BlockConfig& config, ParameterTable* table);
  TensorView Forward(const TensorView& x, const ForwardOptions& options, ParameterAccess& access,
                     Arena& activations, Context& context) override;
  void Backward(const TensorView& dy, ParameterAccess& access, Arena& activations,
                Context& context) override;

 private:
  // Both turn dy (M, C), the gradient of a branch's sum, into that of its input.
  void MlpBackward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& dy,
                   Context& context);
  void AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& dy,
                         Context& context);

  WindowAttention attention_;
  // Both gains start as zero, so that the block starts as the identity.
  LayerNorm norm1_;
  Mlp mlp_;
  LayerNorm norm2_;
  std::optional<LayerNorm> norm3_;

  // Kept for backward. The branches' rows are those of the pictures that they are computed for.
  TensorView x_;         // (M, C)
  TensorView attended_;  // (M', C), what attention returned
  TensorView mlp_out_;   // (M', C)
  TensorView x2_;        // (M, C), after both branches
  KeptPictures kept1_, kept2_;
};

PostNormBlock::PostNormBlock(const BlockConfig& config, ParameterTable* table)
    : BlockBase(config, table),
      attention_(config.attention, config.name + ".attn", table),
      norm1_(config.name + ".norm1", config.attention.channels, config.layer_norm_eps, 0, table),
      mlp_(config.name + ".mlp", config.attention.channels, config.hidden, selective(), table),
      norm2_(config.name + ".norm2", config.attention.channels, config.layer_norm_eps, 0, table) {
  if (config.extra_norm) {
    norm3_.emplace(config.name + ".norm3", config.attention.channels, config.layer_norm_eps, 1,
                   table);
  }
}

TensorView PostNormBlock::Forward(const TensorView& x, const ForwardOptions& options,
                                  ParameterAccess& access, Arena& activations, Context& context) {
  const ProfileScope profile(context, config_.name);
  const AcquiredUnit unit(table_, access, unit_);
  const int64_t batch = x.shape[0], c = config_.attention.channels;
  const int64_t rows = x.NumElements() / c;
  const bool keep = options.keep_for_backward;
  const size_t mark = activations.Mark();
  const auto allocate = [&] { return activations.Allocate({rows, c}, x.dtype); };
  x_ = x.Reshape({rows, c});

  // x1, the sum after the first branch, lives where x2 will be: backward computes it again.
  x2_ = keep ? allocate() : x_;
  kept1_ = Keep(options, 0, batch, activations, context);
  {
    ArenaScope scope(context.workspace);
    const TensorView in = Gather(kept1_, x_, context);
    attended_ = activations.Allocate(in.shape, x.dtype);
    attention_.Forward(unit, in, attended_, keep, activations, context);
    const TensorView sum = kept1_.all() ? x2_ : in;
    norm1_.Forward(unit, attended_, sum, in, kept1_.scale, activations, context);
    Replace(kept1_, sum, x_, x2_, context);
  }
  kept2_ = Keep(options, 1, batch, activations, context);
  {
    ArenaScope scope(context.workspace);
    const TensorView in = Gather(kept2_, x2_, context);
    mlp_out_ = activations.Allocate(in.shape, x.dtype);
    mlp_.Forward(unit, in, mlp_out_, keep, activations, context);
    norm2_.Forward(unit, mlp_out_, in, in, kept2_.scale, activations, context);
    Replace(kept2_, in, x2_, x2_, context);
  }
  TensorView y = x2_;
  if (norm3_) {
    if (keep) y = allocate();
    norm3_->Forward(unit, x2_, y, {}, {}, activations, context);
  }
  if (!keep) activations.Release(mark);
  if (options.capture) options.capture(config_.name, y.Reshape({batch, rows / batch, c}));
  return y.Reshape(x.shape);
}

void PostNormBlock::Backward(const TensorView& dy, ParameterAccess& access, Arena&,
                             Context& context) {
  const ProfileScope profile(context, config_.name);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView dx = dy.Reshape(x_.shape);
  if (norm3_) norm3_->Backward(unit, gradient, x2_, {}, dx, dx, /*accumulate=*/false, context);
  MlpBackward(unit, gradient, dx, context);
  AttentionBackward(unit, gradient, dx, context);
  access.GradientReady(unit_);
}

void PostNormBlock::MlpBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                const TensorView& dy, Context& context) {
  // Nobody needs x2 any more: not norm3, nor, as the block's result, what came after it.
  const TensorView x1 = x2_;
  {
    ArenaScope scope(context.workspace);
    const TensorView in = Gather(kept1_, x_, context);
    const TensorView sum = kept1_.all() ? x1 : in;
    norm1_.ForwardAgain(unit, attended_, sum, in, kept1_.scale, context);
    Replace(kept1_, sum, x_, x1, context);
  }
  ArenaScope scope(context.workspace);
  const TensorView in = Gather(kept2_, x1, context), dsum = Gather(kept2_, dy, context);
  const TensorView dmlp_out = mlp_out_;
  norm2_.Backward(unit, gradient, mlp_out_, kept2_.scale, dsum, dmlp_out, /*accumulate=*/false,
                  context);
  // The residual's gradient is in dsum already.
  mlp_.Backward(unit, gradient, in, dmlp_out, dsum, /*accumulate=*/true, context);
  Scatter(kept2_, dsum, dy, context);
}

void PostNormBlock::AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                      const TensorView& dy, Context& context) {
  ArenaScope scope(context.workspace);
  const TensorView in = Gather(kept1_, x_, context), dsum = Gather(kept1_, dy, context);
  const TensorView dattended = attended_;
  norm1_.Backward(unit, gradient, attended_, kept1_.scale, dsum, dattended, /*accumulate=*/false,
                  context);
  attention_.Backward(unit, gradient, in, dattended, dsum, /*accumulate=*/true, context);
  Scatter(kept1_, dsum, dy, context);
}

}  // namespace

std::unique_ptr<Block> MakePostNormBlock(const BlockConfig& config, ParameterTable* table) {
  return std::make_unique<PostNormBlock>(config, table);
}

}  // namespace swinfleet
