#include "core/config/job_config.h"

#include <algorithm>

namespace swinfleet {
namespace {

// A side of `pixels` in patches, halved `stage` times, rounded up each time.
int64_t SideTokens(int64_t pixels, int64_t patch, int stage) {
  int64_t tokens = (pixels + patch - 1) / patch;
  for (int i = 0; i < stage; ++i) tokens = (tokens + 1) / 2;
  return tokens;
}

}  // namespace

int64_t ModelConfig::StageD(int) const { return (frames + patch_frames - 1) / patch_frames; }

int64_t ModelConfig::StageH(int stage) const { return SideTokens(image_h, patch_size, stage); }

int64_t ModelConfig::StageW(int stage) const { return SideTokens(image_w, patch_size, stage); }

int64_t ModelConfig::StageWindow(int stage) const {
  return std::min({window_size, StageH(stage), StageW(stage)});
}

int64_t ModelConfig::StageShift(int stage) const {
  return std::min(StageH(stage), StageW(stage)) <= window_size ? 0 : window_size / 2;
}

WindowShape ModelConfig::Window(int stage, bool shifted) const {
  if (!is_video()) {
    const int64_t window = StageWindow(stage), shift = shifted ? StageShift(stage) : 0;
    return {{1, window, window}, {0, shift, shift}};
  }
  const std::array<int64_t, 3> map = {StageD(stage), StageH(stage), StageW(stage)};
  WindowShape shape = {{window_frames, window_size, window_size}, {0, 0, 0}};
  for (int axis = 0; axis < 3; ++axis) {
    if (shifted && map[axis] > shape.size[axis]) shape.shift[axis] = shape.size[axis] / 2;
    shape.size[axis] = std::min(shape.size[axis], map[axis]);
  }
  return shape;
}

std::array<int64_t, 3> ModelConfig::TableWindow(int stage) const {
  if (is_video()) return {window_frames, window_size, window_size};
  return {1, StageWindow(stage), StageWindow(stage)};
}

int64_t ModelConfig::PretrainedWindow(int stage) const {
  return pretrained_window_sizes.empty() ? 0 : pretrained_window_sizes[stage];
}

}  // namespace swinfleet
