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

  // Kept for backward.
  TensorView x_;                // (M, C)
  TensorView attended_;         // (M, C), what attention returned
  TensorView mlp_out_;          // (M, C)
  TensorView x2_;               // (M, C), after both branches
  TensorView scale1_, scale2_;  // f32 (B) or absent
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

  attended_ = allocate();
  attention_.Forward(unit, x_, attended_, keep, activations, context);
  scale1_ = DropPathScale(options, 0, batch, activations, context);
  // x1, the sum after the first branch, lives where x2 will be: backward computes it again.
  x2_ = keep ? allocate() : x_;
  norm1_.Forward(unit, attended_, x2_, x_, scale1_, activations, context);

  mlp_out_ = allocate();
  mlp_.Forward(unit, x2_, mlp_out_, keep, activations, context);
  scale2_ = DropPathScale(options, 1, batch, activations, context);
  norm2_.Forward(unit, mlp_out_, x2_, x2_, scale2_, activations, context);
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
  norm1_.ForwardAgain(unit, attended_, x1, x_, scale1_, context);
  const TensorView dmlp_out = mlp_out_;
  norm2_.Backward(unit, gradient, mlp_out_, scale2_, dy, dmlp_out, /*accumulate=*/false, context);
  // The residual's gradient is in dy already.
  mlp_.Backward(unit, gradient, x1, dmlp_out, dy, /*accumulate=*/true, context);
}

void PostNormBlock::AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                      const TensorView& dy, Context& context) {
  const TensorView dattended = attended_;
  norm1_.Backward(unit, gradient, attended_, scale1_, dy, dattended, /*accumulate=*/false, context);
  attention_.Backward(unit, gradient, x_, dattended, dy, /*accumulate=*/true, context);
}

}  // namespace

std::unique_ptr<Block> MakePostNormBlock(const BlockConfig& config, ParameterTable* table) {
  return std::make_unique<PostNormBlock>(config, table);
}

}  // namespace swinfleet
