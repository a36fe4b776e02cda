#include <functional>

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
  using Branch = std::function<void(const TensorView& rows)>;  // in place
  // sum = in + scale branch(norm(in)), and in for the pictures that the branch is not computed for.
  void AddBranch(const AcquiredUnit& unit, const KeptPictures& kept, LayerNorm& norm,
                 const Branch& branch, const TensorView& in, const TensorView& sum,
                 Arena& activations, Context& context);
  // The gradient of a branch: dy, or its scaled copy under drop path.
  TensorView BranchGradient(const TensorView& dy, const TensorView& scale, Context& context) const;

  LayerNorm norm1_;
  WindowAttention attention_;
  LayerNorm norm2_;
  Mlp mlp_;

  // Kept for backward.
  TensorView x_, x1_, y_;  // (M, C), before, between and after the branches
  KeptPictures kept1_, kept2_;
};

PreNormBlock::PreNormBlock(const BlockConfig& config, ParameterTable* table)
    : BlockBase(config, table),
      norm1_(config.name + ".norm1", config.attention.channels, config.layer_norm_eps, 1, table),
      attention_(config.attention, config.name + ".attn", table),
      norm2_(config.name + ".norm2", config.attention.channels, config.layer_norm_eps, 1, table),
      mlp_(config.name + ".mlp", config.attention.channels, config.hidden, selective(), table) {}

void PreNormBlock::AddBranch(const AcquiredUnit& unit, const KeptPictures& kept, LayerNorm& norm,
                             const Branch& branch, const TensorView& in, const TensorView& sum,
                             Arena& activations, Context& context) {
  ArenaScope scope(context.workspace);
  const TensorView residual = Gather(kept, in, context);
  // The branch works where the sum will be, unless that is the residual itself.
  const bool apart = !kept.all() || sum.data == in.data;
  const TensorView rows = apart ? context.workspace->Allocate(residual.shape, residual.dtype) : sum;
  norm.Forward(unit, residual, rows, {}, {}, activations, context);
  branch(rows);
  const TensorView kept_sum = kept.all() ? sum : residual;
  context.ops->residual_add({residual, rows, kept.scale, kept_sum}, context);
  Replace(kept, kept_sum, in, sum, context);
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
  kept1_ = Keep(options, 0, batch, activations, context);
  AddBranch(
      unit, kept1_, norm1_,
      [&](const TensorView& rows) {
        attention_.Forward(unit, rows, rows, keep, activations, context);
      },
      x_, x1_, activations, context);
  y_ = output(x1_);
  kept2_ = Keep(options, 1, batch, activations, context);
  AddBranch(
      unit, kept2_, norm2_,
      [&](const TensorView& rows) { mlp_.Forward(unit, rows, rows, keep, activations, context); },
      x1_, y_, activations, context);
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
    const TensorView in = Gather(kept2_, x1_, context), dsum = Gather(kept2_, dx, context);
    const TensorView branch = y_.Rows(0, in.shape[0]);
    norm2_.ForwardAgain(unit, in, branch, {}, {}, context);
    const TensorView dbranch = BranchGradient(dsum, kept2_.scale, context);
    mlp_.Backward(unit, gradient, branch, dbranch, branch, /*accumulate=*/false, context);
    norm2_.Backward(unit, gradient, in, {}, branch, dsum, /*accumulate=*/true, context);
    Scatter(kept2_, dsum, dx, context);
  }
  {
    ArenaScope scope(context.workspace);
    const TensorView in = Gather(kept1_, x_, context), dsum = Gather(kept1_, dx, context);
    const TensorView normalised = x1_.Rows(0, in.shape[0]), dnormalised = y_.Rows(0, in.shape[0]);
    norm1_.ForwardAgain(unit, in, normalised, {}, {}, context);
    const TensorView dbranch = BranchGradient(dsum, kept1_.scale, context);
    attention_.Backward(unit, gradient, normalised, dbranch, dnormalised, /*accumulate=*/false,
                        context);
    norm1_.Backward(unit, gradient, in, {}, dnormalised, dsum, /*accumulate=*/true, context);
    Scatter(kept1_, dsum, dx, context);
  }
  access.GradientReady(unit_);
}

}  // namespace

std::unique_ptr<Block> MakePreNormBlock(const BlockConfig& config, ParameterTable* table) {
  return std::make_unique<PreNormBlock>(config, table);
}

}  // namespace swinfleet
