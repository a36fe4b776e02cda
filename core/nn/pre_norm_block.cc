#include "core/nn/block.h"

#include "kernels/profile.h"

namespace swinfleet {
namespace {

// SwinTransformerBlock of the official Swin V1, SwinTransformerBlock3D of Video Swin, and timm's
// vision_transformer.Block.
class PreNormBlock : public BlockBase {
 public:
  PreNormBlock(const BlockConfig& config, ParameterTable* table);
  TensorView Forward(const TensorView& x, const ForwardOptions& options, ParameterAccess& access,
                     Arena& activations, Context& context) override;
  void Backward(const TensorView& dy, ParameterAccess& access, Arena& activations,
                Context& context) override;

 private:
  // What a branch normalises: kept, or in the workspace when it is computed again.
  TensorView Normalised(bool keep, Arena& activations, Context& context) const;
  // norm(x) again, unless it was kept.
  TensorView NormalisedAgain(LayerNorm& norm, const AcquiredUnit& unit, const TensorView& x,
                             const TensorView& kept, Context& context) const;
  // The gradient of a branch: dy, or its scaled copy under drop path.
  TensorView BranchGradient(const TensorView& dy, const TensorView& scale, Context& context) const;

  LayerNorm norm1_;
  WindowAttention attention_;
  LayerNorm norm2_;
  Mlp mlp_;

  // Kept for backward.
  TensorView x_, x1_;                     // (M, C), before each branch
  TensorView normalised1_, normalised2_;  // (M, C); absent when computed again
  TensorView scale1_, scale2_;            // f32 (B) or absent
};

PreNormBlock::PreNormBlock(const BlockConfig& config, ParameterTable* table)
    : BlockBase(config, table),
      norm1_(config.name + ".norm1", config.attention.channels, config.layer_norm_eps, 1, table),
      attention_(config.attention, config.name + ".attn", table),
      norm2_(config.name + ".norm2", config.attention.channels, config.layer_norm_eps, 1, table),
      mlp_(config.name + ".mlp", config.attention.channels, config.hidden, selective(), table) {}

TensorView PreNormBlock::Normalised(bool keep, Arena& activations, Context& context) const {
  Arena& arena = keep && !selective() ? activations : *context.workspace;
  return arena.Allocate(x_.shape, x_.dtype);
}

TensorView PreNormBlock::Forward(const TensorView& x, const ForwardOptions& options,
                                 ParameterAccess& access, Arena& activations, Context& context) {
  const ProfileScope profile(context, config_.name);
  const AcquiredUnit unit(table_, access, unit_);
  const int64_t batch = x.shape[0], c = config_.attention.channels;
  const int64_t rows = x.NumElements() / c;
  const bool keep = options.keep_for_backward;
  const size_t mark = activations.Mark();
  const auto output = [&](const TensorView& in) {
    return keep ? activations.Allocate(in.shape, in.dtype) : in;
  };
  x_ = x.Reshape({rows, c});
  x1_ = output(x_);
  {
    ArenaScope scope(context.workspace);
    const TensorView branch = context.workspace->Allocate(x_.shape, x_.dtype);
    normalised1_ = Normalised(keep, activations, context);
    norm1_.Forward(unit, x_, normalised1_, {}, {}, activations, context);
    attention_.Forward(unit, normalised1_, branch, keep, activations, context);
    scale1_ = DropPathScale(options, 0, batch, activations);
    context.ops->residual_add({x_, branch, scale1_, x1_}, context);
  }
  const TensorView y = output(x1_);
  {
    ArenaScope scope(context.workspace);
    const TensorView branch = context.workspace->Allocate(x_.shape, x_.dtype);
    normalised2_ = Normalised(keep, activations, context);
    norm2_.Forward(unit, x1_, normalised2_, {}, {}, activations, context);
    mlp_.Forward(unit, normalised2_, branch, keep, activations, context);
    scale2_ = DropPathScale(options, 1, batch, activations);
    context.ops->residual_add({x1_, branch, scale2_, y}, context);
  }
  if (selective()) normalised1_ = normalised2_ = {};
  if (!keep) activations.Release(mark);
  if (options.capture) options.capture(config_.name, y.Reshape({batch, rows / batch, c}));
  return y.Reshape(x.shape);
}

TensorView PreNormBlock::NormalisedAgain(LayerNorm& norm, const AcquiredUnit& unit,
                                         const TensorView& x, const TensorView& kept,
                                         Context& context) const {
  if (!kept.empty()) return kept;
  const TensorView normalised = context.workspace->Allocate(x.shape, x.dtype);
  norm.ForwardAgain(unit, x, normalised, {}, {}, context);
  return normalised;
}

TensorView PreNormBlock::BranchGradient(const TensorView& dy, const TensorView& scale,
                                        Context& context) const {
  if (scale.empty()) return dy;
  const TensorView dbranch = context.workspace->Allocate(dy.shape, dy.dtype);
  context.ops->scale_rows({dy, scale, dbranch}, context);
  return dbranch;
}

void PreNormBlock::Backward(const TensorView& dy, ParameterAccess& access, Arena&,
                            Context& context) {
  const ProfileScope profile(context, config_.name);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView dx = dy.Reshape(x_.shape);
  {
    ArenaScope scope(context.workspace);
    const TensorView normalised = NormalisedAgain(norm2_, unit, x1_, normalised2_, context);
    const TensorView dbranch = BranchGradient(dx, scale2_, context);
    const TensorView dnormalised = context.workspace->Allocate(dx.shape, dx.dtype);
    mlp_.Backward(unit, gradient, normalised, dbranch, dnormalised, /*accumulate=*/false, context);
    norm2_.Backward(unit, gradient, x1_, {}, dnormalised, dx, /*accumulate=*/true, context);
  }
  {
    ArenaScope scope(context.workspace);
    const TensorView normalised = NormalisedAgain(norm1_, unit, x_, normalised1_, context);
    const TensorView dbranch = BranchGradient(dx, scale1_, context);
    const TensorView dnormalised = context.workspace->Allocate(dx.shape, dx.dtype);
    attention_.Backward(unit, gradient, normalised, dbranch, dnormalised, /*accumulate=*/false,
                        context);
    norm1_.Backward(unit, gradient, x_, {}, dnormalised, dx, /*accumulate=*/true, context);
  }
  access.GradientReady(unit_);
}

}  // namespace

std::unique_ptr<Block> MakePreNormBlock(const BlockConfig& config, ParameterTable* table) {
  return std::make_unique<PreNormBlock>(config, table);
}

}  // namespace swinfleet
