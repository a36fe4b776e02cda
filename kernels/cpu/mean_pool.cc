// Mean over the tokens of a picture.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

// Channels whose float32 sums are on the stack.
constexpr int64_t kChannels = 1024;

char* At(const TensorView& x, int64_t element) {
  return static_cast<char*>(x.data) + element * static_cast<int64_t>(SizeOf(x.dtype));
}

// Calls body(picture, first channel, channels) for blocks of each picture's channels.
template <typename Body>
void ForEachBlock(const TensorView& tokens, const TensorView& means, int threads,
                  const Body& body) {
  CHECK_EQ(tokens.shape.rank(), 3);
  const int64_t batch = tokens.shape[0], channels = tokens.shape[2];
  CHECK(means.shape == Shape({batch, channels})) << means.shape;
  CheckFloating(tokens.dtype, {means});
  ParallelFor(threads, batch, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t c = 0; c < channels; c += kChannels) {
        body(b, c, std::min(kChannels, channels - c));
      }
    }
  });
}

void Scale(float* values, int64_t n, int64_t tokens) {
  const float scale = 1.0f / static_cast<float>(tokens);
  for (int64_t i = 0; i < n; ++i) values[i] *= scale;
}

}  // namespace

void MeanPoolForward(const MeanPoolForwardArgs& args, Context& context) {
  const int64_t tokens = args.x.shape[1], channels = args.x.shape[2];
  ForEachBlock(args.x, args.y, context.threads, [&](int64_t b, int64_t c, int64_t n) {
    float sums[kChannels] = {};
    AddRows({At(args.x, b * tokens * channels + c), args.x.dtype, tokens, n, channels}, sums);
    Scale(sums, n, tokens);
    ConvertElements(sums, DType::kF32, At(args.y, b * channels + c), args.y.dtype, n);
  });
}

void MeanPoolBackward(const MeanPoolBackwardArgs& args, Context& context) {
  const int64_t tokens = args.dx.shape[1], channels = args.dx.shape[2];
  ForEachBlock(args.dx, args.dy, context.threads, [&](int64_t b, int64_t c, int64_t n) {
    float scaled[kChannels];
    ConvertElements(At(args.dy, b * channels + c), args.dy.dtype, scaled, DType::kF32, n);
    Scale(scaled, n, tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      ConvertElements(scaled, DType::kF32, At(args.dx, (b * tokens + t) * channels + c),
                      args.dx.dtype, n);
    }
  });
}

}  // namespace swinfleet::cpu
