// What window attention works on, one window and head at a time: sizes, the window's tokens, and
// scratch memory.
#ifndef SWINFLEET_KERNELS_CPU_WINDOW_MAP_H_
#define SWINFLEET_KERNELS_CPU_WINDOW_MAP_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include <hwy/base.h>

#include "kernels/cpu/element.h"
#include "kernels/ops.h"

namespace swinfleet::cpu {

// Rows of scores that exist at once in backward.
inline constexpr int64_t kTileRows = 64;
// Rows that go through all steps one after the other, while the first cache has their scores.
inline constexpr int64_t kStripRows = 16;
// Rows are padded to whole vectors of every instruction set.
inline constexpr int64_t kPad = 16;

inline int64_t PadUp(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// Of a window and head. `tokens` is the number of those that attend, which padding makes smaller
// than the window's.
struct AttentionSizes {
  AttentionSizes(const WindowGeometry& geometry, int64_t heads, const TensorView& qkv)
      : window_tokens(geometry.WindowTokens()),
        channels(qkv.shape[qkv.shape.rank() - 1] / 3),
        dim(channels / heads),
        dim_padded(PadUp(dim)),
        tile(std::min(window_tokens, kTileRows)),
        strip(std::min(window_tokens, kStripRows)) {
    SetTokens(window_tokens);
  }
  void SetTokens(int64_t count) {
    tokens = count;
    tokens_padded = PadUp(count);
  }
  int64_t Rows() const { return tokens_padded * dim_padded; }
  // Floats of a tile's scores, and of a strip's.
  int64_t Scores() const { return tile * tokens_padded; }
  int64_t StripScores() const { return strip * tokens_padded; }
  // Words of these in 16 bits; rows come in pairs.
  int64_t HalfScores() const { return (tile + 1) / 2 * tokens_padded; }
  int64_t HalfStripScores() const { return (strip + 1) / 2 * tokens_padded; }
  // Floats of a number for each row of a strip.
  int64_t StripRows() const { return PadUp(strip); }

  int64_t window_tokens;  // N
  int64_t channels, dim, dim_padded, tile, strip;
  int64_t tokens, tokens_padded;
};

// Hands out a thread's part of the scratch block.
class FloatStack {
 public:
  explicit FloatStack(float* at) : at_(at) {}
  float* Take(int64_t floats) {
    float* taken = at_;
    at_ += floats;
    return taken;
  }

 private:
  float* at_;
};

// The tokens of a window that attend, in their order in the window.
struct WindowMap {
  WindowMap(const AttentionSizes& s, FloatStack* stack)
      : row(reinterpret_cast<int64_t*>(stack->Take(2 * s.tokens_padded))),
        place(reinterpret_cast<int32_t*>(stack->Take(s.tokens_padded))),
        region(reinterpret_cast<int32_t*>(stack->Take(s.tokens_padded))) {}
  // Floats that hold the arrays.
  static int64_t Floats(const AttentionSizes& s) { return 4 * s.tokens_padded; }

  int64_t* row;     // (tokens): row in the tensors
  int32_t* place;   // (tokens): place in the window
  int32_t* region;  // (tokens)
  int64_t tokens = 0;
  // Whether regions differ, so that there is a mask.
  bool masked = false;
  // The tensors' row of the window's first place; -1 where tensors hold the map.
  int64_t first_row = -1;
};

// One axis of a window: a map of `size`, padded to `padded`, cut at `begin` after the shift.
struct WindowAxis {
  int64_t size, window, shift, padded, begin;

  WindowAxis(int64_t size_, int64_t window_, int64_t shift_, int64_t windows, int64_t index)
      : size(size_),
        window(window_),
        shift(shift_),
        padded(windows * window_),
        begin(index * window_) {}
  // The coordinate in the map of the window's place `at`; -1 in the padding.
  int64_t Coordinate(int64_t at) const {
    int64_t coordinate = begin + at + shift;
    if (coordinate >= padded) coordinate -= padded;
    return coordinate < size ? coordinate : -1;
  }
  // Which of up to three parts of the shifted map that place lies in: the mask's regions.
  int32_t Band(int64_t at) const {
    if (shift == 0 || begin + at < padded - window) return 0;
    return begin + at < padded - shift ? 1 : 2;
  }
};

// Calls body(place, token, region) for each place of window `window`, counted over the batch; token
// counts over the batch too and is -1 in the padding. Goes along the axes rather than through
// WindowGeometry's functions, whose divisions would show beside the attention of a small window.
template <typename Body>
HWY_INLINE void ForEachPlace(const WindowGeometry& g, int64_t window, const Body& body) {
  const int64_t in_picture = window % g.WindowsPerPicture();
  const int64_t plane = g.WindowsH() * g.WindowsW();
  const WindowAxis axis_d(g.depth, g.window_d, g.shift_d, g.WindowsD(), in_picture / plane);
  const WindowAxis axis_h(g.height, g.window_h, g.shift_h, g.WindowsH(),
                          in_picture % plane / g.WindowsW());
  const WindowAxis axis_w(g.width, g.window_w, g.shift_w, g.WindowsW(), in_picture % g.WindowsW());
  const int64_t first_token = window / g.WindowsPerPicture() * g.Tokens();
  int64_t place = 0;
  for (int64_t d = 0; d < g.window_d; ++d) {
    const int64_t at_d = axis_d.Coordinate(d);
    for (int64_t h = 0; h < g.window_h; ++h) {
      const int64_t at_h = axis_h.Coordinate(h);
      const int64_t line = first_token + (at_d * g.height + at_h) * g.width;
      const int32_t region = 9 * axis_d.Band(d) + 3 * axis_h.Band(h);
      for (int64_t w = 0; w < g.window_w; ++w, ++place) {
        const int64_t at_w = axis_w.Coordinate(w);
        const bool padding = at_d < 0 || at_h < 0 || at_w < 0;
        body(place, padding ? -1 : line + at_w, region + axis_w.Band(w));
      }
    }
  }
}

// Fills the map with window `window`, counted over the batch.
inline void FillMap(const WindowGeometry& geometry, const WindowRange& range, bool exclude_padding,
                    int64_t window, WindowMap* map) {
  const int64_t first_row = range.count > 0 ? (window - range.first) * geometry.WindowTokens() : -1;
  // Copies, which stores through the pointers can't change.
  int64_t* const row = map->row;
  int32_t *const places = map->place, *const regions = map->region;
  int64_t t = 0;
  int32_t first_region = 0, differ = 0;
  ForEachPlace(geometry, window, [&](int64_t place, int64_t token, int32_t region) {
    if (token < 0 && exclude_padding) return;
    places[t] = static_cast<int32_t>(place);
    row[t] = first_row >= 0 ? first_row + place : token;
    regions[t] = region;
    if (t == 0) first_region = region;
    differ |= region ^ first_region;
    ++t;
  });
  map->tokens = t;
  map->masked = differ != 0;
  map->first_row = first_row;
}

// What q is multiplied by: exp(min(logit_scale, log 100)); without a logit scale `score_scale`, or
// 1 / sqrt(D) where that is 0.
struct ScoreScale {
  ScoreScale(const TensorView& logit_scale, float score_scale, int64_t head, int64_t dim)
      : cosine(!logit_scale.empty()) {
    static const float kLimit = std::log(100.0f);
    if (!cosine) {
      factor = score_scale != 0 ? score_scale : 1.0f / std::sqrt(static_cast<float>(dim));
      return;
    }
    const float logit = DispatchDType(logit_scale.dtype, [&](auto tag) {
      return ToFloat(Elements<decltype(tag)>(logit_scale)[head]);
    });
    clamped = logit > kLimit;
    factor = std::exp(clamped ? kLimit : logit);
  }
  float factor;
  bool cosine;
  bool clamped = false;
};

// The part of a bias, or of its gradient, for this window and head, (N, N); null without one.
inline float* BiasOf(const TensorView& bias, const WindowGeometry& geometry, int64_t heads,
                     int64_t window, int64_t head) {
  if (bias.empty()) return nullptr;
  const int64_t square = geometry.WindowTokens() * geometry.WindowTokens();
  const int64_t groups = bias.shape.rank() == 4 ? bias.shape[0] : 1;
  const int64_t group = window % geometry.WindowsPerPicture() % groups;
  return static_cast<float*>(bias.data) + (group * heads + head) * square;
}

// Pairs of windows and heads for one thread: windows [first, ...) with `heads` heads each, of which
// the ones numbered [begin, end) are done.
struct AttentionTasks {
  int64_t first_window = 0;
  int64_t first_head = 0;
  int64_t heads = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t WindowOf(int64_t task) const { return first_window + task / heads; }
  int64_t HeadOf(int64_t task) const { return first_head + task % heads; }
};

// A task that comes after another one: its window's map and its head.
struct NextTask {
  const WindowMap* map;
  int64_t head;
};

// Calls body(window, head, next) for each task, with the window's map and its number of tokens at
// hand; the map of the window after it is `after`. Of the last task `next` is any.
template <typename Args, typename Body>
void ForEachTask(const Args& args, const AttentionTasks& tasks, AttentionSizes* s, WindowMap* map,
                 WindowMap* after, const Body& body) {
  const auto fill = [&](int64_t window, WindowMap* filled) {
    FillMap(args.geometry, args.range, args.exclude_padding, window, filled);
  };
  if (tasks.begin == tasks.end) return;
  const int64_t last = tasks.WindowOf(tasks.end - 1);
  fill(tasks.WindowOf(tasks.begin), after);
  int64_t mapped = -1;
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const int64_t window = tasks.WindowOf(task);
    if (window != mapped) {
      std::swap(*map, *after);
      if (window < last) fill(window + 1, after);
      s->SetTokens(map->tokens);
      mapped = window;
    }
    const bool same = tasks.WindowOf(task + 1) == window;
    body(window, tasks.HeadOf(task), NextTask{same ? map : after, tasks.HeadOf(task + 1)});
  }
}

// Floats of a thread's buffers: enough for either way of working, so that what is planned does not
// depend on the processor.
inline int64_t ForwardFloats(const AttentionSizes& s) {
  return 2 * WindowMap::Floats(s) + 5 * s.Rows() + s.StripScores() + s.HalfStripScores() +
         3 * s.tokens_padded + 2 * s.StripRows();
}
inline int64_t BackwardFloats(const AttentionSizes& s) {
  return 2 * WindowMap::Floats(s) + 9 * s.Rows() + 3 * s.Scores() + 3 * s.HalfScores() +
         4 * s.tokens_padded;
}

}  // namespace swinfleet::cpu

#endif  // SWINFLEET_KERNELS_CPU_WINDOW_MAP_H_
