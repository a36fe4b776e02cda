// Additions, fills and sums over long vectors.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Sixteen interleaved sums, added up in a fixed order: the same bits for every instruction set,
// since the square of a float is exact in a double. A plain loop, which the compiler vectorises.
double ChunkSum(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (int lane = 0; i < n; ++i, ++lane) {
    const double value = x[i];
    sums[lane] += value * value;
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

double ChunkSumOfSquares(const TensorView& x) {
  const int64_t n = x.NumElements();
  if (x.dtype == DType::kF32) return ChunkSum(x.f32(), n);
  float wide[kNormChunk];
  ConvertElements(x.data, x.dtype, wide, DType::kF32, n);
  return ChunkSum(wide, n);
}

// What rounding takes away from each new sum goes into the next addition.
void AddCompensatedTo(const TensorView& x, hwy::bfloat16_t* sum, hwy::bfloat16_t* error) {
  DispatchDType(x.dtype, [&](auto tag) {
    const auto* values = Elements<decltype(tag)>(x);
    const int64_t n = x.NumElements(), lanes = static_cast<int64_t>(hn::Lanes(D()));
    for (int64_t i = 0; i < n; i += lanes) {
      const int64_t count = std::min(lanes, n - i);
      const V before = LoadPart(sum + i, count);
      const V added = hn::Add(LoadPart(values + i, count), LoadPart(error + i, count));
      StorePart(hn::Add(before, added), sum + i, count);
      const V after = LoadPart(sum + i, count);
      StorePart(hn::Add(hn::Sub(before, after), added), error + i, count);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(ChunkSumOfSquares);
HWY_EXPORT(AddCompensatedTo);

// Elements below which a second thread does not pay.
constexpr int64_t kGrain = 16384;

// Elements [begin, end) of a tensor.
TensorView Part(const TensorView& x, int64_t begin, int64_t end) {
  return x.Reshape({x.NumElements()}).Rows(begin, end - begin);
}

}  // namespace

void Add(const AddArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CHECK(IsFloating(args.x.dtype) && (args.y.dtype == args.x.dtype || args.y.dtype == DType::kF32))
      << NameOf(args.x.dtype) << " to " << NameOf(args.y.dtype);
  ParallelFor(context.threads, args.x.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    AddElements(Part(args.x, begin, end).data, args.x.dtype, Part(args.y, begin, end).data,
                args.y.dtype, end - begin);
  });
}

void AddBroadcast(const AddBroadcastArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), batch = args.y.shape[0];
  CHECK_EQ(args.y.NumElements(), batch * n) << args.x.shape << " to " << args.y.shape;
  CheckFloating(args.x.dtype, {args.y});
  ParallelFor(context.threads, batch, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      AddElements(args.x.data, args.x.dtype, args.y.Rows(b, 1).data, args.y.dtype, n);
    }
  });
}

void SumBroadcast(const SumBroadcastArgs& args, Context& context) {
  const int64_t n = args.dx.NumElements(), batch = args.dy.shape[0];
  CHECK_EQ(args.dy.NumElements(), batch * n) << args.dy.shape << " to " << args.dx.shape;
  CheckFloating(args.dy.dtype, {});
  CheckDtype(DType::kF32, {args.dx});
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    const TensorView first = Part(args.dy, begin, end);
    AddRows({first.data, first.dtype, batch, end - begin, n}, args.dx.f32() + begin);
  });
}

void Fill(const FillArgs& args, Context& context) {
  CheckFloating(args.x.dtype, {});
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* x = Elements<T>(args.x);
    const T value = FromFloat<T>(args.value);
    ParallelFor(context.threads, args.x.NumElements(), kGrain,
                [&](int64_t begin, int64_t end, int) { std::fill(x + begin, x + end, value); });
  });
}

void SumOfSquares(const SumOfSquaresArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), chunks = (n + kNormChunk - 1) / kNormChunk;
  CHECK(args.x.dtype == DType::kF32 || args.x.dtype == DType::kBF16) << NameOf(args.x.dtype);
  ParallelFor(context.threads, chunks, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kNormChunk;
      args.sums[chunk] = HWY_DYNAMIC_DISPATCH(ChunkSumOfSquares)(
          Part(args.x, first, std::min(n, first + kNormChunk)));
    }
  });
}

void AddCompensated(const AddCompensatedArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK(args.sum.NumElements() == n && args.error.NumElements() == n)
      << args.x.shape << args.sum.shape << args.error.shape;
  CHECK(args.x.dtype == DType::kF32 || args.x.dtype == DType::kBF16) << NameOf(args.x.dtype);
  CheckDtype(DType::kBF16, {args.sum, args.error});
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AddCompensatedTo)
    (Part(args.x, begin, end), Elements<hwy::bfloat16_t>(args.sum) + begin,
     Elements<hwy::bfloat16_t>(args.error) + begin);
  });
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
