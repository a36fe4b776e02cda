// The log-spaced continuous position bias: an MLP over relative coordinates. What the hidden units
// hold is made anew wherever it is needed: two products a unit are less work than memory.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/position_table.cc"
#include <algorithm>
#include <cmath>

// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector-inl.h"

#ifndef SWINFLEET_KERNELS_CPU_POSITION_TABLE_WEIGHTS_
#define SWINFLEET_KERNELS_CPU_POSITION_TABLE_WEIGHTS_
namespace swinfleet::cpu {

// Units of the hidden layer are padded to whole vectors of every instruction set, heads to whole
// blocks, with zeros.
inline constexpr int64_t kUnits = 16;
inline constexpr int64_t kHeads = 4;

struct PositionWeights {
  int64_t units, heads;
  const float *w1_y, *w1_x, *b1;  // (units)
  const float* w2;                // (heads, units)
};

}  // namespace swinfleet::cpu
#endif

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// What units i, ... hold for the offsets in `coords` (2).
HWY_INLINE V HiddenUnits(const PositionWeights& w, const float* coords, int64_t i) {
  const D d;
  const V from_x =
      hn::MulAdd(hn::LoadU(d, w.w1_x + i), hn::Set(d, coords[1]), hn::LoadU(d, w.b1 + i));
  return hn::Max(hn::Zero(d), hn::MulAdd(hn::LoadU(d, w.w1_y + i), hn::Set(d, coords[0]), from_x));
}

// scores (T, heads) of offsets [begin, end), before the sigmoid.
void PositionScores(const PositionWeights& w, const float* coords, int64_t begin, int64_t end,
                    float* scores) {
  const D d;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t head = 0; head < w.heads; head += kHeads) {
      const float* w2 = w.w2 + head * w.units;
      V sums[kHeads] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      for (int64_t i = 0; i < w.units; i += static_cast<int64_t>(hn::Lanes(d))) {
        const V hidden = HiddenUnits(w, coords + 2 * t, i);
#pragma GCC unroll 4
        for (int64_t h = 0; h < kHeads; ++h) {
          sums[h] = hn::MulAdd(hidden, hn::LoadU(d, w2 + h * w.units + i), sums[h]);
        }
      }
      StoreTotals(sums[0], sums[1], sums[2], sums[3], scores + t * w.heads + head);
    }
  }
}

// Adds to rows of dw2, (heads, hidden), of units [i, i + count), which one vector holds.
void AddSecondLayer(const PositionWeights& w, const PositionTableBackwardArgs& args,
                    const float* dscores, int64_t i, int64_t count) {
  const D d;
  const int64_t heads = args.dw2.shape[0], hidden = args.dw2.shape[1];
  for (int64_t head = 0; head < heads; head += kHeads) {
    V sums[kHeads] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (int64_t t = 0; t < args.coords.shape[0]; ++t) {
      const V units = HiddenUnits(w, args.coords.f32() + 2 * t, i);
#pragma GCC unroll 4
      for (int64_t h = 0; h < kHeads; ++h) {
        sums[h] = hn::MulAdd(units, hn::Set(d, dscores[t * w.heads + head + h]), sums[h]);
      }
    }
    for (int64_t h = 0; h < std::min(kHeads, heads - head); ++h) {
      float* to = args.dw2.f32() + (head + h) * hidden + i;
      StorePart(hn::Add(LoadPart(to, count), sums[h]), to, count);
    }
  }
}

// Adds to dw1 and db1 of units [i, i + count), which one vector holds.
void AddFirstLayer(const PositionWeights& w, const PositionTableBackwardArgs& args,
                   const float* dscores, int64_t i, int64_t count) {
  const D d;
  V y_sum = hn::Zero(d), x_sum = hn::Zero(d), sum = hn::Zero(d);
  for (int64_t t = 0; t < args.coords.shape[0]; ++t) {
    const float* coords = args.coords.f32() + 2 * t;
    V gradient = hn::Zero(d);
    for (int64_t head = 0; head < w.heads; ++head) {
      gradient = hn::MulAdd(hn::Set(d, dscores[t * w.heads + head]),
                            hn::LoadU(d, w.w2 + head * w.units + i), gradient);
    }
    const auto active = hn::Gt(HiddenUnits(w, coords, i), hn::Zero(d));
    gradient = hn::IfThenElseZero(active, gradient);
    y_sum = hn::MulAdd(gradient, hn::Set(d, coords[0]), y_sum);
    x_sum = hn::MulAdd(gradient, hn::Set(d, coords[1]), x_sum);
    sum = hn::Add(sum, gradient);
  }
  HWY_ALIGN float y_sums[hn::MaxLanes(d)], x_sums[hn::MaxLanes(d)];
  hn::Store(y_sum, d, y_sums);
  hn::Store(x_sum, d, x_sums);
  for (int64_t unit = 0; unit < count; ++unit) {
    args.dw1.f32()[2 * (i + unit)] += y_sums[unit];
    args.dw1.f32()[2 * (i + unit) + 1] += x_sums[unit];
  }
  float* to = args.db1.f32() + i;
  StorePart(hn::Add(LoadPart(to, count), sum), to, count);
}

// Of units [begin, end).
void AddPositionGradients(const PositionWeights& w, const PositionTableBackwardArgs& args,
                          const float* dscores, int64_t begin, int64_t end) {
  ForEachVector(end - begin, [&](int64_t i, int64_t count) {
    AddSecondLayer(w, args, dscores, begin + i, count);
    AddFirstLayer(w, args, dscores, begin + i, count);
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {
namespace {

int64_t PadTo(int64_t n, int64_t grain) { return (n + grain - 1) / grain * grain; }

template <typename Args>
cpu::PositionWeights SizesOf(const Args& args) {
  return {.units = PadTo(args.w2.shape[1], cpu::kUnits),
          .heads = PadTo(args.w2.shape[0], cpu::kHeads),
          .w1_y = nullptr,
          .w1_x = nullptr,
          .b1 = nullptr,
          .w2 = nullptr};
}

float* TakeFloats(int64_t floats, Context& context) {
  return static_cast<float*>(context.workspace->AllocateBytes(floats * sizeof(float)));
}

template <typename Args>
PositionTableScratch TakeBoth(const Args& args, Context& context) {
  const cpu::PositionWeights sizes = SizesOf(args);
  return {.weights = TakeFloats((3 + sizes.heads) * sizes.units, context),
          .scores = TakeFloats(args.coords.shape[0] * sizes.heads, context)};
}

// The parameters in float32, as the scratch has them.
template <typename Args>
cpu::PositionWeights WidenWeights(const Args& args, const PositionTableScratch& scratch) {
  cpu::PositionWeights w = SizesOf(args);
  const int64_t heads = args.w2.shape[0], hidden = args.w2.shape[1];
  float *w1_y = scratch.weights, *w1_x = w1_y + w.units, *b1 = w1_x + w.units, *w2 = b1 + w.units;
  std::fill_n(scratch.weights, (3 + w.heads) * w.units, 0.0f);
  DispatchDType(args.w1.dtype, [&](auto tag) {
    const auto* w1 = Elements<decltype(tag)>(args.w1);
    for (int64_t i = 0; i < hidden; ++i) {
      w1_y[i] = ToFloat(w1[2 * i]);
      w1_x[i] = ToFloat(w1[2 * i + 1]);
    }
  });
  cpu::ConvertElements(args.b1.data, args.b1.dtype, b1, DType::kF32, hidden);
  for (int64_t head = 0; head < heads; ++head) {
    const TensorView row = args.w2.Rows(head, 1);
    cpu::ConvertElements(row.data, row.dtype, w2 + head * w.units, DType::kF32, hidden);
  }
  w.w1_y = w1_y;
  w.w1_x = w1_x;
  w.b1 = b1;
  w.w2 = w2;
  return w;
}

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

template <typename Args>
void CheckShapes(const Args& args, const TensorView& table) {
  CHECK(args.w2.shape.rank() == 2 && args.coords.shape.rank() == 2) << args.w2.shape;
  const int64_t heads = args.w2.shape[0], hidden = args.w2.shape[1];
  CHECK_EQ(args.coords.shape[1], 2) << args.coords.shape;
  CHECK(table.shape == Shape({args.coords.shape[0], heads}) && table.dtype == DType::kF32)
      << table.shape << " for " << args.coords.shape << " coordinates and " << heads << " heads";
  CHECK_EQ(args.w1.NumElements(), 2 * hidden) << args.w1.shape;
  CHECK_EQ(args.b1.NumElements(), hidden) << args.b1.shape;
}

}  // namespace

PositionTableScratch TakeScratch(const PositionTableForwardArgs& args, Context& context) {
  return TakeBoth(args, context);
}

PositionTableScratch TakeScratch(const PositionTableBackwardArgs& args, Context& context) {
  return TakeBoth(args, context);
}

namespace cpu {
namespace {

HWY_EXPORT(PositionScores);
HWY_EXPORT(AddPositionGradients);

template <typename Args>
void MakeScores(const Args& args, const PositionWeights& weights, float* scores,
                const Context& context) {
  ParallelFor(context.threads, args.coords.shape[0], 1, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(PositionScores)(weights, args.coords.f32(), begin, end, scores);
  });
}

}  // namespace

void PositionTableForward(const PositionTableForwardArgs& args, Context& context) {
  CheckShapes(args, args.table);
  ArenaScope scope(context.workspace);
  const PositionTableScratch scratch = TakeScratch(args, context);
  const PositionWeights weights = WidenWeights(args, scratch);
  MakeScores(args, weights, scratch.scores, context);
  const int64_t heads = args.table.shape[1];
  for (int64_t t = 0; t < args.table.shape[0]; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      args.table.f32()[t * heads + head] =
          16.0f * Sigmoid(scratch.scores[t * weights.heads + head]);
    }
  }
}

void PositionTableBackward(const PositionTableBackwardArgs& args, Context& context) {
  CheckShapes(args, args.dtable);
  CHECK(args.dw1.NumElements() == args.w1.NumElements() &&
        args.db1.NumElements() == args.b1.NumElements() && args.dw2.shape == args.w2.shape)
      << args.dw1.shape << args.db1.shape << args.dw2.shape;
  ArenaScope scope(context.workspace);
  const PositionTableScratch scratch = TakeScratch(args, context);
  const PositionWeights weights = WidenWeights(args, scratch);
  MakeScores(args, weights, scratch.scores, context);
  const int64_t heads = args.dtable.shape[1];
  for (int64_t t = 0; t < args.dtable.shape[0]; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      float* score = scratch.scores + t * weights.heads + head;
      const float sigmoid = Sigmoid(*score);
      *score = args.dtable.f32()[t * heads + head] * 16.0f * sigmoid * (1.0f - sigmoid);
    }
  }
  // Each unit's sums are made by one thread, in one order, whatever the number of threads.
  ParallelFor(context.threads, args.w2.shape[1], kUnits, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AddPositionGradients)(weights, args, scratch.scores, begin, end);
  });
}

}  // namespace cpu

void LogSpacedCoordinates(int64_t window_h, int64_t window_w, int64_t pretrained_h,
                          int64_t pretrained_w, float* coords) {
  const auto spaced = [](int64_t offset, int64_t size) {
    // A window of one token has the single offset 0, which stays 0.
    const float scaled =
        size > 1 ? static_cast<float>(offset) / static_cast<float>(size - 1) * 8.0f : 0.0f;
    const float magnitude = std::log2(std::abs(scaled) + 1.0f) / std::log2(8.0f);
    return std::copysign(magnitude, scaled);
  };
  const int64_t size_h = pretrained_h > 0 ? pretrained_h : window_h;
  const int64_t size_w = pretrained_w > 0 ? pretrained_w : window_w;
  for (int64_t dy = 1 - window_h; dy < window_h; ++dy) {
    for (int64_t dx = 1 - window_w; dx < window_w; ++dx) {
      *coords++ = spaced(dy, size_h);
      *coords++ = spaced(dx, size_w);
    }
  }
}

}  // namespace swinfleet
#endif  // HWY_ONCE
