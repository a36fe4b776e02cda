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
  // Where a branch works whose sum goes to `sum`: there, unless that is the residual itself.
  static TensorView BranchOf(const TensorView& sum, bool keep, Context& context);
  // The gradient of a branch: dy, or its scaled copy under drop path.
  TensorView BranchGradient(const TensorView& dy, const TensorView& scale, Context& context) const;

  LayerNorm norm1_;
  WindowAttention attention_;
  LayerNorm norm2_;
  Mlp mlp_;

  // Kept for backward.
  TensorView x_, x1_, y_;       // (M, C), before, between and after the branches
  TensorView scale1_, scale2_;  // f32 (B) or absent
};

PreNormBlock::PreNormBlock(const BlockConfig& config, ParameterTable* table)
    : BlockBase(config, table),
      norm1_(config.name + ".norm1", config.attention.channels, config.layer_norm_eps, 1, table),
      attention_(config.attention, config.name + ".attn", table),
      norm2_(config.name + ".norm2", config.attention.channels, config.layer_norm_eps, 1, table),
      mlp_(config.name + ".mlp", config.attention.channels, config.hidden, selective(), table) {}

TensorView PreNormBlock::BranchOf(const TensorView& sum, bool keep, Context& context) {
  return keep ? sum : context.workspace->Allocate(sum.shape, sum.dtype);
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
    const TensorView branch = BranchOf(x1_, keep, context);
    norm1_.Forward(unit, x_, branch, {}, {}, activations, context);
    attention_.Forward(unit, branch, branch, keep, activations, context);
    scale1_ = DropPathScale(options, 0, batch, activations, context);
    context.ops->residual_add({x_, branch, scale1_, x1_}, context);
  }
  y_ = output(x1_);
  {
    ArenaScope scope(context.workspace);
    const TensorView branch = BranchOf(y_, keep, context);
    norm2_.Forward(unit, x1_, branch, {}, {}, activations, context);
    mlp_.Forward(unit, branch, branch, keep, activations, context);
    scale2_ = DropPathScale(options, 1, batch, activations, context);
    context.ops->residual_add({x1_, branch, scale2_, y_}, context);
  }
  if (!keep) activations.Release(mark);
  if (options.capture) options.capture(config_.name, y_.Reshape({batch, rows / batch, c}));
  return y_.Reshape(x.shape);
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
  // What the branches take is computed again, into what nobody needs any more: first the block's
  // result, then the sum after the first branch too.
  {
    ArenaScope scope(context.workspace);
    const TensorView branch = y_;
    norm2_.ForwardAgain(unit, x1_, branch, {}, {}, context);
    const TensorView dbranch = BranchGradient(dx, scale2_, context);
    mlp_.Backward(unit, gradient, branch, dbranch, branch, /*accumulate=*/false, context);
    norm2_.Backward(unit, gradient, x1_, {}, branch, dx, /*accumulate=*/true, context);
  }
  {
    ArenaScope scope(context.workspace);
    const TensorView normalised = x1_, dnormalised = y_;
    norm1_.ForwardAgain(unit, x_, normalised, {}, {}, context);
    const TensorView dbranch = BranchGradient(dx, scale1_, context);
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
