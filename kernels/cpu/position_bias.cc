// The log-spaced continuous position bias: an MLP over relative coordinates, spread to pairs of
// tokens.
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace swinfleet {
namespace {

LinearForwardArgs SecondLayer(const PositionBiasScratch& s, const TensorView& w2) {
  return {.x = s.hidden, .weight = w2, .bias = {}, .y = s.table};
}

PositionBiasScratch TakeForward(const TensorView& coords, const TensorView& w2, Context& context) {
  const int64_t entries = coords.shape[0], heads = w2.shape[0], hidden = w2.shape[1];
  PositionBiasScratch s;
  s.hidden = context.workspace->Allocate({entries, hidden});
  s.table = context.workspace->Allocate({entries, heads});
  return s;
}

// hidden = relu(w1 coords + b1).
void FirstLayer(const TensorView& coords, const TensorView& w1, const TensorView& b1,
                const TensorView& hidden) {
  const int64_t width = hidden.shape[1];
  for (int64_t t = 0; t < coords.shape[0]; ++t) {
    const float y = coords.f32()[2 * t], x = coords.f32()[2 * t + 1];
    float* to = hidden.f32() + t * width;
    for (int64_t i = 0; i < width; ++i) {
      const float value = w1.f32()[2 * i] * y + w1.f32()[2 * i + 1] * x + b1.f32()[i];
      to[i] = value > 0 ? value : 0.0f;
    }
  }
}

float SixteenSigmoid(float x) { return 16.0f / (1.0f + std::exp(-x)); }

template <typename Args>
void CheckShapes(const Args& args, const TensorView& bias) {
  const int64_t tokens = args.window_h * args.window_w;
  const int64_t entries = (2 * args.window_h - 1) * (2 * args.window_w - 1);
  CHECK(args.coords.shape == Shape({entries, 2})) << args.coords.shape;
  CHECK_EQ(bias.NumElements(), args.w2.shape[0] * tokens * tokens) << bias.shape;
  CHECK_EQ(args.w1.NumElements(), 2 * args.w2.shape[1]) << args.w1.shape;
  CHECK_EQ(args.b1.NumElements(), args.w2.shape[1]) << args.b1.shape;
}

}  // namespace

PositionBiasScratch TakeScratch(const PositionBiasForwardArgs& args, Context& context) {
  return TakeForward(args.coords, args.w2, context);
}

PositionBiasScratch TakeScratch(const PositionBiasBackwardArgs& args, Context& context) {
  PositionBiasScratch s = TakeForward(args.coords, args.w2, context);
  s.dtable = context.workspace->Allocate(s.table.shape);
  s.dhidden = context.workspace->Allocate(s.hidden.shape);
  return s;
}

namespace cpu {

void PositionBiasForward(const PositionBiasForwardArgs& args, Context& context) {
  CheckShapes(args, args.bias);
  ArenaScope scope(context.workspace);
  const PositionBiasScratch s = TakeScratch(args, context);
  FirstLayer(args.coords, args.w1, args.b1, s.hidden);
  LinearForward(SecondLayer(s, args.w2), context);
  float* table = s.table.f32();
  for (int64_t i = 0; i < s.table.NumElements(); ++i) table[i] = SixteenSigmoid(table[i]);
  const int64_t heads = args.w2.shape[0], tokens = args.window_h * args.window_w;
  ParallelFor(context.threads, tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < tokens; ++j) {
        const int64_t entry = RelativePositionIndex(args.window_h, args.window_w, i, j);
        for (int64_t head = 0; head < heads; ++head) {
          args.bias.f32()[(head * tokens + i) * tokens + j] = table[entry * heads + head];
        }
      }
    }
  });
}

void PositionBiasBackward(const PositionBiasBackwardArgs& args, Context& context) {
  CheckShapes(args, args.dbias);
  CHECK(args.dw1.shape == args.w1.shape && args.db1.NumElements() == args.b1.NumElements() &&
        args.dw2.shape == args.w2.shape)
      << args.dw1.shape << args.db1.shape << args.dw2.shape;
  ArenaScope scope(context.workspace);
  const PositionBiasScratch s = TakeScratch(args, context);
  FirstLayer(args.coords, args.w1, args.b1, s.hidden);
  LinearForward(SecondLayer(s, args.w2), context);
  const int64_t heads = args.w2.shape[0], hidden = args.w2.shape[1];
  const int64_t tokens = args.window_h * args.window_w, entries = args.coords.shape[0];
  float* dtable = s.dtable.f32();
  std::fill_n(dtable, s.dtable.NumElements(), 0.0f);
  for (int64_t i = 0; i < tokens; ++i) {
    for (int64_t j = 0; j < tokens; ++j) {
      const int64_t entry = RelativePositionIndex(args.window_h, args.window_w, i, j);
      for (int64_t head = 0; head < heads; ++head) {
        dtable[entry * heads + head] += args.dbias.f32()[(head * tokens + i) * tokens + j];
      }
    }
  }
  for (int64_t i = 0; i < s.table.NumElements(); ++i) {
    const float sigmoid = SixteenSigmoid(s.table.f32()[i]) / 16.0f;
    dtable[i] *= 16.0f * sigmoid * (1.0f - sigmoid);
  }
  LinearBackwardWeight({.dy = s.dtable, .x = s.hidden, .dweight = args.dw2, .dbias = {}}, context);
  LinearBackwardInput({.dy = s.dtable, .weight = args.w2, .dx = s.dhidden, .accumulate = false},
                      context);
  for (int64_t t = 0; t < entries; ++t) {
    const float y = args.coords.f32()[2 * t], x = args.coords.f32()[2 * t + 1];
    for (int64_t i = 0; i < hidden; ++i) {
      if (s.hidden.f32()[t * hidden + i] <= 0) continue;
      const float gradient = s.dhidden.f32()[t * hidden + i];
      args.dw1.f32()[2 * i] += gradient * y;
      args.dw1.f32()[2 * i + 1] += gradient * x;
      args.db1.f32()[i] += gradient;
    }
  }
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
