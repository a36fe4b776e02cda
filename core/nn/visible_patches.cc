#include "core/nn/visible_patches.h"

#include <cmath>

#include "kernels/profile.h"

namespace swinfleet {

VisiblePatches::VisiblePatches(const ModelConfig& model, const std::string& prefix,
                               ParameterTable* table)
    : model_(model),
      name_(prefix + "patch_embed"),
      width_(model.in_chans * model.patch_size * model.patch_size),
      table_(*table),
      unit_(table->BeginUnit(name_)) {
  const int64_t c = model.embed_dim, p = model.patch_size;
  // As PatchEmbedding starts.
  const double bound = 1.0 / std::sqrt(static_cast<double>(width_));
  const Initializer uniform = {Initializer::Kind::kUniform, bound};
  if (model.ape) {
    position_ = table->Add(prefix + "absolute_pos_embed", {1, model.StageTokens(0), c},
                           {Initializer::Kind::kTruncatedNormal, 0.02});
  }
  weight_ = table->Add(name_ + ".proj.weight", {c, model.in_chans, p, p}, uniform);
  bias_ = table->Add(name_ + ".proj.bias", {c}, uniform);
  if (model.patch_norm) norm_.emplace(name_ + ".norm", c, model.layer_norm_eps, 1, table);
}

TensorView VisiblePatches::VisibleOf(int64_t picture) const {
  return visible_.shape[0] == 1 ? visible_ : visible_.Rows(picture, 1);
}

TensorView VisiblePatches::Pixels(DType dtype, Context& context) const {
  const int64_t batch = image_.shape[0], visible = visible_.shape[1], all = model_.StageTokens(0);
  const TensorView pixels = context.workspace->Allocate({batch, visible, width_}, dtype);
  ArenaScope scope(context.workspace);
  const TensorView patches = context.workspace->Allocate({all, width_}, dtype);
  for (int64_t b = 0; b < batch; ++b) {
    context.ops->patch_gather({.image = image_.Rows(b, 1),
                               .patch_h = model_.patch_size,
                               .patch_w = model_.patch_size,
                               .first_row = 0,
                               .rows = patches,
                               .patch_t = 1},
                              context);
    context.ops->token_gather({patches.Reshape({1, all, width_}), VisibleOf(b), pixels.Rows(b, 1)},
                              context);
  }
  return pixels.Reshape({batch * visible, width_});
}

void VisiblePatches::PixelsBackward(const TensorView& dpixels, const TensorView& dimage,
                                    Context& context) const {
  const int64_t batch = image_.shape[0], visible = visible_.shape[1], all = model_.StageTokens(0);
  ArenaScope scope(context.workspace);
  const TensorView dpatches = context.workspace->Allocate({all, width_}, dpixels.dtype);
  for (int64_t b = 0; b < batch; ++b) {
    context.ops->fill({dpatches, 0}, context);
    context.ops->token_scatter({dpixels.Reshape({batch, visible, width_}).Rows(b, 1), VisibleOf(b),
                                dpatches.Reshape({1, all, width_}), /*accumulate=*/false},
                               context);
    context.ops->patch_scatter({.rows = dpatches,
                                .patch_h = model_.patch_size,
                                .patch_w = model_.patch_size,
                                .first_row = 0,
                                .image = dimage.Rows(b, 1),
                                .patch_t = 1},
                               context);
  }
}

void VisiblePatches::AddPositions(const AcquiredUnit& unit, const TensorView& x,
                                  Context& context) const {
  CHECK_EQ(visible_.shape[0], 1) << "positions of each picture's own patches";
  ArenaScope scope(context.workspace);
  const int64_t batch = x.shape[0], values = x.shape[1] * x.shape[2];
  const TensorView positions = context.workspace->Allocate({1, x.shape[1], x.shape[2]}, x.dtype);
  context.ops->token_gather({unit[position_], visible_, positions}, context);
  context.ops->add_broadcast({positions.Reshape({values}), x.Reshape({batch, values})}, context);
}

void VisiblePatches::PositionsBackward(const TensorView& dy, const TensorView& dposition,
                                       Context& context) const {
  ArenaScope scope(context.workspace);
  const int64_t batch = dy.shape[0], values = dy.shape[1] * dy.shape[2];
  const TensorView sums = context.workspace->Allocate({1, dy.shape[1], dy.shape[2]});
  context.ops->fill({sums, 0}, context);
  context.ops->sum_broadcast({dy.Reshape({batch, values}), sums.Reshape({values})}, context);
  context.ops->token_scatter({sums, visible_, dposition, /*accumulate=*/true}, context);
}

TensorView VisiblePatches::Forward(const TensorView& image, const TensorView& visible,
                                   const ForwardOptions& options, ParameterAccess& access,
                                   Arena& activations, Context& context) {
  const ProfileScope profile(context, table_.units()[unit_].name);
  const AcquiredUnit unit(table_, access, unit_);
  image_ = image;
  visible_ = visible;
  const int64_t batch = image.shape[0], c = model_.embed_dim, rows = batch * visible.shape[1];
  projected_ = activations.Allocate({rows, c}, options.dtype);
  {
    ArenaScope scope(context.workspace);
    const TensorView pixels = Pixels(options.dtype, context);
    context.ops->linear_forward(
        {pixels, unit[weight_].Reshape({c, width_}), unit[bias_], projected_}, context);
  }
  TensorView y = projected_;
  if (norm_) {
    if (options.keep_for_backward) y = activations.Allocate({rows, c}, options.dtype);
    norm_->Forward(unit, projected_, y, {}, {}, activations, context);
  }
  y = y.Reshape({batch, visible.shape[1], c});
  if (options.capture) options.capture(name_, y);
  if (position_ >= 0) AddPositions(unit, y, context);
  return y;
}

void VisiblePatches::Backward(const TensorView& dy, const TensorView& dimage,
                              ParameterAccess& access, Context& context) {
  const ProfileScope profile(context, table_.units()[unit_].name);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const int64_t c = model_.embed_dim;
  const TensorView weight = unit[weight_].Reshape({c, width_});
  if (position_ >= 0) PositionsBackward(dy, unit.At(gradient, position_), context);
  const TensorView dprojected = dy.Reshape(projected_.shape);
  if (norm_) {
    norm_->Backward(unit, gradient, projected_, {}, dprojected, dprojected, /*accumulate=*/false,
                    context);
  }
  {
    ArenaScope scope(context.workspace);
    const TensorView pixels = Pixels(dy.dtype, context);
    context.ops->linear_backward_weight(
        {dprojected, pixels, unit.At(gradient, weight_).Reshape({c, width_}),
         unit.At(gradient, bias_)},
        context);
    if (!dimage.empty()) {
      context.ops->linear_backward_input({dprojected, weight, pixels}, context);
      PixelsBackward(pixels, dimage, context);
    }
  }
  access.GradientReady(unit_);
}

}  // namespace swinfleet
