#include "core/config/job_config.h"

#include <algorithm>

namespace swinfleet {

int64_t ModelConfig::StageWindow(int stage) const {
  return std::min({window_size, StageH(stage), StageW(stage)});
}

int64_t ModelConfig::StageShift(int stage) const {
  return std::min(StageH(stage), StageW(stage)) <= window_size ? 0 : window_size / 2;
}

int64_t ModelConfig::PretrainedWindow(int stage) const {
  return pretrained_window_sizes.empty() ? 0 : pretrained_window_sizes[stage];
}

}  // namespace swinfleet
