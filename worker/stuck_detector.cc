#include "worker/stuck_detector.h"

#include <algorithm>

namespace swinfleet {
namespace {

// Of a time between two observations no more than this is counted.
constexpr double kLongestPause = 4 * StuckDetector::kPeriod;

}  // namespace

void StepTimes::Begin(double now, double waited) {
  begun_ = now;
  waited_ = waited;
}

void StepTimes::End(double now, double waited) {
  const double step = now - begun_;
  last_[steps_ % kMedianOf] = step;
  if (steps_ >= kWarmUp) own_seconds_ += std::max(0.0, step - (waited - waited_));
  ++steps_;
  Begin(now, waited);
}

double StepTimes::MedianStep() const {
  const int64_t count = std::min(steps_, kMedianOf);
  if (count == 0) return 0;
  std::array<double, kMedianOf> values = last_;
  const auto middle = values.begin() + count / 2;
  std::nth_element(values.begin(), middle, values.begin() + count);
  return *middle;
}

void StuckDetector::SetPhase(Phase phase, double now, double waited) {
  phase_ = phase;
  patient_ = true;
  disk_ = disk_ || phase == Phase::kLoad || phase == Phase::kSave;
  if (phase == Phase::kTrain) times_.Begin(now, waited);
}

void StuckDetector::SetStep(int64_t step, double now, double waited) {
  step_ = step;
  // Also called with the step that an attempt begins with, while it loads.
  if (phase_ != Phase::kTrain) return;
  times_.End(now, waited);
  patient_ = times_.steps() < StepTimes::kWarmUp;
  disk_ = false;
}

double StuckDetector::Deadline() const {
  if (patient_) {
    return deadlines_.patient + (disk_ ? state_bytes_ / deadlines_.disk_bytes_per_second : 0);
  }
  return std::max(deadlines_.least, deadlines_.median_steps * times_.MedianStep());
}

bool StuckDetector::Observe(double now, const CollectivePosition& position) {
  const bool same =
      position.sequence == seen_.sequence && position.in_progress == seen_.in_progress;
  still_ = same ? still_ + std::min(now - observed_, kLongestPause) : 0;
  seen_ = position;
  observed_ = now;
  return position.in_progress && still_ > Deadline();
}

}  // namespace swinfleet
