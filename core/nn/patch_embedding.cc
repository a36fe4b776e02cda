#include "core/nn/patch_embedding.h"

#include <cmath>

#include "kernels/profile.h"

namespace swinfleet {

PatchEmbedding::PatchEmbedding(const ModelConfig& model, const std::string& prefix, bool mask_token,
                               ParameterTable* table)
    : model_(model), name_(prefix + "patch_embed"), table_(*table), unit_(table->BeginUnit(name_)) {
  const int64_t c = model.embed_dim, p = model.patch_size;
  const Initializer normal = {Initializer::Kind::kTruncatedNormal, 0.02};
  // PyTorch's own initialisation of a convolution, which the official code leaves as it is.
  const double bound =
      1.0 / std::sqrt(static_cast<double>(model.in_chans * model.patch_frames * p * p));
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

void PatchEmbedding::Project(const AcquiredUnit& unit, Context& context) const {
  context.ops->patch_embedding_forward({image_, unit[weight_], unit[bias_], tokens_}, context);
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
  const int64_t batch = dy.shape[0], c = model_.embed_dim, tokens = model_.StageTokens(0);
  const ProfileScope profile(context, name_);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);

  if (position_ >= 0) {
    context.ops->sum_broadcast(
        {dy.Reshape({batch, tokens * c}), unit.At(gradient, position_).Reshape({tokens * c})},
        context);
  }
  if (!mask_.empty()) {
    context.ops->mask_tokens_backward(
        {mask_, dy.Reshape({batch, tokens, c}), unit.At(gradient, mask_token_)}, context);
  }
  const TensorView dprojected = dy.Reshape({batch * tokens, c});
  if (norm_) {
    // Nobody needs the tokens any more.
    Project(unit, context);
    norm_->Backward(unit, gradient, tokens_, {}, dprojected, dprojected, /*accumulate=*/false,
                    context);
  }
  context.ops->patch_embedding_backward(
      {image_, unit[weight_], dprojected, unit.At(gradient, weight_), unit.At(gradient, bias_),
       dimage},
      context);
  access.GradientReady(unit_);
}

}  // namespace swinfleet
