#include "core/optim/optimizer.h"

#include <glog/logging.h>

#include <algorithm>

#include "core/optim/schedule.h"
#include "core/rng/counter_rng.h"

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
  args.master = state.master;
  args.rounding = state.rounding;
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
  args.master = state.master;
  args.rounding = state.rounding;
  context.ops->sgd(args, context);
}

}  // namespace

void RatesOfUpdate(const TrainConfig& train, std::span<const ParameterHyper> hypers,
                   int64_t steps_per_epoch, int64_t i, std::span<double> rates) {
  CHECK_EQ(rates.size(), hypers.size());
  const bool scale_all = train.schedule.kind == ScheduleConfig::Kind::kMaeCosine;
  const auto rate_of = [&](const ParameterHyper& hyper) {
    const double base =
        scale_all ? train.optimizer.learning_rate : BaseRate(train.optimizer, hyper);
    const double rate = RateOfUpdate(train.schedule, base, train.epochs, steps_per_epoch, i);
    return scale_all ? rate * hyper.lr_scale : rate;
  };
  for (size_t p = 0; p < hypers.size(); ++p) {
    // Neighbours mostly share their layer.
    const bool known = p > 0 && hypers[p].lr_scale == hypers[p - 1].lr_scale;
    rates[p] = known ? rates[p - 1] : rate_of(hypers[p]);
  }
}

StochasticRounding MomentRounding(uint64_t seed, int64_t updates_made, int parameter,
                                  int64_t begin) {
  const CounterRng rng(seed, RandomPurpose::kMomentRounding, static_cast<uint64_t>(updates_made),
                       static_cast<uint32_t>(parameter));
  return {.stream = rng.stream(), .first = begin};
}

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
  CHECK_EQ(state.master.empty(), param.dtype == DType::kF32);
  CHECK_GE(updates_made, 0);
  if (optimizer.kind == OptimizerConfig::Kind::kAdamW) {
    UpdateAdamW(optimizer, hyper, rate, updates_made, grad_scale, param, grad, state, context);
  } else {
    UpdateSgd(optimizer, hyper, rate, grad_scale, param, grad, state, context);
  }
}

}  // namespace swinfleet
