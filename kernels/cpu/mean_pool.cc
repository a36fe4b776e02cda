// Mean over the tokens of a picture.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {

void MeanPoolForward(const MeanPoolForwardArgs& args, Context& context) {
  const int64_t batch = args.x.shape[0], tokens = args.x.shape[1], channels = args.x.shape[2];
  CHECK(args.y.shape == Shape({batch, channels})) << args.y.shape;
  const float scale = 1.0f / static_cast<float>(tokens);
  ParallelFor(context.threads, batch, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      float* __restrict y = args.y.f32() + b * channels;
      std::fill_n(y, channels, 0.0f);
      for (int64_t t = 0; t < tokens; ++t) {
        const float* __restrict x = args.x.f32() + (b * tokens + t) * channels;
        for (int64_t c = 0; c < channels; ++c) y[c] += x[c];
      }
      for (int64_t c = 0; c < channels; ++c) y[c] *= scale;
    }
  });
}

void MeanPoolBackward(const MeanPoolBackwardArgs& args, Context& context) {
  const int64_t batch = args.dx.shape[0], tokens = args.dx.shape[1], channels = args.dx.shape[2];
  CHECK(args.dy.shape == Shape({batch, channels})) << args.dy.shape;
  const float scale = 1.0f / static_cast<float>(tokens);
  ParallelFor(context.threads, batch, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const float* __restrict dy = args.dy.f32() + b * channels;
      for (int64_t t = 0; t < tokens; ++t) {
        float* __restrict dx = args.dx.f32() + (b * tokens + t) * channels;
        for (int64_t c = 0; c < channels; ++c) dx[c] = dy[c] * scale;
      }
    }
  });
}

}  // namespace swinfleet::cpu
