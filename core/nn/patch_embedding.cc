#include "core/nn/patch_embedding.h"

#include <cmath>

#include "core/nn/chunks.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// Values of a patch.
int64_t PatchWidth(const ModelConfig& model) {
  return model.in_chans * model.patch_frames * model.patch_size * model.patch_size;
}

}  // namespace

PatchEmbedding::PatchEmbedding(const ModelConfig& model, const std::string& prefix, bool mask_token,
                               ParameterTable* table)
    : model_(model), name_(prefix + "patch_embed"), table_(*table), unit_(table->BeginUnit(name_)) {
  const int64_t c = model.embed_dim, p = model.patch_size;
  const Initializer normal = {Initializer::Kind::kTruncatedNormal, 0.02};
  // PyTorch's own initialisation of a convolution, which the official code leaves as it is.
  const double bound = 1.0 / std::sqrt(static_cast<double>(PatchWidth(model)));
  const Initializer uniform = {Initializer::Kind::kUniform, bound};
  if (mask_token) mask_token_ = table->Add(prefix + "mask_token", {1, 1, c}, normal);
  if (model.ape) {
    position_ = table->Add(prefix + "absolute_pos_embed", {1, model.StageTokens(0), c}, normal);
  }
  weight_ = table->Add(name_ + ".proj.weight",
                       model.is_video() ? Shape{c, model.in_chans, model.patch_frames, p, p}
                                        : Shape{c, model.in_chans, p, p},
                       uniform);
  bias_ = table->Add(name_ + ".proj.bias", {c}, uniform);
  if (model.patch_norm) norm_.emplace(name_ + ".norm", c, model.layer_norm_eps, 1, table);
}

PatchGatherArgs PatchEmbedding::Patches(int64_t row, const TensorView& rows) const {
  return {.image = image_,
          .patch_h = model_.patch_size,
          .patch_w = model_.patch_size,
          .first_row = row,
          .rows = rows,
          .patch_t = model_.patch_frames};
}

void PatchEmbedding::Project(const AcquiredUnit& unit, Context& context) const {
  const int64_t width = PatchWidth(model_);
  const TensorView weight = unit[weight_].Reshape({model_.embed_dim, width});
  ForEachChunk(
      tokens_.shape[0], ChunkRows(width, tokens_.dtype, context.device),
      [&](int64_t row, int64_t count) {
        ArenaScope scope(context.workspace);
        const TensorView patches = context.workspace->Allocate({count, width}, tokens_.dtype);
        context.ops->patch_gather(Patches(row, patches), context);
        context.ops->linear_forward({patches, weight, unit[bias_], tokens_.Rows(row, count)},
                                    context);
      });
}

TensorView PatchEmbedding::Forward(const ModelInput& input, const ForwardOptions& options,
                                   ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = input.image.shape[0], c = model_.embed_dim;
  const int64_t tokens = model_.StageTokens(0), rows = batch * tokens;
  const ProfileScope profile(context, name_);
  const AcquiredUnit unit(table_, access, unit_);

  image_ = input.image;
  mask_ = mask_token_ >= 0 ? input.mask : TensorView{};
  const TensorView out = tokens_ = activations.Allocate({rows, c}, options.dtype);
  Project(unit, context);
  if (norm_) norm_->Forward(unit, tokens_, out, {}, {}, activations, context);
  if (options.capture) options.capture(name_, out.Reshape({batch, tokens, c}));
  if (!mask_.empty()) {
    context.ops->mask_tokens_forward({mask_, unit[mask_token_], out.Reshape({batch, tokens, c})},
                                     context);
  }
  if (position_ >= 0) {
    context.ops->add_broadcast(
        {unit[position_].Reshape({tokens * c}), out.Reshape({batch, tokens * c})}, context);
  }
  return out.Reshape({batch, model_.StageD(0), model_.StageH(0), model_.StageW(0), c});
}

void PatchEmbedding::Backward(const TensorView& dy, const TensorView& dimage,
                              ParameterAccess& access, Context& context) {
  const int64_t batch = dy.shape[0], c = model_.embed_dim, p = model_.patch_size;
  const int64_t tokens = model_.StageTokens(0), rows = batch * tokens, width = PatchWidth(model_);
  const ProfileScope profile(context, name_);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView weight = unit[weight_].Reshape({c, width});
  const TensorView dweight = unit.At(gradient, weight_).Reshape({c, width});

  if (position_ >= 0) {
    context.ops->sum_broadcast(
        {dy.Reshape({batch, tokens * c}), unit.At(gradient, position_).Reshape({tokens * c})},
        context);
  }
  if (!mask_.empty()) {
    context.ops->mask_tokens_backward(
        {mask_, dy.Reshape({batch, tokens, c}), unit.At(gradient, mask_token_)}, context);
  }
  const TensorView dprojected = dy.Reshape({rows, c});
  if (norm_) {
    // Nobody needs the tokens any more.
    Project(unit, context);
    norm_->Backward(unit, gradient, tokens_, {}, dprojected, dprojected, /*accumulate=*/false,
                    context);
  }
  ForEachChunk(rows, ChunkRows(width, dy.dtype, context.device), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView patches = context.workspace->Allocate({count, width}, dy.dtype);
    const TensorView dchunk = dprojected.Rows(row, count);
    context.ops->patch_gather(Patches(row, patches), context);
    context.ops->linear_backward_weight({dchunk, patches, dweight, unit.At(gradient, bias_)},
                                        context);
    if (dimage.empty()) return;
    context.ops->linear_backward_input({dchunk, weight, patches}, context);
    context.ops->patch_scatter({.rows = patches,
                                .patch_h = p,
                                .patch_w = p,
                                .first_row = row,
                                .image = dimage,
                                .patch_t = model_.patch_frames},
                               context);
  });
  access.GradientReady(unit_);
}

}  // namespace swinfleet
