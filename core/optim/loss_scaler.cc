#include "core/optim/loss_scaler.h"

#include <glog/logging.h>

#include <algorithm>

namespace swinfleet {

LossScaler::Verdict LossScaler::Record(bool finite) {
  if (finite) {
    if (dynamic_ && ++state_.good_steps >= kGrowthInterval) {
      state_ = {.scale = std::min(2 * state_.scale, kMost), .good_steps = 0};
    }
    return Verdict::kGood;
  }
  state_.good_steps = 0;
  if (state_.scale <= kLeast) return Verdict::kFailure;
  state_.scale /= 2;
  return Verdict::kScaleReduced;
}

std::optional<LossScaleState> LossScaler::state() const {
  if (!dynamic_) return std::nullopt;
  return state_;
}

void LossScaler::Restore(const std::optional<LossScaleState>& state) {
  if (!dynamic_ || !state.has_value()) return;
  CHECK(state->scale >= kLeast && state->scale <= kMost) << "loss scale " << state->scale;
  CHECK_GE(state->good_steps, 0);
  state_ = *state;
}

}  // namespace swinfleet
