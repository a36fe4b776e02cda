#include "core/nn/patch_embedding.h"

#include <cmath>

#include "core/nn/chunks.h"

namespace swinfleet {

PatchEmbedding::PatchEmbedding(const ModelConfig& config, ParameterTable* table)
    : config_(config), table_(*table) {
  const int64_t c = config.embed_dim, p = config.patch_size;
  // PyTorch's own initialisation of a convolution, which the official code leaves as it is.
  const double bound = 1.0 / std::sqrt(static_cast<double>(config.in_chans * p * p));
  const Initializer uniform = {Initializer::Kind::kUniform, bound};
  unit_ = table->BeginUnit("patch_embed");
  if (config.ape) {
    position_ = table->Add("absolute_pos_embed", {1, config.StageH(0) * config.StageW(0), c},
                           {Initializer::Kind::kTruncatedNormal, 0.02});
  }
  weight_ = table->Add("patch_embed.proj.weight", {c, config.in_chans, p, p}, uniform);
  bias_ = table->Add("patch_embed.proj.bias", {c}, uniform);
  if (config.patch_norm) {
    gamma_ = table->Add("patch_embed.norm.weight", {c}, {Initializer::Kind::kOnes});
    beta_ = table->Add("patch_embed.norm.bias", {c}, {Initializer::Kind::kZeros});
  }
}

TensorView PatchEmbedding::Forward(const TensorView& image, const ForwardOptions& options,
                                   ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = image.shape[0], c = config_.embed_dim, p = config_.patch_size;
  const int64_t tokens = config_.StageH(0) * config_.StageW(0);
  const int64_t rows = batch * tokens, width = config_.in_chans * p * p;
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView weight = unit[weight_].Reshape({c, width});

  image_ = image;
  projected_ = activations.Allocate({rows, c});
  ForEachChunk(rows, ChunkRows(width), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView patches = context.workspace->Allocate({count, width});
    context.ops->patch_gather({image, p, p, row, patches}, context);
    context.ops->linear_forward({patches, weight, unit[bias_], projected_.Rows(row, count)},
                                context);
  });

  TensorView out = projected_;
  if (config_.patch_norm) {
    out = options.keep_for_backward ? activations.Allocate({rows, c}) : projected_;
    mean_ = activations.Allocate({rows});
    rstd_ = activations.Allocate({rows});
    context.ops->layer_norm_forward({.x = projected_,
                                     .gamma = unit[gamma_],
                                     .beta = unit[beta_],
                                     .residual = {},
                                     .scale = {},
                                     .y = out,
                                     .mean = mean_,
                                     .rstd = rstd_,
                                     .eps = static_cast<float>(config_.layer_norm_eps)},
                                    context);
  }
  if (options.capture) options.capture("patch_embed", out.Reshape({batch, tokens, c}));
  if (config_.ape) {
    context.ops->add_broadcast(
        {unit[position_].Reshape({tokens * c}), out.Reshape({batch, tokens * c})}, context);
  }
  return out.Reshape({batch, config_.StageH(0), config_.StageW(0), c});
}

void PatchEmbedding::Backward(const TensorView& dy, const TensorView& dimage,
                              ParameterAccess& access, Context& context) {
  const int64_t batch = dy.shape[0], c = config_.embed_dim, p = config_.patch_size;
  const int64_t tokens = config_.StageH(0) * config_.StageW(0);
  const int64_t rows = batch * tokens, width = config_.in_chans * p * p;
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView weight = unit[weight_].Reshape({c, width});
  const TensorView dweight = unit.At(gradient, weight_).Reshape({c, width});

  if (config_.ape) {
    context.ops->sum_broadcast(
        {dy.Reshape({batch, tokens * c}), unit.At(gradient, position_).Reshape({tokens * c})},
        context);
  }
  const TensorView dprojected = dy.Reshape({rows, c});
  if (config_.patch_norm) {
    context.ops->layer_norm_backward({.x = projected_,
                                      .gamma = unit[gamma_],
                                      .mean = mean_,
                                      .rstd = rstd_,
                                      .scale = {},
                                      .dy = dprojected,
                                      .dx = dprojected,
                                      .dgamma = unit.At(gradient, gamma_),
                                      .dbeta = unit.At(gradient, beta_)},
                                     context);
  }
  ForEachChunk(rows, ChunkRows(width), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView patches = context.workspace->Allocate({count, width});
    const TensorView dchunk = dprojected.Rows(row, count);
    context.ops->patch_gather({image_, p, p, row, patches}, context);
    context.ops->linear_backward_weight({dchunk, patches, dweight, unit.At(gradient, bias_)},
                                        context);
    if (dimage.empty()) return;
    context.ops->linear_backward_input({dchunk, weight, patches}, context);
    context.ops->patch_scatter({patches, p, p, row, dimage}, context);
  });
  access.GradientReady(unit_);
}

}  // namespace swinfleet
