// The log-spaced continuous position bias: an MLP over relative coordinates.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace swinfleet {
namespace {

// A parameter in float32: itself, or room for its converted elements.
TensorView TakeWide(const TensorView& parameter, Context& context) {
  if (parameter.dtype == DType::kF32) return parameter;
  return context.workspace->Allocate(parameter.shape);
}

template <typename Args>
PositionTableScratch TakeForward(const Args& args, Context& context) {
  const int64_t entries = args.coords.shape[0];
  PositionTableScratch s;
  s.w1 = TakeWide(args.w1, context);
  s.b1 = TakeWide(args.b1, context);
  s.w2 = TakeWide(args.w2, context);
  s.hidden = context.workspace->Allocate({entries, args.w2.shape[1]});
  return s;
}

void Widen(const TensorView& from, const TensorView& to) {
  if (from.data == to.data) return;
  cpu::ConvertElements(from.data, from.dtype, to.data, to.dtype, from.NumElements());
}

// s.hidden = relu(w1 coords + b1), with the parameters in float32 from here on.
template <typename Args>
void FirstLayer(const Args& args, const PositionTableScratch& s, const Context& context) {
  Widen(args.w1, s.w1);
  Widen(args.b1, s.b1);
  Widen(args.w2, s.w2);
  const int64_t width = s.hidden.shape[1];
  const float *w1 = s.w1.f32(), *b1 = s.b1.f32(), *coords = args.coords.f32();
  ParallelFor(context.threads, args.coords.shape[0], 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float y = coords[2 * t], x = coords[2 * t + 1];
      float* to = s.hidden.f32() + t * width;
      for (int64_t i = 0; i < width; ++i) {
        const float value = w1[2 * i] * y + w1[2 * i + 1] * x + b1[i];
        to[i] = value > 0 ? value : 0.0f;
      }
    }
  });
}

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Units of the hidden layer whose sums are made at once: a vector of any instruction set.
constexpr int64_t kUnits = 16;

// Adds to dw1 and db1 of units [first, first + count), at most kUnits of them.
void AddFirstLayerGradients(const PositionTableBackwardArgs& args, const PositionTableScratch& s,
                            int64_t first, int64_t count) {
  float *dw1 = args.dw1.f32() + 2 * first, *db1 = args.db1.f32() + first;
  float y_sums[kUnits] = {}, x_sums[kUnits] = {}, sums[kUnits] = {};
  for (int64_t i = 0; i < count; ++i) {
    y_sums[i] = dw1[2 * i];
    x_sums[i] = dw1[2 * i + 1];
    sums[i] = db1[i];
  }
  const float* coords = args.coords.f32();
  for (int64_t t = 0; t < args.coords.shape[0]; ++t) {
    const float y = coords[2 * t], x = coords[2 * t + 1];
    const float* values = s.hidden.f32() + t * s.hidden.shape[1] + first;
    const float* gradients = s.dhidden.f32() + t * s.hidden.shape[1] + first;
    for (int64_t i = 0; i < count; ++i) {
      const float gradient = values[i] > 0 ? gradients[i] : 0.0f;
      y_sums[i] += gradient * y;
      x_sums[i] += gradient * x;
      sums[i] += gradient;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    dw1[2 * i] = y_sums[i];
    dw1[2 * i + 1] = x_sums[i];
    db1[i] = sums[i];
  }
}

// dw1 and db1 += through the first layer, from s.dhidden.
void FirstLayerBackward(const PositionTableBackwardArgs& args, const PositionTableScratch& s,
                        const Context& context) {
  // Each unit's sums are made by one thread, in one order, whatever the number of threads.
  ParallelFor(context.threads, s.hidden.shape[1], kUnits, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += kUnits) {
      AddFirstLayerGradients(args, s, i, std::min(kUnits, end - i));
    }
  });
}

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
  return TakeForward(args, context);
}

PositionTableScratch TakeScratch(const PositionTableBackwardArgs& args, Context& context) {
  PositionTableScratch s = TakeForward(args, context);
  s.scores = context.workspace->Allocate(args.dtable.shape);
  s.dhidden = context.workspace->Allocate(s.hidden.shape);
  return s;
}

namespace cpu {

void PositionTableForward(const PositionTableForwardArgs& args, Context& context) {
  CheckShapes(args, args.table);
  ArenaScope scope(context.workspace);
  const PositionTableScratch s = TakeScratch(args, context);
  FirstLayer(args, s, context);
  LinearForward({.x = s.hidden, .weight = s.w2, .bias = {}, .y = args.table}, context);
  float* table = args.table.f32();
  for (int64_t i = 0; i < args.table.NumElements(); ++i) table[i] = 16.0f * Sigmoid(table[i]);
}

void PositionTableBackward(const PositionTableBackwardArgs& args, Context& context) {
  CheckShapes(args, args.dtable);
  CHECK(args.dw1.NumElements() == args.w1.NumElements() &&
        args.db1.NumElements() == args.b1.NumElements() && args.dw2.shape == args.w2.shape)
      << args.dw1.shape << args.db1.shape << args.dw2.shape;
  ArenaScope scope(context.workspace);
  const PositionTableScratch s = TakeScratch(args, context);
  FirstLayer(args, s, context);
  LinearForward({.x = s.hidden, .weight = s.w2, .bias = {}, .y = s.scores}, context);
  float* scores = s.scores.f32();
  for (int64_t i = 0; i < s.scores.NumElements(); ++i) {
    const float sigmoid = Sigmoid(scores[i]);
    scores[i] = args.dtable.f32()[i] * 16.0f * sigmoid * (1.0f - sigmoid);
  }
  LinearBackwardWeight({.dy = s.scores, .x = s.hidden, .dweight = args.dw2, .dbias = {}}, context);
  LinearBackwardInput({.dy = s.scores, .weight = s.w2, .dx = s.dhidden, .accumulate = false},
                      context);
  FirstLayerBackward(args, s, context);
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
