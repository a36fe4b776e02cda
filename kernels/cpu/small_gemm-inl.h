// Products of matrices that stay in the first caches, for attention. Included once for each target.
#if defined(SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#undef SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#endif

#include <cstdint>

#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Registers decide the tile: 32 of them hold 16 sums and what feeds them, 16 hold 8.
#if HWY_TARGET <= HWY_AVX3
inline constexpr int kWideVectors = 4;
#else
inline constexpr int kWideVectors = 2;
#endif

// A (rows, inner) element (i, k) is at a[i * row_stride + k * inner_stride].
struct SmallMatrix {
  const float* a;
  int64_t row_stride;
  int64_t inner_stride;
};

// kRows x kVectors whole vectors of C (+)= A B. The product is summed up by itself and what C holds
// added at the end: C is large beside a single term (a score's bias and mask), and every addition
// to it would round at its size.
template <int kRows, int kVectors>
HWY_INLINE void Tile(const SmallMatrix& a, int64_t inner, const float* b, int64_t ldb, float* c,
                     int64_t ldc, bool accumulate) {
  const D d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(d);
  }
  const float* at = a.a;
  for (int64_t k = 0; k < inner; ++k, at += a.inner_stride, b += ldb) {
    V row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V factor = hn::Set(d, at[i * a.row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(factor, row[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * ldc + v * kLanes;
      hn::StoreU(accumulate ? hn::Add(sums[i][v], hn::LoadU(d, to)) : sums[i][v], d, to);
    }
  }
}

// One column of tiles, all rows.
template <int kVectors>
HWY_NOINLINE void Panel(SmallMatrix a, int64_t rows, int64_t inner, const float* b, int64_t ldb,
                        float* c, int64_t ldc, bool accumulate) {
  constexpr int kRows = kVectors == kWideVectors ? 4 : 8;
  const auto advance = [&](int64_t count) {
    a.a += count * a.row_stride;
    c += count * ldc;
    rows -= count;
  };
  for (; rows >= kRows; advance(kRows)) {
    Tile<kRows, kVectors>(a, inner, b, ldb, c, ldc, accumulate);
  }
  if (kRows == 8 && rows >= 4) {
    Tile<4, kVectors>(a, inner, b, ldb, c, ldc, accumulate);
    advance(4);
  }
  for (; rows > 0; advance(1)) Tile<1, kVectors>(a, inner, b, ldb, c, ldc, accumulate);
}

// C (rows, columns) = A B, or += with `accumulate`. columns is a multiple of 16, the rows of B and
// C are ldb and ldc floats apart.
HWY_INLINE void SmallGemm(const SmallMatrix& a, int64_t rows, int64_t columns, int64_t inner,
                          const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  int64_t at = 0;
  for (; at + kWideVectors * kLanes <= columns; at += kWideVectors * kLanes) {
    Panel<kWideVectors>(a, rows, inner, b + at, ldb, c + at, ldc, accumulate);
  }
  if (kWideVectors == 4 && at + 2 * kLanes <= columns) {
    Panel<2>(a, rows, inner, b + at, ldb, c + at, ldc, accumulate);
    at += 2 * kLanes;
  }
  for (; at < columns; at += kLanes) {
    Panel<1>(a, rows, inner, b + at, ldb, c + at, ldc, accumulate);
  }
}

// to (columns, ld) = from (rows, columns)^T; rows and columns are multiples of 4, both row strides
// are given.
HWY_INLINE void Transpose(const float* from, int64_t rows, int64_t columns, int64_t ld_from,
                          float* to, int64_t ld_to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * ld_to + r] = from[r * ld_from + c];
  }
#else
  const hn::Full128<float> d4;
  const hn::Full128<double> d2;
  for (int64_t r = 0; r < rows; r += 4) {
    for (int64_t c = 0; c < columns; c += 4) {
      const float* p = from + r * ld_from + c;
      const auto r0 = hn::LoadU(d4, p), r1 = hn::LoadU(d4, p + ld_from);
      const auto r2 = hn::LoadU(d4, p + 2 * ld_from), r3 = hn::LoadU(d4, p + 3 * ld_from);
      const auto low01 = hn::BitCast(d2, hn::InterleaveLower(d4, r0, r1));
      const auto high01 = hn::BitCast(d2, hn::InterleaveUpper(d4, r0, r1));
      const auto low23 = hn::BitCast(d2, hn::InterleaveLower(d4, r2, r3));
      const auto high23 = hn::BitCast(d2, hn::InterleaveUpper(d4, r2, r3));
      float* q = to + c * ld_to + r;
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, low01, low23)), d4, q);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, low01, low23)), d4, q + ld_to);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, high01, high23)), d4, q + 2 * ld_to);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, high01, high23)), d4, q + 3 * ld_to);
    }
  }
#endif
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
