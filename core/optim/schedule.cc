// The schedulers of timm 0.4.12 (cosine_lr.py, step_lr.py) and of the official lr_scheduler.py
// (linear, multistep), and of MAE (util/lr_sched.py), with their order of operations, so that rates
// agree to the last bit or two.
#include "core/optim/schedule.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace swinfleet {
namespace {

// Linear decay ends at this part of the base rate (LinearLRScheduler's lr_min_rate).
constexpr double kLinearEnd = 0.01;

// Whole updates in a number of epochs, cut off as the official int() does.
int64_t Updates(double epochs, int64_t steps_per_epoch) {
  return static_cast<int64_t>(epochs * static_cast<double>(steps_per_epoch));
}

// One cycle; past its end the rate stays at the minimum.
double CosineRate(const ScheduleConfig& schedule, double base, int64_t total, int64_t warmup,
                  int64_t t) {
  int64_t cycle = total;
  if (schedule.warmup_prefix) {
    cycle -= warmup;
    t -= warmup;
  }
  if (t >= cycle) return schedule.min_learning_rate;
  const double minimum = schedule.min_learning_rate;
  const double angle = std::numbers::pi * static_cast<double>(t) / static_cast<double>(cycle);
  return minimum + 0.5 * (base - minimum) * (1 + std::cos(angle));
}

double LinearRate(double base, int64_t total, int64_t warmup, int64_t t) {
  const double part = static_cast<double>(t - warmup) / static_cast<double>(total - warmup);
  return base - (base - base * kLinearEnd) * part;
}

// Decays are counted from update 0, not from the end of the warm-up. An interval of less than one
// update (a fraction of a very short epoch) counts as one.
double StepRate(const ScheduleConfig& schedule, double base, int64_t steps_per_epoch, int64_t t) {
  const int64_t interval = std::max<int64_t>(1, Updates(schedule.decay_epochs, steps_per_epoch));
  return base * std::pow(schedule.decay_rate, static_cast<double>(t / interval));
}

double MultistepRate(const ScheduleConfig& schedule, double base, int64_t steps_per_epoch,
                     int64_t t) {
  int64_t passed = 0;
  for (const double epoch : schedule.multisteps) {
    if (epoch * static_cast<double>(steps_per_epoch) <= static_cast<double>(t)) ++passed;
  }
  return base * std::pow(schedule.decay_rate, static_cast<double>(passed));
}

// Half a cycle by fractional epochs, after a warm-up from 0.
double MaeRate(const ScheduleConfig& schedule, double base, int64_t epochs, int64_t steps_per_epoch,
               int64_t t) {
  const double epoch =
      static_cast<double>(t % steps_per_epoch) / static_cast<double>(steps_per_epoch) +
      static_cast<double>(t / steps_per_epoch);
  const double warmup = schedule.warmup_epochs;
  if (epoch < warmup) return base * epoch / warmup;
  const double part = (epoch - warmup) / (static_cast<double>(epochs) - warmup);
  const double minimum = schedule.min_learning_rate;
  return minimum + (base - minimum) * 0.5 * (1 + std::cos(std::numbers::pi * part));
}

}  // namespace

double ScheduledRate(const ScheduleConfig& schedule, double base, int64_t epochs,
                     int64_t steps_per_epoch, int64_t t) {
  CHECK_GT(epochs, 0);
  CHECK_GT(steps_per_epoch, 0);
  CHECK_GE(t, 0);
  const int64_t total = epochs * steps_per_epoch;
  const int64_t warmup = Updates(schedule.warmup_epochs, steps_per_epoch);
  CHECK_LT(warmup, total) << "warm-up of " << schedule.warmup_epochs << " in " << epochs
                          << " epochs";
  if (schedule.kind == ScheduleConfig::Kind::kMaeCosine) {
    return MaeRate(schedule, base, epochs, steps_per_epoch, t);
  }
  if (t < warmup) {
    const double start = schedule.warmup_learning_rate;
    return start + static_cast<double>(t) * ((base - start) / static_cast<double>(warmup));
  }
  switch (schedule.kind) {
    case ScheduleConfig::Kind::kCosine:
      return CosineRate(schedule, base, total, warmup, t);
    case ScheduleConfig::Kind::kLinear:
      return LinearRate(base, total, warmup, t);
    case ScheduleConfig::Kind::kStep:
      return StepRate(schedule, base, steps_per_epoch, t);
    case ScheduleConfig::Kind::kMultistep:
      return MultistepRate(schedule, base, steps_per_epoch, t);
    case ScheduleConfig::Kind::kMaeCosine:
      break;
  }
  LOG(FATAL) << "schedule kind " << static_cast<int>(schedule.kind);
}

double RateOfUpdate(const ScheduleConfig& schedule, double base, int64_t epochs,
                    int64_t steps_per_epoch, int64_t i) {
  if (schedule.kind == ScheduleConfig::Kind::kMaeCosine) {
    return ScheduledRate(schedule, base, epochs, steps_per_epoch, i);
  }
  return ScheduledRate(schedule, base, epochs, steps_per_epoch, std::max<int64_t>(0, i - 1));
}

}  // namespace swinfleet
