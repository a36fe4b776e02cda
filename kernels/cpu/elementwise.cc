// Additions, fills and sums over long vectors.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Plain loops, which the compiler vectorises for the target.
void AddTo(const float* __restrict x, float* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

// Sixteen interleaved sums, added up in a fixed order: the same bits for every instruction set,
// since the square of a float is exact in a double.
double ChunkSumOfSquares(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * x[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(AddTo);
HWY_EXPORT(ChunkSumOfSquares);

// Elements below which a second thread does not pay.
constexpr int64_t kGrain = 16384;

}  // namespace

void Add(const AddArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  ParallelFor(context.threads, args.x.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AddTo)(args.x.f32() + begin, args.y.f32() + begin, end - begin);
  });
}

void AddBroadcast(const AddBroadcastArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), batch = args.y.shape[0];
  CHECK_EQ(args.y.NumElements(), batch * n) << args.x.shape << " to " << args.y.shape;
  ParallelFor(context.threads, batch, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      HWY_DYNAMIC_DISPATCH(AddTo)(args.x.f32(), args.y.f32() + b * n, n);
    }
  });
}

void SumBroadcast(const SumBroadcastArgs& args, Context& context) {
  const int64_t n = args.dx.NumElements(), batch = args.dy.shape[0];
  CHECK_EQ(args.dy.NumElements(), batch * n) << args.dy.shape << " to " << args.dx.shape;
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < batch; ++b) {
      HWY_DYNAMIC_DISPATCH(AddTo)
      (args.dy.f32() + b * n + begin, args.dx.f32() + begin, end - begin);
    }
  });
}

void Fill(const FillArgs& args, Context& context) {
  ParallelFor(context.threads, args.x.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    std::fill(args.x.f32() + begin, args.x.f32() + end, args.value);
  });
}

void SumOfSquares(const SumOfSquaresArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), chunks = (n + kNormChunk - 1) / kNormChunk;
  ParallelFor(context.threads, chunks, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kNormChunk;
      args.sums[chunk] = HWY_DYNAMIC_DISPATCH(ChunkSumOfSquares)(args.x.f32() + first,
                                                                 std::min(kNormChunk, n - first));
    }
  });
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
