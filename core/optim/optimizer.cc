#include "core/optim/optimizer.h"

#include <glog/logging.h>

#include <algorithm>

namespace swinfleet {
namespace {

void UpdateAdamW(const OptimizerConfig& optimizer, const ParameterHyper& hyper, double rate,
                 int64_t updates_made, float grad_scale, const TensorView& param,
                 const TensorView& grad, const OptimizerState& state, Context& context) {
  CHECK_EQ(state.second.NumElements(), param.NumElements());
  AdamWArgs args;
  args.param = param;
  args.grad = grad;
  args.m = state.first;
  args.v = state.second;
  args.learning_rate = rate;
  args.beta1 = optimizer.beta1;
  args.beta2 = optimizer.beta2;
  args.eps = optimizer.eps;
  args.weight_decay = hyper.weight_decay;
  args.step = updates_made + 1;
  args.grad_scale = grad_scale;
  context.ops->adamw(args, context);
}

void UpdateSgd(const OptimizerConfig& optimizer, const ParameterHyper& hyper, double rate,
               float grad_scale, const TensorView& param, const TensorView& grad,
               const OptimizerState& state, Context& context) {
  SgdArgs args;
  args.param = param;
  args.grad = grad;
  args.momentum = state.first;
  args.learning_rate = rate;
  args.momentum_factor = optimizer.momentum;
  args.weight_decay = hyper.weight_decay;
  args.grad_scale = grad_scale;
  context.ops->sgd(args, context);
}

}  // namespace

int OptimizerStateTensors(OptimizerConfig::Kind kind) {
  return kind == OptimizerConfig::Kind::kAdamW ? 2 : 1;
}

float ClipFactor(double norm, double max_norm) {
  CHECK_GE(norm, 0) << "the norm must be finite before it clips";
  CHECK_GE(max_norm, 0);
  if (max_norm == 0) return 1;
  const double factor = max_norm / (norm + 1e-6);
  return static_cast<float>(std::min(1.0, factor));
}

void UpdateSegment(const OptimizerConfig& optimizer, const ParameterHyper& hyper, double rate,
                   int64_t updates_made, float grad_scale, const TensorView& param,
                   const TensorView& grad, const OptimizerState& state, Context& context) {
  CHECK_EQ(grad.NumElements(), param.NumElements());
  CHECK_EQ(state.first.NumElements(), param.NumElements());
  CHECK_GE(updates_made, 0);
  if (optimizer.kind == OptimizerConfig::Kind::kAdamW) {
    UpdateAdamW(optimizer, hyper, rate, updates_made, grad_scale, param, grad, state, context);
  } else {
    UpdateSgd(optimizer, hyper, rate, grad_scale, param, grad, state, context);
  }
}

}  // namespace swinfleet
