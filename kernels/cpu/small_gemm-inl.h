// Products of matrices that stay in the first caches, for attention. Included once for each target.
#if defined(SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#undef SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_SMALL_GEMM_INL_H_
#endif

#include <cstdint>

#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Registers decide the tile: 32 of them hold 16 sums and what feeds them, 16 hold 12. A tile of 8,
// two a cycle for four cycles each, would leave no slack: each late load would hold up the sums.
#if HWY_TARGET <= HWY_AVX3
inline constexpr int kWideVectors = 4, kWideRows = 4;
#else
inline constexpr int kWideVectors = 2, kWideRows = 6;
#endif

// The numbers that products are made of: one of float32, or two neighbours along the inner side of
// bfloat16, in one word of 32 bits.
struct F32 {
  using Word = float;
  static HWY_INLINE V MulAdd(V a, V b, V sum) { return hn::MulAdd(a, b, sum); }
};

#if SWINFLEET_NATIVE_BF16
struct Bf16Pair {
  using Word = uint32_t;
  static HWY_INLINE V MulAdd(hn::Vec<DU> a, hn::Vec<DU> b, V sum) {
    return V{_mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a.raw),
                              reinterpret_cast<__m512bh>(b.raw))};
  }
};
#endif

// A (rows, inner) word (i, k) is at a[i * row_stride + k * inner_stride].
template <typename Word>
struct SmallMatrix {
  const Word* a;
  int64_t row_stride;
  int64_t inner_stride;
};

// kRows x kVectors whole vectors of A B, given to the epilogue as (row, column, sums). The product
// is summed up by itself and only then added to anything: what it is added to is large beside a
// single term (a score's bias and mask), and every addition would round at its size.
template <typename E, int kRows, int kVectors, typename Epilogue>
HWY_INLINE void Tile(const SmallMatrix<typename E::Word>& a, int64_t inner,
                     const typename E::Word* b, int64_t ldb, int64_t first_row,
                     int64_t first_column, const Epilogue& epilogue) {
  using Word = typename E::Word;
  const D d;
  const hn::ScalableTag<Word> dw;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(d);
  }
  const Word* at = a.a;
  for (int64_t k = 0; k < inner; ++k, at += a.inner_stride, b += ldb) {
    hn::Vec<decltype(dw)> row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = hn::LoadU(dw, b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto factor = hn::Set(dw, at[i * a.row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = E::MulAdd(factor, row[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      epilogue(first_row + i, first_column + v * kLanes, sums[i][v]);
    }
  }
}

// One column of tiles, all rows.
template <typename E, int kVectors, typename Epilogue>
HWY_INLINE void Panel(SmallMatrix<typename E::Word> a, int64_t rows, int64_t inner,
                      const typename E::Word* b, int64_t ldb, int64_t column,
                      const Epilogue& epilogue) {
  constexpr int kRows = kVectors == kWideVectors ? kWideRows : 8;
  int64_t row = 0;
  const auto advance = [&](int64_t count) {
    a.a += count * a.row_stride;
    row += count;
  };
  for (; row + kRows <= rows; advance(kRows)) {
    Tile<E, kRows, kVectors>(a, inner, b, ldb, row, column, epilogue);
  }
  if (kRows > 4 && row + 4 <= rows) {
    Tile<E, 4, kVectors>(a, inner, b, ldb, row, column, epilogue);
    advance(4);
  }
  for (; row < rows; advance(1)) Tile<E, 1, kVectors>(a, inner, b, ldb, row, column, epilogue);
}

// Calls epilogue(row, column, vector of A B) for all of (rows, columns). columns is a multiple of
// 16, the rows of B are ldb words apart.
template <typename E, typename Epilogue>
HWY_NOINLINE void SmallGemm(const SmallMatrix<typename E::Word>& a, int64_t rows, int64_t columns,
                            int64_t inner, const typename E::Word* b, int64_t ldb,
                            const Epilogue& epilogue) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  int64_t at = 0;
  for (; at + kWideVectors * kLanes <= columns; at += kWideVectors * kLanes) {
    Panel<E, kWideVectors>(a, rows, inner, b + at, ldb, at, epilogue);
  }
  if (kWideVectors == 4 && at + 2 * kLanes <= columns) {
    Panel<E, 2>(a, rows, inner, b + at, ldb, at, epilogue);
    at += 2 * kLanes;
  }
  for (; at < columns; at += kLanes) Panel<E, 1>(a, rows, inner, b + at, ldb, at, epilogue);
}

// Epilogues, with rows of ldc floats: c = A B.
struct Overwrite {
  float* c;
  int64_t ldc;
  HWY_INLINE void operator()(int64_t row, int64_t column, V sum) const {
    hn::StoreU(sum, D(), c + row * ldc + column);
  }
};

// c = A B + addend, whose rows are ld_addend floats apart and which may be c.
struct AddTo {
  float* c;
  int64_t ldc;
  const float* addend;
  int64_t ld_addend;
  HWY_INLINE void operator()(int64_t row, int64_t column, V sum) const {
    const D d;
    const V start = hn::LoadU(d, addend + row * ld_addend + column);
    hn::StoreU(hn::Add(sum, start), d, c + row * ldc + column);
  }
};

// c = row_scale column_scale A B.
struct ScaleBoth {
  float* c;
  int64_t ldc;
  const float* row_scale;
  const float* column_scale;
  HWY_INLINE void operator()(int64_t row, int64_t column, V sum) const {
    const D d;
    const V scale = hn::Mul(hn::Set(d, row_scale[row]), hn::LoadU(d, column_scale + column));
    hn::StoreU(hn::Mul(sum, scale), d, c + row * ldc + column);
  }
};

// c = row_scale column_scale A B + addend, whose rows are ld_addend floats apart and which may be
// c.
struct ScaleAndAdd {
  float* c;
  int64_t ldc;
  const float* row_scale;
  const float* column_scale;
  const float* addend;
  int64_t ld_addend;
  HWY_INLINE void operator()(int64_t row, int64_t column, V sum) const {
    const D d;
    const V scale = hn::Mul(hn::Set(d, row_scale[row]), hn::LoadU(d, column_scale + column));
    const V start = hn::LoadU(d, addend + row * ld_addend + column);
    hn::StoreU(hn::MulAdd(sum, scale, start), d, c + row * ldc + column);
  }
};

#if HWY_TARGET != HWY_SCALAR
// Of four vectors, the transposed of each 4 x 4 words that stand below one another.
template <typename Vector>
HWY_INLINE void TransposeBlocks(Vector& r0, Vector& r1, Vector& r2, Vector& r3) {
  const hn::DFromV<Vector> d;
  const hn::Repartition<double, decltype(d)> d2;
  const auto low01 = hn::BitCast(d2, hn::InterleaveLower(d, r0, r1));
  const auto high01 = hn::BitCast(d2, hn::InterleaveUpper(d, r0, r1));
  const auto low23 = hn::BitCast(d2, hn::InterleaveLower(d, r2, r3));
  const auto high23 = hn::BitCast(d2, hn::InterleaveUpper(d, r2, r3));
  r0 = hn::BitCast(d, hn::InterleaveLower(d2, low01, low23));
  r1 = hn::BitCast(d, hn::InterleaveUpper(d2, low01, low23));
  r2 = hn::BitCast(d, hn::InterleaveLower(d2, high01, high23));
  r3 = hn::BitCast(d, hn::InterleaveUpper(d2, high01, high23));
}

// to = from^T, 4 x 4 words.
template <typename Word>
HWY_INLINE void Transpose4(const Word* from, int64_t ld_from, Word* to, int64_t ld_to) {
  const hn::Full128<Word> d;
  auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + ld_from);
  auto r2 = hn::LoadU(d, from + 2 * ld_from), r3 = hn::LoadU(d, from + 3 * ld_from);
  TransposeBlocks(r0, r1, r2, r3);
  hn::StoreU(r0, d, to);
  hn::StoreU(r1, d, to + ld_to);
  hn::StoreU(r2, d, to + 2 * ld_to);
  hn::StoreU(r3, d, to + 3 * ld_to);
}

// The same of 16 x 16 words, in vectors of 16: written whole, as they are read afterwards.
template <typename Word>
HWY_INLINE void Transpose16(const Word* from, int64_t ld_from, Word* to, int64_t ld_to) {
  const hn::ScalableTag<Word> d;
  hn::Vec<decltype(d)> r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = hn::LoadU(d, from + i * ld_from);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) TransposeBlocks(r[i], r[i + 1], r[i + 2], r[i + 3]);
    // Block b of r[4 g + j] is a part of column 4 b + j: that of rows 4 g on.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const auto even01 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(r[4 + j]), r[j]);
    const auto odd01 = hn::OddEvenBlocks(r[4 + j], hn::SwapAdjacentBlocks(r[j]));
    const auto even23 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(r[12 + j]), r[8 + j]);
    const auto odd23 = hn::OddEvenBlocks(r[12 + j], hn::SwapAdjacentBlocks(r[8 + j]));
    Word* column = to + j * ld_to;
    hn::StoreU(hn::ConcatLowerLower(d, even23, even01), d, column);
    hn::StoreU(hn::ConcatLowerLower(d, odd23, odd01), d, column + 4 * ld_to);
    hn::StoreU(hn::ConcatUpperUpper(d, even23, even01), d, column + 8 * ld_to);
    hn::StoreU(hn::ConcatUpperUpper(d, odd23, odd01), d, column + 12 * ld_to);
  }
}
#endif

// to (columns, ld) = from (rows, columns)^T of words of 32 bits; rows and columns are multiples of
// 4, both row strides are given.
template <typename Word>
HWY_INLINE void Transpose(const Word* from, int64_t rows, int64_t columns, int64_t ld_from,
                          Word* to, int64_t ld_to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * ld_to + r] = from[r * ld_from + c];
  }
#else
  if constexpr (hn::MaxLanes(hn::ScalableTag<Word>()) == 16) {
    if (rows % 16 == 0 && columns % 16 == 0) {
      for (int64_t r = 0; r < rows; r += 16) {
        for (int64_t c = 0; c < columns; c += 16) {
          Transpose16(from + r * ld_from + c, ld_from, to + c * ld_to + r, ld_to);
        }
      }
      return;
    }
  }
  for (int64_t r = 0; r < rows; r += 4) {
    for (int64_t c = 0; c < columns; c += 4) {
      Transpose4(from + r * ld_from + c, ld_from, to + c * ld_to + r, ld_to);
    }
  }
#endif
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
