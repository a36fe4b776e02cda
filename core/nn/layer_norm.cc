#include "core/nn/layer_norm.h"

#include "kernels/profile.h"

namespace swinfleet {

LayerNorm::LayerNorm(const std::string& name, int64_t channels, double eps, double gain,
                     ParameterTable* table)
    : name_(name),
      gamma_(table->Add(name + ".weight", {channels}, {Initializer::Kind::kConstant, gain})),
      beta_(table->Add(name + ".bias", {channels}, {Initializer::Kind::kZeros})),
      eps_(static_cast<float>(eps)) {}

void LayerNorm::Forward(const AcquiredUnit& unit, const TensorView& x, const TensorView& y,
                        const TensorView& residual, const TensorView& scale, Arena& activations,
                        Context& context) {
  mean_ = activations.Allocate({x.shape[0]});
  rstd_ = activations.Allocate({x.shape[0]});
  ForwardAgain(unit, x, y, residual, scale, context);
}

void LayerNorm::ForwardAgain(const AcquiredUnit& unit, const TensorView& x, const TensorView& y,
                             const TensorView& residual, const TensorView& scale,
                             Context& context) {
  const ProfileScope profile(context, name_);
  context.ops->layer_norm_forward({.x = x,
                                   .gamma = unit[gamma_],
                                   .beta = unit[beta_],
                                   .residual = residual,
                                   .scale = scale,
                                   .y = y,
                                   .mean = mean_,
                                   .rstd = rstd_,
                                   .eps = eps_},
                                  context);
}

void LayerNorm::Backward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& x,
                         const TensorView& scale, const TensorView& dy, const TensorView& dx,
                         bool accumulate, Context& context) {
  const ProfileScope profile(context, name_);
  context.ops->layer_norm_backward({.x = x,
                                    .gamma = unit[gamma_],
                                    .mean = mean_,
                                    .rstd = rstd_,
                                    .scale = scale,
                                    .dy = dy,
                                    .dx = dx,
                                    .dgamma = unit.At(gradient, gamma_),
                                    .dbeta = unit.At(gradient, beta_),
                                    .accumulate = accumulate},
                                   context);
}

}  // namespace swinfleet
