// When a rank has waited for the others for too long, and what its steps take. Arithmetic alone:
// time is an argument, in seconds of a clock that never jumps.
#ifndef SWINFLEET_WORKER_STUCK_DETECTOR_H_
#define SWINFLEET_WORKER_STUCK_DETECTOR_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "distributed/communicator.h"
#include "worker/reporter.h"

namespace swinfleet {

// How long a rank may wait in one collective, in seconds.
struct Deadlines {
  // In a step: so many median steps, but at least so many seconds.
  double median_steps = 5;
  double least = 10;
  // In an attempt's first two steps, while it loads, saves or evaluates, and in the step after
  // that.
  double patient = 120;
  // Where it is a load or a save, one rank may have to read or write all of the job's state alone,
  // from a slow disk: so much longer.
  double disk_bytes_per_second = 32 << 20;
};

// The last steps of a rank.
class StepTimes {
 public:
  // A step may begin now. `waited` is what Communicator::wait_seconds says.
  void Begin(double now, double waited);
  // It has ended, and the next one may begin.
  void End(double now, double waited);

  int64_t steps() const { return steps_; }
  // Of the last kMedianOf; 0 before the first step.
  double MedianStep() const;
  // What of all steps but the first kWarmUp was this rank's own work, and not waiting for others.
  double own_seconds() const { return own_seconds_; }
  int64_t own_steps() const { return std::max<int64_t>(0, steps_ - kWarmUp); }

  static constexpr int64_t kMedianOf = 32;
  // Steps of an attempt that take longer than all that follow.
  static constexpr int64_t kWarmUp = 2;

 private:
  double begun_ = 0;
  double waited_ = 0;
  int64_t steps_ = 0;
  double own_seconds_ = 0;
  std::array<double, kMedianOf> last_{};
};

class StuckDetector {
 public:
  explicit StuckDetector(const Deadlines& deadlines) : deadlines_(deadlines) {}

  // Of a checkpoint of the job; 0 as long as it is not known.
  void SetStateBytes(uint64_t bytes) { state_bytes_ = static_cast<double>(bytes); }
  void SetPhase(Phase phase, double now, double waited);
  // A step is done.
  void SetStep(int64_t step, double now, double waited);
  // To be called at least every kPeriod seconds. Returns whether this rank has been in one
  // collective for longer than the deadline. Only time that passes between calls is counted, and
  // little of a long pause: a process that was stopped, and goes on, has not waited meanwhile.
  bool Observe(double now, const CollectivePosition& position);

  static constexpr double kPeriod = 0.25;
  Phase phase() const { return phase_; }
  int64_t step() const { return step_; }
  // Seconds in the present collective, or since the last one.
  double still() const { return still_; }
  double Deadline() const;
  const StepTimes& times() const { return times_; }

 private:
  const Deadlines deadlines_;
  Phase phase_ = Phase::kLoad;
  int64_t step_ = 0;
  // The step under way began with a save or an evaluation, or is one of the first two: one rank may
  // have more to do than the others.
  bool patient_ = true;
  // It began with a load or a save.
  bool disk_ = true;
  double state_bytes_ = 0;
  StepTimes times_;
  CollectivePosition seen_;
  double observed_ = 0;
  double still_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_STUCK_DETECTOR_H_
