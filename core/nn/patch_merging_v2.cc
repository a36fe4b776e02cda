#include "core/nn/patch_merging_v2.h"

#include "core/nn/chunks.h"

namespace swinfleet {

PatchMergingV2::PatchMergingV2(const ModelConfig& config, int stage, ParameterTable* table)
    : config_(config), table_(*table), name_("layers." + std::to_string(stage) + ".downsample") {
  const int64_t c = config.StageDim(stage);
  unit_ = table->BeginUnit(name_);
  weight_ = table->Add(name_ + ".reduction.weight", {2 * c, 4 * c},
                       {Initializer::Kind::kTruncatedNormal, 0.02});
  gamma_ = table->Add(name_ + ".norm.weight", {2 * c}, {Initializer::Kind::kOnes});
  beta_ = table->Add(name_ + ".norm.bias", {2 * c}, {Initializer::Kind::kZeros});
}

TensorView PatchMergingV2::Forward(const TensorView& x, const ForwardOptions& options,
                                   ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = x.shape[0], height = x.shape[1] / 2, width = x.shape[2] / 2;
  const int64_t c = x.shape[3], rows = batch * height * width;
  const AcquiredUnit unit(table_, access, unit_);
  x_ = x;
  reduced_ = activations.Allocate({rows, 2 * c});
  ForEachChunk(rows, ChunkRows(4 * c), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView neighbours = context.workspace->Allocate({count, 4 * c});
    context.ops->merge_gather({x, row, neighbours}, context);
    context.ops->linear_forward({neighbours, unit[weight_], {}, reduced_.Rows(row, count)},
                                context);
  });
  const TensorView y = options.keep_for_backward ? activations.Allocate({rows, 2 * c}) : reduced_;
  mean_ = activations.Allocate({rows});
  rstd_ = activations.Allocate({rows});
  context.ops->layer_norm_forward({.x = reduced_,
                                   .gamma = unit[gamma_],
                                   .beta = unit[beta_],
                                   .residual = {},
                                   .scale = {},
                                   .y = y,
                                   .mean = mean_,
                                   .rstd = rstd_,
                                   .eps = static_cast<float>(config_.layer_norm_eps)},
                                  context);
  if (options.capture) options.capture(name_, y.Reshape({batch, height * width, 2 * c}));
  return y.Reshape({batch, height, width, 2 * c});
}

void PatchMergingV2::Backward(const TensorView& dy, const TensorView& dx, ParameterAccess& access,
                              Context& context) {
  const int64_t c = dx.shape[3], rows = dy.NumElements() / (2 * c);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView dreduced = dy.Reshape({rows, 2 * c});
  context.ops->layer_norm_backward({.x = reduced_,
                                    .gamma = unit[gamma_],
                                    .mean = mean_,
                                    .rstd = rstd_,
                                    .scale = {},
                                    .dy = dreduced,
                                    .dx = dreduced,
                                    .dgamma = unit.At(gradient, gamma_),
                                    .dbeta = unit.At(gradient, beta_)},
                                   context);
  ForEachChunk(rows, ChunkRows(4 * c), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView neighbours = context.workspace->Allocate({count, 4 * c});
    const TensorView dchunk = dreduced.Rows(row, count);
    context.ops->merge_gather({x_, row, neighbours}, context);
    context.ops->linear_backward_weight({dchunk, neighbours, unit.At(gradient, weight_), {}},
                                        context);
    context.ops->linear_backward_input({dchunk, unit[weight_], neighbours}, context);
    context.ops->merge_scatter({neighbours, row, dx}, context);
  });
  access.GradientReady(unit_);
}

}  // namespace swinfleet
