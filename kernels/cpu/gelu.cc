// GELU with the exact error function, and its gradient.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gelu.cc"
#include <cmath>

// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector-inl.h"

#ifndef SWINFLEET_KERNELS_CPU_GELU_TABLES_
#define SWINFLEET_KERNELS_CPU_GELU_TABLES_
namespace swinfleet::cpu {

// A function of [0, kGeluEnd] in pieces: piece i is centred on i / kGeluPiecesPerUnit, and a
// polynomial of where a number lies in it, [-1/2, 1/2].
inline constexpr int kGeluPieces = 32;
// An absolute error of 6e-8, and of 3e-7 for what is rounded to 16 bits.
inline constexpr int kGeluDegree = 4;
inline constexpr int kGeluDegreeOf16Bits = 3;
inline constexpr double kGeluEnd = 6;
inline constexpr double kGeluPiecesPerUnit = (kGeluPieces - 1) / kGeluEnd;
struct GeluTable {
  // Those of the same power of all pieces side by side, the constants first; zeros beyond the
  // degree.
  float coefficients[kGeluDegree + 1][kGeluPieces];
};

// Of the tail Phi(-x) of the normal distribution, and of GELU's slope at -x, with polynomials of
// one of the degrees.
const GeluTable& GeluTailTable(int degree);
const GeluTable& GeluSlopeTable(int degree);

}  // namespace swinfleet::cpu
#endif

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Two registers hold a coefficient of all pieces, which an instruction then looks up: less work
// than an exponential.
template <int kDegree>
class GeluPolynomial {
 public:
  HWY_INLINE explicit GeluPolynomial(const GeluTable& table) {
#pragma GCC unroll 8
    for (int k = 0; k <= kDegree; ++k) {
      low_[k] = LoadWhole(table.coefficients[k]);
      high_[k] = LoadWhole(table.coefficients[k] + kGeluPieces / 2);
    }
  }
  // At `within` of the pieces that the lowest bits of `piece` number.
  HWY_INLINE V operator()(V piece, V within) const {
    const __m512i index = _mm512_castps_si512(piece.raw);
    const auto coefficient = [&](int k) {
      return V{_mm512_permutex2var_ps(low_[k].raw, index, high_[k].raw)};
    };
    V value = coefficient(kDegree);
#pragma GCC unroll 8
    for (int k = kDegree - 1; k >= 0; --k) value = hn::MulAdd(value, within, coefficient(k));
    return value;
  }

 private:
  V low_[kDegree + 1], high_[kDegree + 1];
};

// Where |x| lies in the tables.
struct GeluPlace {
  HWY_INLINE explicit GeluPlace(V x) {
    const D d;
    const V scale = hn::Set(d, static_cast<float>(kGeluPiecesPerUnit));
    // Beside 1.5 * 2^23 a number is rounded to an integer, which the lowest bits of the sum hold.
    const V magic = hn::Set(d, 12582912.0f);
    // In this order NaN stays NaN, here and in Value.
    magnitude = hn::Min(hn::Set(d, static_cast<float>(kGeluEnd)), hn::Abs(x));
    piece = hn::MulAdd(magnitude, scale, magic);
    within = hn::MulSub(magnitude, scale, hn::Sub(piece, magic));
  }
  V magnitude;
  V piece;
  V within;
};

template <typename T>
inline constexpr int kDegreeOf = sizeof(T) == 2 ? kGeluDegreeOf16Bits : kGeluDegree;

// x Phi(x) is the larger of x and 0, less |x| Phi(-|x|), so that nothing cancels: the polynomials'
// absolute error, and for small x a relative one. T is what values are rounded to.
template <typename T>
class Gelu {
 public:
  HWY_INLINE Gelu() : tail_(GeluTailTable(kDegreeOf<T>)) {}
  HWY_INLINE V Value(V x) const { return Value(x, GeluPlace(x)); }
  HWY_INLINE V Value(V x, const GeluPlace& place) const {
    const V positive = hn::Max(hn::Zero(D()), x);
    return hn::NegMulAdd(place.magnitude, tail_(place.piece, place.within), positive);
  }

 private:
  GeluPolynomial<kDegreeOf<T>> tail_;
};

template <typename T>
class GeluWithSlope {
 public:
  HWY_INLINE GeluWithSlope() : slope_(GeluSlopeTable(kDegreeOf<T>)) {}
  HWY_INLINE void operator()(V x, V* value, V* slope) const {
    const GeluPlace place(x);
    const V mirrored = slope_(place.piece, place.within);
    *value = gelu_.Value(x, place);
    *slope =
        hn::IfThenElse(hn::Lt(x, hn::Zero(D())), mirrored, hn::Sub(hn::Set(D(), 1.0f), mirrored));
  }

 private:
  Gelu<T> gelu_;
  GeluPolynomial<kDegreeOf<T>> slope_;
};

#else

struct GeluParts {
  V phi;      // Phi(x), the normal distribution function
  V density;  // its derivative
};

// 1 / x for x >= 1, where a division takes longer than all the rest. Infinity gives 0 or NaN.
HWY_INLINE V Inverse(V x) {
  const D d;
  V inverse = hn::ApproximateReciprocal(x);
  for (int step = 0; step < 2; ++step) {
    inverse = hn::Mul(inverse, hn::NegMulAdd(x, inverse, hn::Set(d, 2.0f)));
  }
  return inverse;
}

// Phi(x) = 1 - erfc(x / sqrt 2) / 2 with Abramowitz and Stegun's 7.1.26 (absolute error 1.5e-7) for
// the half x >= 0 and its mirror image below, so that nothing cancels. The exponential serves the
// derivative too.
HWY_INLINE GeluParts Parts(V x) {
  const D d;
  const V magnitude = hn::Abs(x);
  const V exponential = ExpOfNegative(hn::Mul(hn::Set(d, -0.5f), hn::Mul(x, x)));
  // 0.3275911 / sqrt 2
  const V t = Inverse(hn::MulAdd(magnitude, hn::Set(d, 0.23164189f), hn::Set(d, 1.0f)));
  V poly = hn::Set(d, 0.5f * 1.061405429f);
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * -1.453152027f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * 1.421413741f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * -0.284496736f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * 0.254829592f));
  const V tail = hn::Mul(hn::Mul(poly, t), exponential);
  const V phi = hn::IfThenElse(hn::Ge(x, hn::Zero(d)), hn::Sub(hn::Set(d, 1.0f), tail), tail);
  return {phi, hn::Mul(exponential, hn::Set(d, 0.39894228f))};
}

template <typename T>
struct Gelu {
  HWY_INLINE V Value(V x) const { return hn::Mul(x, Parts(x).phi); }
};

template <typename T>
struct GeluWithSlope {
  HWY_INLINE void operator()(V x, V* value, V* slope) const {
    const GeluParts parts = Parts(x);
    *value = hn::Mul(x, parts.phi);
    *slope = hn::MulAdd(x, parts.density, parts.phi);
  }
};

#endif

template <typename T>
void GeluOf(const T* x, T* y, int64_t n) {
  const Gelu<T> gelu;
  ForEachVector(n, [&](int64_t i, int64_t count) {
    StorePart(gelu.Value(LoadPart(x + i, count)), y + i, count);
  });
}

// y may be null; so may be sums, to which dx is added as it was rounded.
template <typename T>
HWY_INLINE void GeluGradientOf(const GeluWithSlope<T>& tables, const T* x, const T* dy, T* dx, T* y,
                               float* sums, int64_t n) {
  // In registers, which nothing that is stored can change.
  const GeluWithSlope<T> gelu = tables;
  ForEachVector(n, [&](int64_t i, int64_t count) {
    V value, slope;
    gelu(LoadPart(x + i, count), &value, &slope);
    StorePart(hn::Mul(LoadPart(dy + i, count), slope), dx + i, count);
    if (y != nullptr) StorePart(value, y + i, count);
    if (sums == nullptr) return;
    StorePart(hn::Add(LoadPart(sums + i, count), LoadPart(dx + i, count)), sums + i, count);
  });
}

// Elements [begin, end).
void GeluValues(const GeluForwardArgs& args, int64_t begin, int64_t end) {
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    GeluOf(Elements<T>(args.x) + begin, Elements<T>(args.y) + begin, end - begin);
  });
}

// Elements [begin, end), `length` at a time; the sums of these pieces are added to `sums`, unless
// that is null.
void GeluGradient(const GeluBackwardArgs& args, int64_t begin, int64_t end, int64_t length,
                  float* sums) {
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const GeluWithSlope<T> gelu;
    for (int64_t i = begin; i < end; i += length) {
      GeluGradientOf(gelu, Elements<T>(args.x) + i, Elements<T>(args.dy) + i,
                     Elements<T>(args.dx) + i, args.y.empty() ? nullptr : Elements<T>(args.y) + i,
                     sums, length);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {

float* TakeScratch(const GeluBackwardArgs& args, Context& context) {
  if (args.dbias.empty()) return nullptr;
  return static_cast<float*>(
      context.workspace->AllocateBytes(context.threads * args.dbias.NumElements() * sizeof(float)));
}

namespace cpu {
namespace {

// The polynomial that takes f's values at the zeros of Chebyshev's one, in each piece.
template <typename F>
GeluTable MakeTable(int degree, const F& f) {
  constexpr int kMostPoints = kGeluDegree + 1;
  const int points = degree + 1;
  GeluTable table = {};
  for (int piece = 0; piece < kGeluPieces; ++piece) {
    double at[kMostPoints], differences[kMostPoints], sums[kMostPoints] = {};
    for (int i = 0; i < points; ++i) {
      at[i] = 0.5 * std::cos((2 * i + 1) * std::acos(-1.0) / (2 * points));
      differences[i] = f((piece + at[i]) / kGeluPiecesPerUnit);
    }
    // Newton's divided differences, then his polynomial as one of powers.
    for (int order = 1; order < points; ++order) {
      for (int i = points - 1; i >= order; --i) {
        differences[i] = (differences[i] - differences[i - 1]) / (at[i] - at[i - order]);
      }
    }
    for (int i = degree; i >= 0; --i) {
      for (int k = degree; k >= 0; --k) {
        sums[k] = (k > 0 ? sums[k - 1] : differences[i]) - at[i] * sums[k];
      }
    }
    for (int k = 0; k < points; ++k) table.coefficients[k][piece] = static_cast<float>(sums[k]);
  }
  return table;
}

double Tail(double x) { return 0.5 * std::erfc(x / std::sqrt(2.0)); }

double Slope(double x) {
  return Tail(x) - x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0));
}

HWY_EXPORT(GeluValues);
HWY_EXPORT(GeluGradient);

constexpr int64_t kGrain = 4096;

}  // namespace

const GeluTable& GeluTailTable(int degree) {
  static const GeluTable fine = MakeTable(kGeluDegree, Tail);
  static const GeluTable coarse = MakeTable(kGeluDegreeOf16Bits, Tail);
  return degree == kGeluDegree ? fine : coarse;
}

const GeluTable& GeluSlopeTable(int degree) {
  static const GeluTable fine = MakeTable(kGeluDegree, Slope);
  static const GeluTable coarse = MakeTable(kGeluDegreeOf16Bits, Slope);
  return degree == kGeluDegree ? fine : coarse;
}

void GeluForward(const GeluForwardArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CheckFloating(args.x.dtype, {args.y});
  ParallelFor(context.threads, args.x.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(GeluValues)(args, begin, end);
  });
}

void GeluBackward(const GeluBackwardArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK(args.dy.NumElements() == n && args.dx.NumElements() == n);
  CHECK(args.y.empty() || args.y.NumElements() == n);
  CheckFloating(args.x.dtype, {args.dy, args.dx, args.y});
  CheckDtype(DType::kF32, {args.dbias});
  if (args.dbias.empty()) {
    ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
      HWY_DYNAMIC_DISPATCH(GeluGradient)(args, begin, end, end - begin, nullptr);
    });
    return;
  }
  // Threads have sums of their own, of whole rows.
  const int64_t c = args.dbias.NumElements();
  CHECK_EQ(args.x.shape.rank(), 2);
  CHECK_EQ(args.x.shape[1], c);
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  std::fill_n(sums, context.threads * c, 0.0f);
  ParallelFor(context.threads, args.x.shape[0], 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(GeluGradient)(args, begin * c, end * c, c, sums + thread * c);
  });
  AddRows({sums, DType::kF32, context.threads, c, c}, args.dbias.f32());
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
