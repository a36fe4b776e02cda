// SimMIM's mask token in the place of masked tokens, and its gradient.
#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

// Channels whose float32 sums are on the stack.
constexpr int64_t kChannels = 1024;

// Letters: B pictures, L tokens, C channels.
struct MaskedRows {
  MaskedRows(const TensorView& mask, const TensorView& x)
      : flags(mask.i32()), rows(x.shape[0] * x.shape[1]), period(mask.NumElements()) {
    CHECK_EQ(x.shape.rank(), 3) << x.shape;
    CHECK(mask.shape == Shape({x.shape[0], x.shape[1]}) || mask.shape == Shape({1, x.shape[1]}))
        << mask.shape << " for " << x.shape;
    CheckDtype(DType::kI32, {mask});
  }
  bool operator[](int64_t row) const { return flags[row % period] != 0; }

  const int32_t* flags;
  int64_t rows;
  int64_t period;
};

char* At(const TensorView& x, int64_t element) {
  return static_cast<char*>(x.data) + element * static_cast<int64_t>(SizeOf(x.dtype));
}

}  // namespace

void MaskTokensForward(const MaskTokensForwardArgs& args, Context& context) {
  const MaskedRows masked(args.mask, args.x);
  const int64_t channels = args.x.shape[2];
  CHECK_EQ(args.token.NumElements(), channels);
  CheckFloating(args.x.dtype, {args.token});
  const size_t bytes = channels * SizeOf(args.x.dtype);
  ParallelFor(context.threads, masked.rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (masked[row]) std::memcpy(At(args.x, row * channels), args.token.data, bytes);
    }
  });
}

void MaskTokensBackward(const MaskTokensBackwardArgs& args, Context& context) {
  const MaskedRows masked(args.mask, args.dx);
  const int64_t tokens = args.dx.shape[1], channels = args.dx.shape[2];
  CHECK_EQ(args.dtoken.NumElements(), channels);
  CheckFloating(args.dx.dtype, {});
  CheckDtype(DType::kF32, {args.dtoken});
  // Each channel's sum is made by one thread, picture by picture, whatever the number of threads.
  ParallelFor(context.threads, channels, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; c += kChannels) {
      const int64_t n = std::min(kChannels, end - c);
      for (int64_t first = 0; first < masked.rows; first += tokens) {
        float sums[kChannels] = {};
        for (int64_t row = first; row < first + tokens; ++row) {
          if (!masked[row]) continue;
          char* dx = At(args.dx, row * channels + c);
          AddElements(dx, args.dx.dtype, sums, DType::kF32, n);
          std::memset(dx, 0, n * SizeOf(args.dx.dtype));
        }
        AddElements(sums, DType::kF32, args.dtoken.f32() + c, DType::kF32, n);
      }
    }
  });
}

}  // namespace swinfleet::cpu
