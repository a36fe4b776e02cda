// GELU, residuals, casts, additions and fills: one streaming pass each.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

// y = f(x) and the like over n elements, kWidth at a time.
int64_t Packs(int64_t n, int width) { return (n + width - 1) / width; }

template <typename T, int kWidth>
struct Gelu {
  const T* x;
  T* y;
  int64_t n;

  __device__ void operator()(int64_t pack) const {
    float v[kWidth];
    LoadUpTo<kWidth>(x, pack * kWidth, n, v);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678f));
    StoreUpTo<kWidth>(v, pack * kWidth, n, y);
  }
};

template <typename T>
struct GeluGradientArrays {
  const T* x;
  const T* dy;
  T* dx;
  T* y;  // or null
};

// dx = dy gelu'(x), where it may take dy's place, and x becomes gelu(x).
template <int kWidth>
__device__ void GeluGradientOf(float (&x)[kWidth], float (&d)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float phi = 0.5f * (1.0f + erff(x[i] * 0.70710678f));
    // The density underflows before the product with a huge x could be anything but 0.
    const float bounded = fminf(fmaxf(x[i], -1e4f), 1e4f);
    const float density = 0.39894228f * expf(-0.5f * bounded * bounded);
    d[i] *= phi + bounded * density;
    x[i] *= phi;
  }
}

template <typename T, int kWidth>
struct GeluGradient {
  GeluGradientArrays<T> a;
  int64_t n;

  __device__ void operator()(int64_t pack) const {
    float v[kWidth], d[kWidth];
    LoadUpTo<kWidth>(a.x, pack * kWidth, n, v);
    LoadUpTo<kWidth>(a.dy, pack * kWidth, n, d);
    GeluGradientOf(v, d);
    StoreUpTo<kWidth>(d, pack * kWidth, n, a.dx);
    if (a.y != nullptr) StoreUpTo<kWidth>(v, pack * kWidth, n, a.y);
  }
};

// The same for rows of c elements, and the sums of the columns of dx, as it was rounded. A block
// has a warp's width of columns (x) and every gridDim.y-th run of as many rows as it has warps (y).
template <typename T, int kWidth>
__global__ void GeluBiasGradientKernel(GeluGradientArrays<T> a, int64_t rows, int64_t c,
                                       float* parts) {
  SharedCarver carver;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  float* sums = carver.Take<float>(warps * kWarp * kWidth);  // (warps, kWidth, lanes)
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kWarp + lane) * kWidth;
  float sum[kWidth] = {};
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * warps + warp; row < rows && column < c;
       row += static_cast<int64_t>(gridDim.y) * warps) {
    float v[kWidth], d[kWidth];
    LoadFloats<kWidth>(a.x + row * c + column, v);
    LoadFloats<kWidth>(a.dy + row * c + column, d);
    GeluGradientOf(v, d);
    StoreFloats<kWidth>(d, a.dx + row * c + column);
    if (a.y != nullptr) StoreFloats<kWidth>(v, a.y + row * c + column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] += ToFloat(FromFloat<T>(d[i]));
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sums[(warp * kWidth + i) * kWarp + lane] = sum[i];
  __syncthreads();
  if (warp > 0 || column >= c) return;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    float total = 0;
    for (int w = 0; w < warps; ++w) total += sums[(w * kWidth + i) * kWarp + lane];
    parts[static_cast<int64_t>(blockIdx.y) * c + column + i] = total;
  }
}

// y = x + scale[row's picture] branch; without x, y = scale branch. A pack lies within a row.
template <typename T, int kWidth>
struct ScaledAdd {
  const T* x;  // or null
  const T* branch;
  const float* scale;  // or null: 1
  T* y;
  int64_t packs_per_picture;
  int64_t n;

  __device__ void operator()(int64_t pack) const {
    const float factor = scale == nullptr ? 1.0f : scale[pack / packs_per_picture];
    float v[kWidth], sum[kWidth] = {};
    LoadUpTo<kWidth>(branch, pack * kWidth, n, v);
    if (x != nullptr) LoadUpTo<kWidth>(x, pack * kWidth, n, sum);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = fmaf(v[i], factor, sum[i]);
    StoreUpTo<kWidth>(sum, pack * kWidth, n, y);
  }
};

void RunScaledAdd(const TensorView& x, const TensorView& branch, const TensorView& scale,
                  const TensorView& y, const Context& context) {
  CHECK_EQ(branch.shape.rank(), 2);
  CHECK(y.shape == branch.shape && (x.empty() || x.shape == branch.shape))
      << x.shape << branch.shape << y.shape;
  CHECK(scale.empty() || branch.shape[0] % scale.NumElements() == 0) << branch.shape << scale.shape;
  CheckFloating(branch.dtype, {x, y});
  CheckDtype(DType::kF32, {scale});
  const int64_t n = branch.NumElements();
  if (n == 0) return;
  const int64_t picture = scale.empty() ? n : n / scale.NumElements();
  DispatchDType(branch.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto width) {
      constexpr int kWidth = width;
      ForEach(Packs(n, kWidth),
              ScaledAdd<T, kWidth>{Elements<T>(x), Elements<T>(branch), Elements<float>(scale),
                                   Elements<T>(y), Packs(picture, kWidth), n},
              context);
    };
    // A pack must not reach into the next picture.
    const int64_t width = 16 / static_cast<int64_t>(sizeof(T));
    if (!scale.empty() && picture % width != 0) return run(std::integral_constant<int, 1>());
    DispatchWidth(branch.dtype, {x, branch, y}, run);
  });
}

template <typename From, typename To, int kWidth>
struct Convert {
  const From* x;
  To* y;
  int64_t n;
  bool add;

  __device__ void operator()(int64_t pack) const {
    float v[kWidth], sum[kWidth] = {};
    LoadUpTo<kWidth>(x, pack * kWidth, n, v);
    if (add) {
      LoadUpTo<kWidth>(y, pack * kWidth, n, sum);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) v[i] += sum[i];
    }
    StoreUpTo<kWidth>(v, pack * kWidth, n, y);
  }
};

void RunConvert(const TensorView& x, const TensorView& y, bool add, const Context& context) {
  const int64_t n = x.NumElements();
  DispatchDType(x.dtype, [&](auto from_tag) {
    DispatchDType(y.dtype, [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      const DType smallest = SizeOf(x.dtype) < SizeOf(y.dtype) ? x.dtype : y.dtype;
      DispatchWidth(smallest, {x, y}, [&](auto width) {
        constexpr int kWidth = width;
        ForEach(Packs(n, kWidth),
                Convert<From, To, kWidth>{Elements<From>(x), Elements<To>(y), n, add}, context);
      });
    });
  });
}

template <typename T>
struct AddRow {
  const T* x;  // (n)
  T* y;        // (B, n)
  int64_t n;

  __device__ void operator()(int64_t i) const {
    y[i] = FromFloat<T>(ToFloat(y[i]) + ToFloat(x[i % n]));
  }
};

template <typename T>
struct SumRows {
  const T* dy;  // (B, n)
  float* dx;    // (n)
  int64_t batch, n;

  __device__ void operator()(int64_t i) const {
    float sum = dx[i];
    for (int64_t b = 0; b < batch; ++b) sum += ToFloat(dy[b * n + i]);
    dx[i] = sum;
  }
};

template <typename T>
struct FillWith {
  T* x;
  T value;

  __device__ void operator()(int64_t i) const { x[i] = value; }
};

// What rounding takes away from each new sum goes into the next addition.
template <typename T>
struct CompensatedSum {
  const T* x;
  __nv_bfloat16* sum;
  __nv_bfloat16* error;

  __device__ void operator()(int64_t i) const {
    const float before = ToFloat(sum[i]);
    const float added = __fadd_rn(ToFloat(x[i]), ToFloat(error[i]));
    sum[i] = FromFloat<__nv_bfloat16>(__fadd_rn(before, added));
    const float after = ToFloat(sum[i]);
    error[i] = FromFloat<__nv_bfloat16>(__fadd_rn(__fadd_rn(before, -after), added));
  }
};

template <typename T>
GeluGradientArrays<T> GeluArraysOf(const GeluBackwardArgs& args) {
  return {Elements<T>(args.x), Elements<T>(args.dy), Elements<T>(args.dx), Elements<T>(args.y)};
}

void GeluBiasGradient(const GeluBackwardArgs& args, Context& context) {
  CHECK_EQ(args.x.shape.rank(), 2);
  const int64_t rows = args.x.shape[0], c = args.x.shape[1];
  CHECK_EQ(args.dbias.NumElements(), c);
  CheckDtype(DType::kF32, {args.dbias});
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  if (rows == 0) return;
  const int64_t parts = GeluParts(rows);
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    DispatchRowWidth(c, args.x.dtype, {args.x, args.dy, args.dx, args.y}, [&](auto width) {
      constexpr int kWidth = width;
      const int64_t blocks = (c + kWarp * kWidth - 1) / (kWarp * kWidth);
      GpuLaunch(GeluBiasGradientKernel<T, kWidth>, dim3(Narrow(blocks), Narrow(parts)), kThreads,
                kThreads * kWidth * sizeof(float), StreamOf(context), GeluArraysOf<T>(args), rows,
                c, sums);
    });
  });
  AddParts({sums, parts, c, c}, Elements<float>(args.dbias), context);
}

// Pixel by pixel of pairs of pictures.
struct MixPairs {
  float* image;
  const float* weight;  // (batch, 2)
  const int32_t* box;   // (batch, 4)
  int64_t batch, pixels;
  uint32_t height, width;  // `pixels` are those of all planes

  __device__ float Of(int64_t picture, int32_t row, int32_t column, float own,
                      float partner) const {
    const int32_t* inside = box + 4 * picture;
    if (row >= inside[0] && row < inside[1] && column >= inside[2] && column < inside[3]) {
      return partner;
    }
    const float of_partner = weight[2 * picture + 1];
    return of_partner == 0 ? own : weight[2 * picture] * own + of_partner * partner;
  }

  __device__ void operator()(int64_t i) const {
    const int64_t first = i / pixels, second = batch - 1 - first;
    const auto pixel = static_cast<uint32_t>(i % pixels);
    const auto row = static_cast<int32_t>(pixel / width % height);
    const auto column = static_cast<int32_t>(pixel % width);
    float* one = image + first * pixels + pixel;
    float* two = image + second * pixels + pixel;
    const float a = *one, b = *two;
    *one = Of(first, row, column, a, b);
    *two = Of(second, row, column, b, a);
  }
};

}  // namespace

void GeluForward(const GeluForwardArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK_EQ(n, args.y.NumElements());
  CheckFloating(args.x.dtype, {args.y});
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    DispatchWidth(args.x.dtype, {args.x, args.y}, [&](auto width) {
      constexpr int kWidth = width;
      ForEach(Packs(n, kWidth), Gelu<T, kWidth>{Elements<T>(args.x), Elements<T>(args.y), n},
              context);
    });
  });
}

void GeluBackward(const GeluBackwardArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK(args.dy.NumElements() == n && args.dx.NumElements() == n);
  CHECK(args.y.empty() || args.y.NumElements() == n);
  CheckFloating(args.x.dtype, {args.dy, args.dx, args.y});
  if (!args.dbias.empty()) return GeluBiasGradient(args, context);
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    DispatchWidth(args.x.dtype, {args.x, args.dy, args.dx, args.y}, [&](auto width) {
      constexpr int kWidth = width;
      ForEach(Packs(n, kWidth), GeluGradient<T, kWidth>{GeluArraysOf<T>(args), n}, context);
    });
  });
}

void ResidualAdd(const ResidualAddArgs& args, Context& context) {
  CHECK(!args.x.empty());
  RunScaledAdd(args.x, args.branch, args.scale, args.y, context);
}

void ScaleRows(const ScaleRowsArgs& args, Context& context) {
  CHECK(!args.scale.empty());
  RunScaledAdd({}, args.x, args.scale, args.y, context);
}

void Cast(const CastArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CHECK(IsFloating(args.x.dtype) && IsFloating(args.y.dtype))
      << NameOf(args.x.dtype) << " to " << NameOf(args.y.dtype);
  RunConvert(args.x, args.y, false, context);
}

void MixPictures(const MixPicturesArgs& args, Context& context) {
  CheckMix(args);
  const Shape& shape = args.image.shape;
  const int64_t pixels = Narrow(shape[1] * shape[2] * shape[3]);
  ForEach(
      shape[0] / 2 * pixels,
      MixPairs{Elements<float>(args.image), Elements<float>(args.weight),
               Elements<int32_t>(args.box), shape[0], pixels, Narrow(shape[2]), Narrow(shape[3])},
      context);
}

void Add(const AddArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CHECK(IsFloating(args.x.dtype) && (args.y.dtype == args.x.dtype || args.y.dtype == DType::kF32))
      << NameOf(args.x.dtype) << " to " << NameOf(args.y.dtype);
  RunConvert(args.x, args.y, true, context);
}

void AddBroadcast(const AddBroadcastArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), batch = args.y.shape[0];
  CHECK_EQ(args.y.NumElements(), batch * n) << args.x.shape << " to " << args.y.shape;
  CheckFloating(args.x.dtype, {args.y});
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(batch * n, AddRow<T>{Elements<T>(args.x), Elements<T>(args.y), n}, context);
  });
}

void SumBroadcast(const SumBroadcastArgs& args, Context& context) {
  const int64_t n = args.dx.NumElements(), batch = args.dy.shape[0];
  CHECK_EQ(args.dy.NumElements(), batch * n) << args.dy.shape << " to " << args.dx.shape;
  CheckFloating(args.dy.dtype, {});
  CheckDtype(DType::kF32, {args.dx});
  DispatchDType(args.dy.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(n, SumRows<T>{Elements<T>(args.dy), Elements<float>(args.dx), batch, n}, context);
  });
}

void Fill(const FillArgs& args, Context& context) {
  CheckFloating(args.x.dtype, {});
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(args.x.NumElements(), FillWith<T>{Elements<T>(args.x), FromFloat<T>(args.value)},
            context);
  });
}

void AddCompensated(const AddCompensatedArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK(args.sum.NumElements() == n && args.error.NumElements() == n)
      << args.x.shape << args.sum.shape << args.error.shape;
  CHECK(args.x.dtype == DType::kF32 || args.x.dtype == DType::kBF16) << NameOf(args.x.dtype);
  CheckDtype(DType::kBF16, {args.sum, args.error});
  auto* sum = Elements<__nv_bfloat16>(args.sum);
  auto* error = Elements<__nv_bfloat16>(args.error);
  if (args.x.dtype == DType::kF32) {
    ForEach(n, CompensatedSum<float>{Elements<float>(args.x), sum, error}, context);
  } else {
    ForEach(n, CompensatedSum<__nv_bfloat16>{Elements<__nv_bfloat16>(args.x), sum, error}, context);
  }
}

}  // namespace swinfleet::cuda
