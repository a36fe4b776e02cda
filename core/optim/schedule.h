// Learning-rate schedules by update, as the official code uses them (timm 0.4.12's schedulers).
#ifndef SWINFLEET_CORE_OPTIM_SCHEDULE_H_
#define SWINFLEET_CORE_OPTIM_SCHEDULE_H_

#include <cstdint>

#include "core/config/job_config.h"

namespace swinfleet {

// The rate that `step_update(t)` of the official scheduler sets, for a parameter group of base rate
// `base`; the warm-up's start and the minimum are not scaled by a group's layer decay. MAE's rate
// is that of epoch t / steps_per_epoch, and its warm-up starts at 0 always.
double ScheduledRate(const ScheduleConfig& schedule, double base, int64_t epochs,
                     int64_t steps_per_epoch, int64_t t);

// The rate of update i (0 is the first) in the official loop, which steps the scheduler after the
// optimizer with the index of the update just made: updates 0 and 1 both use rate(0). MAE sets the
// rate before the update: rate(i).
double RateOfUpdate(const ScheduleConfig& schedule, double base, int64_t epochs,
                    int64_t steps_per_epoch, int64_t i);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_OPTIM_SCHEDULE_H_
