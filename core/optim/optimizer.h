// One update of one piece of the parameters, the same wherever that piece lives: all parameters in
// one process, or a rank's shard of them.
#ifndef SWINFLEET_CORE_OPTIM_OPTIMIZER_H_
#define SWINFLEET_CORE_OPTIM_OPTIMIZER_H_

#include <cstdint>
#include <span>

#include "core/config/job_config.h"
#include "core/optim/parameter_groups.h"
#include "kernels/ops.h"

namespace swinfleet {

// What the optimizer keeps from update to update for a segment, each with as many elements as the
// segment. The moments are zero before the first update, all in float32 or all in bfloat16.
struct OptimizerState {
  // AdamW: the first moment m. SGD: the momentum.
  TensorView first;  // (n)
  // AdamW: the second moment v. SGD: absent.
  TensorView second;  // (n) or absent
  // What a weight in 16 bits lacks of its float32 master (AdamWArgs says how): (n), uint16 for
  // bfloat16, float32 for float16, absent for float32. Starts with the weight, not at zero.
  TensorView master;
  // Of moments in bfloat16 (MomentRounding); unused for float32.
  StochasticRounding rounding = {};
};

// What an update rounds the moments of elements of a parameter with, from element `begin` on: a
// function of these alone, whoever updates which elements. The parameter is the number in its
// table; `updates_made` is UpdateSegment's.
StochasticRounding MomentRounding(uint64_t seed, int64_t updates_made, int parameter,
                                  int64_t begin);

// State tensors that an optimizer keeps beside each parameter: 2 for AdamW, 1 for SGD.
int OptimizerStateTensors(OptimizerConfig::Kind kind);

// Base learning rate of a parameter, which its schedule starts from: ScheduledRate and RateOfUpdate
// take this as `base`. (But for MAE's, a schedule isn't linear in its base: the warm-up's start and
// the minimum are shared by all groups.)
inline double BaseRate(const OptimizerConfig& optimizer, const ParameterHyper& hyper) {
  return optimizer.learning_rate * hyper.lr_scale;
}

// The rates of update i (0 is the first) of a job, one a parameter. Every group has its own base
// rate, but shares the warm-up's start and the minimum, as in the official code; in MAE's schedule
// the whole rate is scaled.
void RatesOfUpdate(const TrainConfig& train, std::span<const ParameterHyper> hypers,
                   int64_t steps_per_epoch, int64_t i, std::span<double> rates);

// The factor that clips gradients of the global norm `norm` to `max_norm`:
// min(1, max_norm / (norm + 1e-6)), as torch's clip_grad_norm_.
// A `max_norm` of 0 means no clipping: 1. `norm` is finite.
float ClipFactor(double norm, double max_norm);

// Updates one segment, any run of elements that share `hyper`: a whole parameter, several, or a
// part of one. Elements are independent of each other, so cutting a run into segments changes no
// bit.
//   `rate`: the learning rate of this update for these parameters,
//       as RatesOfUpdate gives it.
//   `updates_made`: updates applied before this one, 0 for the first. Steps that were skipped
//       (not finite) don't count.
//   `grad_scale`: multiplies the gradient first (ClipFactor).
void UpdateSegment(const OptimizerConfig& optimizer, const ParameterHyper& hyper, double rate,
                   int64_t updates_made, float grad_scale,
                   const TensorView& param,      // (n), float32, bfloat16 or float16; updated
                   const TensorView& grad,       // (n), float32
                   const OptimizerState& state,  // (n) each, updated
                   Context& context);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_OPTIM_OPTIMIZER_H_
