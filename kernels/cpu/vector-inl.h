// Vectors of floats, loaded from and stored as any floating type, that may be incomplete: the part
// of a row beyond the last whole vector goes through a buffer of zeros, so that no byte outside of
// the row is touched. Included once for each target.
#if defined(SWINFLEET_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#undef SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

// In place of HWY_BEFORE_NAMESPACE. Highway's AVX3_DL stands for AVX-512 with instructions for
// bfloat16 here: cpu_ops.cc leaves it out on processors that lack them.
#undef SWINFLEET_TARGET_STR
#undef SWINFLEET_NATIVE_BF16
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3_DL
#define SWINFLEET_NATIVE_BF16 1
#define SWINFLEET_TARGET_STR HWY_TARGET_STR ",avx512bf16"
#elif defined(HWY_TARGET_STR)
#define SWINFLEET_NATIVE_BF16 0
#define SWINFLEET_TARGET_STR HWY_TARGET_STR
#else
#define SWINFLEET_NATIVE_BF16 0
#endif
#undef SWINFLEET_BEFORE_NAMESPACE
#ifdef SWINFLEET_TARGET_STR
#define SWINFLEET_BEFORE_NAMESPACE() \
  HWY_PUSH_ATTRIBUTES(SWINFLEET_TARGET_STR) static_assert(true, "for the semicolon")
#else
#define SWINFLEET_BEFORE_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
// As many halves and integers as D has floats.
using D16 = hn::Rebind<uint16_t, D>;
using DU = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;

// Targets with conversions between float16 and float32 that round to even and know subnormal
// numbers, infinities and NaN.
#undef SWINFLEET_NATIVE_F16
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
#define SWINFLEET_NATIVE_F16 1
#else
#define SWINFLEET_NATIVE_F16 0
#endif

// Lower 16 bits of each, which are all that is set.
HWY_INLINE hn::Vec<D16> Halves(hn::Vec<DU> bits) {
  return hn::DemoteTo(D16(), hn::BitCast(DI(), bits));
}

#if SWINFLEET_NATIVE_BF16
// As RoundedBf16, but for subnormal numbers, which become zero.
HWY_INLINE hn::Vec<D16> NativeBf16(V v) {
  return hn::Vec<D16>{reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v.raw))};
}
#endif

HWY_INLINE V LoadWhole(const float* p) { return hn::LoadU(D(), p); }
HWY_INLINE void StoreWhole(V v, float* p) { hn::StoreU(v, D(), p); }

HWY_INLINE V LoadWhole(const hwy::bfloat16_t* p) {
  const auto bits = hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
}

// Bits of the nearest bfloat16, of two the even one; Highway's own conversion truncates. NaN stays
// NaN.
HWY_INLINE hn::Vec<D16> RoundedBf16(V v) {
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto chosen = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  return Halves(hn::ShiftRight<16>(chosen));
}

#if SWINFLEET_NATIVE_BF16
// Hardly ever needed there.
inline HWY_NOINLINE void StoreRounded(V v, uint16_t* bits) {
  hn::StoreU(RoundedBf16(v), D16(), bits);
}
#else
HWY_INLINE void StoreRounded(V v, uint16_t* bits) { hn::StoreU(RoundedBf16(v), D16(), bits); }
#endif

HWY_INLINE void StoreWhole(V v, hwy::bfloat16_t* p) {
  uint16_t* bits = reinterpret_cast<uint16_t*>(p);
#if SWINFLEET_NATIVE_BF16
  // The instruction makes zeros of subnormal numbers.
  constexpr int kSubnormal = 0x20;
  if (HWY_LIKELY(_mm512_fpclass_ps_mask(v.raw, kSubnormal) == 0)) {
    hn::StoreU(NativeBf16(v), D16(), bits);
  } else {
    StoreRounded(v, bits);
  }
#else
  StoreRounded(v, bits);
#endif
}

#if SWINFLEET_NATIVE_F16

HWY_INLINE V LoadWhole(const hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, D> df16;
  return hn::PromoteTo(D(), hn::LoadU(df16, p));
}

HWY_INLINE void StoreWhole(V v, hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, D> df16;
  hn::StoreU(hn::DemoteTo(df16, v), df16, p);
}

#else

// The same steps as in kernels/cpu/element.h.
HWY_INLINE V LoadWhole(const hwy::float16_t* p) {
  const D d;
  const DU du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(p)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000)));
  const auto exponent = hn::And(bits, hn::Set(du, 0x7c00));
  const auto mantissa = hn::And(bits, hn::Set(du, 0x3ff));
  const auto subnormal =
      hn::BitCast(du, hn::Mul(hn::ConvertTo(d, hn::BitCast(DI(), mantissa)), hn::Set(d, 0x1p-24f)));
  const auto bias = hn::IfThenElse(hn::Eq(exponent, hn::Set(du, 0x7c00)), hn::Set(du, 224u << 23),
                                   hn::Set(du, 112u << 23));
  const auto normal = hn::Add(hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fff))), bias);
  const auto magnitude = hn::IfThenElse(hn::Eq(exponent, hn::Zero(du)), subnormal, normal);
  return hn::BitCast(d, hn::Or(magnitude, sign));
}

HWY_INLINE void StoreWhole(V v, hwy::float16_t* p) {
  const D d;
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffff));
  const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1));
  const auto normal =
      hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(du, (112u << 23) - 0xfff)), odd));
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(du, half));
  const auto nan =
      hn::Or(hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 0x3ff)), hn::Set(du, 0x7e00));
  const auto finite = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000)), subnormal, normal);
  const auto large =
      hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f800000)), nan, hn::Set(du, 0x7c00));
  const auto chosen = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x47800000)), finite, large);
  hn::StoreU(Halves(hn::Or(chosen, sign)), D16(), reinterpret_cast<uint16_t*>(p));
}

#endif

// Calls body(i, count) over [0, n) vector by vector; the last one may be incomplete.
template <typename Body>
HWY_INLINE void ForEachVector(int64_t n, const Body& body) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}

// The first `count` elements at p, 1 <= count <= lanes; zeros in the others.
template <typename T>
HWY_INLINE V LoadPart(const T* p, int64_t count) {
  const D d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return LoadWhole(p);
  HWY_ALIGN T buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, p, count * sizeof(T));
  return LoadWhole(buffer);
}

// Stores the first `count` lanes as T: to the nearest, to even in the middle.
template <typename T>
HWY_INLINE void StorePart(V v, T* p, int64_t count) {
  const D d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) {
    StoreWhole(v, p);
    return;
  }
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  StoreWhole(v, buffer);
  std::memcpy(p, buffer, count * sizeof(T));
}

// The same of integers in 16 bits.
HWY_INLINE hn::Vec<D16> LoadHalves(const uint16_t* p, int64_t count) {
  const D16 d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, p);
  HWY_ALIGN uint16_t buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, p, count * sizeof(uint16_t));
  return hn::LoadU(d, buffer);
}

HWY_INLINE void StoreHalves(hn::Vec<D16> v, uint16_t* p, int64_t count) {
  const D16 d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, p);
    return;
  }
  HWY_ALIGN uint16_t buffer[hn::MaxLanes(d)];
  hn::StoreU(v, d, buffer);
  std::memcpy(p, buffer, count * sizeof(uint16_t));
}

// exp(x) for x that is not much larger than 0: a relative error of 2e-7 and of 1e-8 for each unit
// of x, and 0 below -87. 2^n 2^r with r in [-1/2, 1/2] and a polynomial of degree 5, fitted to the
// least relative error.
HWY_INLINE V ExpOfNegative(V x) {
  const D d;
  const DU du;
  const V log2e = hn::Set(d, 1.44269504f);
  // Beside 1.5 * 2^23 a number is rounded to an integer, which the lowest bits of the sum hold.
  const V magic = hn::Set(d, 12582912.0f);
  const V sum = hn::MulAdd(x, log2e, magic);
  const V r = hn::MulSub(x, log2e, hn::Sub(sum, magic));
  V p = hn::Set(d, 0.001327647129073739f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.009675540961325169f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.05550713092088699f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.24022120237350464f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.6931469440460205f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0000001192092896f));
  // p is between 0.7 and 1.5, and n is at least -126: adding it to p's exponent is multiplying.
  const auto n = hn::ShiftLeft<23>(hn::BitCast(du, sum));
  const V value = hn::BitCast(d, hn::Add(hn::BitCast(du, p), n));
  return hn::IfThenElseZero(hn::Gt(x, hn::Set(d, -87.0f)), value);
}

HWY_INLINE float Total(V v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

// Ways of folding a vector's lanes into one.
struct AddLanes {
  template <class Vector>
  HWY_INLINE Vector operator()(Vector a, Vector b) const {
    return hn::Add(a, b);
  }
};
struct MaxLanes {
  template <class Vector>
  HWY_INLINE Vector operator()(Vector a, Vector b) const {
    return hn::Max(a, b);
  }
};

HWY_INLINE float FoldLanes(AddLanes, V v) { return Total(v); }
HWY_INLINE float FoldLanes(MaxLanes, V v) { return hn::GetLane(hn::MaxOfLanes(D(), v)); }

#if HWY_TARGET == HWY_SCALAR
template <class Fold>
HWY_INLINE void StoreFolded(const Fold&, V a, V b, V c, V e, float* to) {
  to[0] = hn::GetLane(a);
  to[1] = hn::GetLane(b);
  to[2] = hn::GetLane(c);
  to[3] = hn::GetLane(e);
}
#else
// The upper half of a vector folded into the lower one, until four lanes are left.
template <class Tag, class Fold, class Vector>
HWY_INLINE auto FoldToFour(Tag d, const Fold& fold, Vector v) {
  if constexpr (hn::MaxLanes(Tag()) <= 4) {
    return v;
  } else {
    const hn::Half<Tag> half;
    return FoldToFour(half, fold, fold(hn::UpperHalf(half, v), hn::LowerHalf(half, v)));
  }
}

// to (4) = what `fold` makes of all lanes of each of four vectors, in the order of Total, for a
// little more than one takes.
template <class Fold>
HWY_INLINE void StoreFolded(const Fold& fold, V a, V b, V c, V e, float* to) {
  const hn::Full128<float> d4;
  const hn::Full128<double> d2;
  const auto pair = [&](V first, V second) {
    const auto x = hn::BitCast(d2, FoldToFour(D(), fold, first));
    const auto y = hn::BitCast(d2, FoldToFour(D(), fold, second));
    // The first vector's lanes 0 and 2, 1 and 3, then the second's.
    return fold(hn::BitCast(d4, hn::InterleaveLower(d2, x, y)),
                hn::BitCast(d4, hn::InterleaveUpper(d2, x, y)));
  };
  const auto ab = pair(a, b), ce = pair(c, e);
  hn::StoreU(fold(hn::ConcatEven(d4, ce, ab), hn::ConcatOdd(d4, ce, ab)), d4, to);
}
#endif

// to (4) = the totals of four vectors.
HWY_INLINE void StoreTotals(V a, V b, V c, V e, float* to) {
  StoreFolded(AddLanes(), a, b, c, e, to);
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
