#include "core/nn/classifier_head.h"

namespace swinfleet {

ClassifierHead::ClassifierHead(const ModelConfig& config, ParameterTable* table)
    : config_(config), table_(*table) {
  const int64_t c = config.num_features();
  unit_ = table->BeginUnit("head");
  gamma_ = table->Add("norm.weight", {c}, {Initializer::Kind::kOnes});
  beta_ = table->Add("norm.bias", {c}, {Initializer::Kind::kZeros});
  weight_ = table->Add("head.weight", {config.num_classes, c},
                       {Initializer::Kind::kTruncatedNormal, 0.02});
  bias_ = table->Add("head.bias", {config.num_classes}, {Initializer::Kind::kZeros});
}

void ClassifierHead::Forward(const TensorView& x, const TensorView& logits,
                             const ForwardOptions& options, ParameterAccess& access,
                             Arena& activations, Context& context) {
  const int64_t batch = x.shape[0], c = x.shape[3], rows = x.NumElements() / c;
  const AcquiredUnit unit(table_, access, unit_);
  x_ = x.Reshape({rows, c});
  mean_ = activations.Allocate({rows});
  rstd_ = activations.Allocate({rows});
  features_ = activations.Allocate({batch, c});
  ArenaScope scope(context.workspace);
  const TensorView normalised = context.workspace->Allocate({rows, c});
  context.ops->layer_norm_forward({.x = x_,
                                   .gamma = unit[gamma_],
                                   .beta = unit[beta_],
                                   .residual = {},
                                   .scale = {},
                                   .y = normalised,
                                   .mean = mean_,
                                   .rstd = rstd_,
                                   .eps = static_cast<float>(config_.layer_norm_eps)},
                                  context);
  const TensorView tokens = normalised.Reshape({batch, rows / batch, c});
  context.ops->mean_pool_forward({tokens, features_}, context);
  context.ops->linear_forward({features_, unit[weight_], unit[bias_], logits}, context);
  if (options.capture) {
    options.capture("norm", tokens);
    options.capture("features", features_);
  }
}

void ClassifierHead::Backward(const TensorView& dlogits, const TensorView& dx,
                              ParameterAccess& access, Context& context) {
  const int64_t batch = dlogits.shape[0], c = dx.shape[3], rows = dx.NumElements() / c;
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  context.ops->linear_backward_weight(
      {dlogits, features_, unit.At(gradient, weight_), unit.At(gradient, bias_)}, context);
  ArenaScope scope(context.workspace);
  const TensorView dfeatures = context.workspace->Allocate({batch, c});
  context.ops->linear_backward_input({dlogits, unit[weight_], dfeatures}, context);
  context.ops->mean_pool_backward({dfeatures, dx.Reshape({batch, rows / batch, c})}, context);
  const TensorView dx_rows = dx.Reshape({rows, c});
  context.ops->layer_norm_backward({.x = x_,
                                    .gamma = unit[gamma_],
                                    .mean = mean_,
                                    .rstd = rstd_,
                                    .scale = {},
                                    .dy = dx_rows,
                                    .dx = dx_rows,
                                    .dgamma = unit.At(gradient, gamma_),
                                    .dbeta = unit.At(gradient, beta_)},
                                   context);
  access.GradientReady(unit_);
}

}  // namespace swinfleet
