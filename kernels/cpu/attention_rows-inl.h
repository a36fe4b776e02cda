// Rows of vectors and of scores, the steps of window attention. Included once for each target.
//
// A window's vectors of one head are (tokens, dim_padded) floats, a tile of its scores
// (count, tokens_padded): rows are padded to whole vectors.
#if defined(SWINFLEET_KERNELS_CPU_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#undef SWINFLEET_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_ATTENTION_ROWS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/vector-inl.h"
#include "kernels/cpu/window_map.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Asks for a line, into the second cache and not the first: this task's buffers fill that one, and
// a line that is on its way there takes one of the few places of the loads that miss it.
HWY_INLINE void AskSecondCache(const char* line) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  __builtin_prefetch(line, 0, 2);
#else
  hwy::Prefetch(line);
#endif
}

// Rows that the next task needs. They are asked for, since they are short and far apart, which the
// processor does not foresee; a few at a time, between the steps of this task, for it waits for so
// many only before it holds up this task's loads.
class NextRows {
 public:
  // `width` elements a row from `from` on, that of row 0; rows are `stride` elements apart.
  template <typename T>
  NextRows(const WindowMap* map, const T* from, int64_t stride, int64_t width)
      : map_(map),
        at_(reinterpret_cast<const char*>(from)),
        stride_(stride * static_cast<int64_t>(sizeof(T))),
        bytes_(width * static_cast<int64_t>(sizeof(T))) {}

  // Those of tokens [first, first + count), as far as there are so many.
  HWY_INLINE void Ask(int64_t first, int64_t count) const {
    constexpr int64_t kLine = 64;
    for (int64_t t = first; t < std::min(first + count, map_->tokens); ++t) {
      const char* row = at_ + map_->row[t] * stride_;
      for (int64_t i = 0; i < bytes_; i += kLine) AskSecondCache(row + i);
    }
  }

 private:
  const WindowMap* map_;
  const char* at_;
  int64_t stride_, bytes_;
};

// The next task's rows of q, k and v, of what lies beside them (out, or dout), and of lse.
struct NextVectors {
  template <typename Args, typename T>
  NextVectors(const AttentionSizes& s, const Args& args, const NextTask& task, const T* qkv_data,
              const T* out_data)
      : q(task.map, qkv_data + task.head * s.dim, 3 * s.channels, s.dim),
        k(task.map, qkv_data + s.channels + task.head * s.dim, 3 * s.channels, s.dim),
        v(task.map, qkv_data + 2 * s.channels + task.head * s.dim, 3 * s.channels, s.dim),
        out(task.map, out_data + task.head * s.dim, s.channels, s.dim),
        lse(task.map, args.lse.f32() + task.head, args.heads, 1) {}
  NextRows q, k, v, out, lse;
};

// rows = the window's vectors of one head, from `from` (row 0, channel 0 of the head), `stride`
// elements a row; padded with zeros.
template <typename T>
void GatherRows(const AttentionSizes& s, const WindowMap& map, const T* from, int64_t stride,
                float* rows) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  const int64_t tokens = s.tokens, dim = s.dim, dim_padded = s.dim_padded;
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t t = 0; t < tokens; ++t, rows += dim_padded) {
    const T* vector = from + map.row[t] * stride;
    int64_t i = 0;
    for (; i < whole; i += kLanes) StoreWhole(LoadWhole(vector + i), rows + i);
    if (i < dim) {
      StoreWhole(LoadPart(vector + i, dim - i), rows + i);
      i += kLanes;
    }
    for (; i < dim_padded; i += kLanes) StoreWhole(hn::Zero(D()), rows + i);
  }
}

// The other way.
template <typename T>
void ScatterRows(const AttentionSizes& s, const WindowMap& map, const float* rows, int64_t stride,
                 T* to) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  const int64_t tokens = s.tokens, dim = s.dim, dim_padded = s.dim_padded;
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t t = 0; t < tokens; ++t, rows += dim_padded) {
    T* at = to + map.row[t] * stride;
    for (int64_t i = 0; i < whole; i += kLanes) StoreWhole(LoadWhole(rows + i), at + i);
    if (whole < dim) StorePart(LoadWhole(rows + whole), at + whole, dim - whole);
  }
}

// An epilogue of SmallGemm: the sums times row_scale, written where `to` is that of row 0.
template <typename T>
struct ScatterScaledRows {
  const int64_t* row;  // Of the first sums' token on, as WindowMap has it.
  int64_t dim;
  const float* row_scale;
  int64_t stride;
  T* to;
  HWY_INLINE void operator()(int64_t i, int64_t column, V sum) const {
    constexpr int64_t kLanes = hn::MaxLanes(D());
    if (column >= dim) return;
    StorePart(hn::Mul(sum, hn::Set(D(), row_scale[i])), to + row[i] * stride + column,
              std::min(kLanes, dim - column));
  }
};

// Zeros in the rows of excluded padding, where tensors have such rows.
template <typename T>
void ClearPadding(const AttentionSizes& s, const WindowMap& map, int64_t stride, T* to) {
  if (map.first_row < 0 || s.tokens == s.window_tokens) return;
  int64_t next = 0;
  for (int64_t place = 0; place < s.window_tokens; ++place) {
    if (next < s.tokens && map.place[next] == place) {
      ++next;
    } else {
      std::fill_n(to + (map.first_row + place) * stride, s.dim, T());
    }
  }
}

// Rows whose sums are made together: what a sum's last steps wait for one another is shared.
inline constexpr int64_t kSumRows = 4;

// dots (count) = a . b of `count` rows, kSumRows at most, of n elements.
template <typename T>
HWY_INLINE void RowDots(const T* a, const float* b, int64_t n, int64_t count, float* dots) {
  const D d;
  const auto products = [&](int64_t row) {
    V sum = hn::Zero(d);
    for (int64_t i = row * n; i < (row + 1) * n; i += static_cast<int64_t>(hn::Lanes(d))) {
      sum = hn::MulAdd(LoadWhole(a + i), hn::Load(d, b + i), sum);
    }
    return sum;
  };
  if (count == kSumRows) {
    StoreTotals(products(0), products(1), products(2), products(3), dots);
  } else {
    for (int64_t row = 0; row < count; ++row) dots[row] = Total(products(row));
  }
}

// row = factor * row, over a padded row.
HWY_INLINE void ScaleRow(float* row, int64_t n, float factor) {
  const D d;
  const V f = hn::Set(d, factor);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    hn::Store(hn::Mul(hn::Load(d, row + i), f), d, row + i);
  }
}

inline void ScaleRows(const AttentionSizes& s, float factor, float* rows) {
  ScaleRow(rows, s.tokens * s.dim_padded, factor);
}

// inverse (tokens_padded) holds sums of squares, which become 1 / norm: negative where the norm was
// too short to be divided by, for vectors shorter than 1e-12 are divided by that
// (torch.nn.functional.normalize). Of padding it becomes zero.
inline void InverseNorms(const AttentionSizes& s, float* inverse) {
  // As few as are summed at a time: what was stored in parts is waited for.
  const hn::CappedTag<float, kSumRows> d;
  const auto shortest = hn::Set(d, 1e-12f);
  std::fill(inverse + s.tokens, inverse + s.tokens_padded, 0.0f);
  for (int64_t t = 0; t < s.tokens_padded; t += static_cast<int64_t>(hn::Lanes(d))) {
    const auto norm = hn::Sqrt(hn::Load(d, inverse + t));
    const auto inv = hn::Div(hn::Set(d, 1.0f), hn::Max(norm, shortest));
    hn::Store(hn::IfThenElse(hn::Lt(norm, shortest), hn::Neg(inv), inv), d, inverse + t);
  }
  std::fill(inverse + s.tokens, inverse + s.tokens_padded, 0.0f);
}

// inverse (tokens_padded) of the rows, as InverseNorms has it.
inline void InverseNormsOf(const AttentionSizes& s, const float* rows, float* inverse) {
  for (int64_t t = 0; t < s.tokens; t += kSumRows) {
    const float* row = rows + t * s.dim_padded;
    RowDots(row, row, s.dim_padded, std::min(kSumRows, s.tokens - t), inverse + t);
  }
  InverseNorms(s, inverse);
}

// Multiplies each row by `factor` and by its |inverse|.
inline void NormaliseRows(const AttentionSizes& s, float factor, const float* inverse,
                          float* rows) {
  const int64_t tokens = s.tokens, dim_padded = s.dim_padded;
  for (int64_t t = 0; t < tokens; ++t, rows += dim_padded) {
    ScaleRow(rows, dim_padded, std::abs(inverse[t]) * factor);
  }
}

// q (scaled) and k by their norms. Both norms come first: one does not wait for the other.
struct InverseNormsOfBoth {
  float *q, *k;
};
inline void NormaliseBoth(const AttentionSizes& s, float factor, const InverseNormsOfBoth& inverse,
                          float* q, float* k) {
  InverseNormsOf(s, q, inverse.q);
  InverseNormsOf(s, k, inverse.k);
  NormaliseRows(s, factor, inverse.q, q);
  NormaliseRows(s, 1.0f, inverse.k, k);
}

// Of each of a window's rows: visit(token, y . dy, the row of y, the row of dy).
template <typename T, typename Visit>
HWY_INLINE void ForEachRowDot(const AttentionSizes& s, const T* y, const float* dy,
                              const Visit& visit) {
  const int64_t tokens = s.tokens, dim_padded = s.dim_padded;
  float dots[kSumRows];
  for (int64_t first = 0; first < tokens; first += kSumRows) {
    const int64_t count = std::min(kSumRows, tokens - first);
    RowDots(y, dy, dim_padded, count, dots);
    for (int64_t i = 0; i < count; ++i, y += dim_padded, dy += dim_padded) {
      visit(first + i, dots[i], y, dy);
    }
  }
}

// Gradients dx through y = factor * x / norm, of all of a window's rows, written where `to` is that
// of row 0: factor * inverse * (dy - y (y . dy) / factor^2). A row that was too short to be divided
// by its norm was only scaled. Returns the sum of y . dy.
template <typename T>
double ScatterNormGradients(const AttentionSizes& s, const WindowMap& map, const float* y,
                            float factor, const float* inverse, const float* dy, int64_t stride,
                            T* to) {
  const D d;
  const int64_t dim = s.dim;
  const float inverse_square = 1.0f / (factor * factor);
  double sum = 0;
  ForEachRowDot(s, y, dy, [&](int64_t t, float dot, const float* row, const float* gradient) {
    const V along = hn::Set(d, inverse[t] < 0 ? 0.0f : dot * inverse_square);
    const V scale = hn::Set(d, factor * std::abs(inverse[t]));
    T* at = to + map.row[t] * stride;
    ForEachVector(dim, [&](int64_t i, int64_t count) {
      const V across = hn::NegMulAdd(hn::Load(d, row + i), along, hn::Load(d, gradient + i));
      StorePart(hn::Mul(across, scale), at + i, count);
    });
    sum += dot;
  });
  return sum;
}

// columns (dim_padded, tokens_padded) = rows^T; the rows' padding becomes zero.
inline void TransposeRows(const AttentionSizes& s, float* rows, float* columns) {
  std::fill(rows + s.tokens * s.dim_padded, rows + s.tokens_padded * s.dim_padded, 0.0f);
  Transpose(rows, s.tokens_padded, s.dim_padded, s.dim_padded, columns, s.tokens_padded);
}

// Whether a window's rows of biases, or of their gradients, can be used where they are: no token is
// left out and no padding needed.
inline bool BiasIsWhole(const AttentionSizes& s, const float* bias) {
  return bias != nullptr && s.tokens == s.window_tokens && s.tokens == s.tokens_padded;
}

// What the scores of token i are before q k: bias, if any, and mask; padding is excluded.
HWY_INLINE void StartRow(const AttentionSizes& s, const WindowMap& map, int64_t i,
                         const float* bias, float* row) {
  std::fill(row + s.tokens, row + s.tokens_padded, kExcludedScore);
  if (bias == nullptr) {
    std::fill_n(row, s.tokens, 0.0f);
  } else if (s.tokens == s.window_tokens) {
    std::memcpy(row, bias + i * s.tokens, s.tokens * sizeof(float));
  } else {
    const float* from = bias + map.place[i] * s.window_tokens;
    for (int64_t j = 0; j < s.tokens; ++j) row[j] = from[map.place[j]];
  }
  if (!map.masked) return;
  const int32_t region = map.region[i];
  for (int64_t j = 0; j < s.tokens; ++j) row[j] += map.region[j] != region ? -100.0f : 0.0f;
}

// What a tile's scores are before q k, and the floats from one row to the next.
struct ScoreStart {
  const float* rows;
  int64_t stride;
};

// Of rows [first, first + count); bias (N, N) may be null. The rows are those of the bias, or
// arranged in `buffer` (count, tokens_padded).
inline ScoreStart StartScores(const AttentionSizes& s, const WindowMap& map, int64_t first,
                              int64_t count, const float* bias, float* buffer) {
  if (BiasIsWhole(s, bias) && !map.masked) return {bias + first * s.tokens, s.tokens};
  for (int64_t i = 0; i < count; ++i) {
    StartRow(s, map, first + i, bias, buffer + i * s.tokens_padded);
  }
  return {buffer, s.tokens_padded};
}

// Whether nothing but excluded scores can have this peak or sum: a token that attends to nobody.
HWY_INLINE bool NothingLeft(float lse) { return lse <= 0.5f * kExcludedScore; }

// What scores are taken from before their exponentials, so that these are zero where `lse`, a peak
// or the logarithm of a sum, is that of a token that attends to nobody.
HWY_INLINE V Subtrahend(float lse) {
  return hn::Set(D(), NothingLeft(lse) ? std::numeric_limits<float>::infinity() : lse);
}

// What is known of the softmax of a strip's rows.
struct StripSums {
  float* peak;     // (strip), the largest score
  float* inverse;  // (strip), 1 / the sum of exp(score - peak)
};

// Rows of scores that go through the softmax side by side: each by itself waits for its largest
// score and for its sum. As many as registers hold.
inline constexpr int64_t kSideBySide = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// to (kRows) = what `fold` makes of all lanes of each vector.
template <class Fold, int64_t kRows>
HWY_INLINE void FoldRows(const Fold& fold, const V (&vectors)[kRows], float* to) {
  if constexpr (kRows == 4) {
    StoreFolded(fold, vectors[0], vectors[1], vectors[2], vectors[3], to);
  } else {
    for (int64_t i = 0; i < kRows; ++i) to[i] = FoldLanes(fold, vectors[i]);
  }
}

// Of kRows rows of n scores: gives store(row, j, exponentials of scores j, ... less their peak);
// and their sum: 1 where all is excluded, and the exponentials are zero.
template <int64_t kRows, typename Store>
HWY_INLINE void SoftmaxOf(const float* rows, int64_t n, float* peak, float* total,
                          const Store& store) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V highest[kRows], sum[kRows];
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) highest[i] = hn::Load(d, rows + i * n);
  for (int64_t j = lanes; j < n; j += lanes) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kRows; ++i) {
      highest[i] = hn::Max(highest[i], hn::Load(d, rows + i * n + j));
    }
  }
  FoldRows(MaxLanes(), highest, peak);
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) {
    peak[i] = std::max(kExcludedScore, peak[i]);
    highest[i] = Subtrahend(peak[i]);
    sum[i] = hn::Zero(d);
  }
  for (int64_t j = 0; j < n; j += lanes) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kRows; ++i) {
      const V e = ExpOfNegative(hn::Sub(hn::Load(d, rows + i * n + j), highest[i]));
      sum[i] = hn::Add(sum[i], e);
      store(i, j, e);
    }
  }
  FoldRows(AddLanes(), sum, total);
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) total[i] = NothingLeft(peak[i]) ? 1.0f : total[i];
}

// Of all rows of a strip, into sums.peak and sums.inverse, which become the sums.
template <typename Store>
HWY_INLINE void SoftmaxRows(const float* rows, int64_t count, int64_t n, const StripSums& sums,
                            const Store& store) {
  int64_t row = 0;
  for (; row + kSideBySide <= count; row += kSideBySide) {
    SoftmaxOf<kSideBySide>(rows + row * n, n, sums.peak + row, sums.inverse + row,
                           [&](int64_t i, int64_t j, V e) { store(row + i, j, e); });
  }
  for (; row < count; ++row) {
    SoftmaxOf<1>(rows + row * n, n, sums.peak + row, sums.inverse + row,
                 [&](int64_t, int64_t j, V e) { store(row, j, e); });
  }
}

// From the sums (strip) in sums.inverse and the peaks: lse of rows [first, first + count), where
// `lse` is that of row 0, and the sums' inverses.
inline void FinishSoftmax(const WindowMap& map, int64_t first, int64_t count, const StripSums& sums,
                          float* lse, int64_t lse_stride) {
  for (int64_t i = 0; i < count; ++i) {
    lse[map.row[first + i] * lse_stride] = sums.peak[i] + std::log(sums.inverse[i]);
    sums.inverse[i] = 1.0f / sums.inverse[i];
  }
}

// Rows' weights p = exp(score - lse) and ds = p (dp - sum p dp), in place of score and dp, over
// padded rows. `factor` and `delta` are left to be applied: the weight is factor p, and ds is
// factor p (dp - delta).
//
// Where values hardly differ from token to token, neither does dp, and ds is a small difference.
// Two steps keep its digits: dp is taken from its first element, and p is divided by its sum, since
// an lse near 100 is rounded by more than the sum is.
struct RowGradient {
  V factor;
  V delta;
};

template <int64_t kRows>
HWY_INLINE void SoftmaxGradientRows(const float (&lse)[kRows], int64_t n, float* p, float* dp,
                                    RowGradient (&gradients)[kRows]) {
  const D d;
  V origin[kRows], subtrahend[kRows], sum[kRows], total[kRows];
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) {
    origin[i] = hn::Set(d, dp[i * n]);
    subtrahend[i] = Subtrahend(lse[i]);
    sum[i] = total[i] = hn::Zero(d);
  }
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(hn::Lanes(d))) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kRows; ++i) {
      float *weight = p + i * n + j, *gradient = dp + i * n + j;
      const V e = ExpOfNegative(hn::Sub(hn::Load(d, weight), subtrahend[i]));
      const V difference = hn::Sub(hn::Load(d, gradient), origin[i]);
      hn::Store(e, d, weight);
      hn::Store(difference, d, gradient);
      sum[i] = hn::MulAdd(e, difference, sum[i]);
      total[i] = hn::Add(total[i], e);
    }
  }
  float totals[kRows], sums[kRows];
  FoldRows(AddLanes(), total, totals);
  FoldRows(AddLanes(), sum, sums);
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) {
    const float inverse = NothingLeft(lse[i]) ? 0.0f : 1.0f / totals[i];
    gradients[i] = {hn::Set(d, inverse), hn::Set(d, sums[i] * inverse)};
  }
}

// dbias (N, N), row of token i += ds, where tokens are left out or padded.
HWY_INLINE void AddBiasRow(const AttentionSizes& s, const WindowMap& map, int64_t i,
                           const float* ds, float* dbias) {
  float* to = dbias + map.place[i] * s.window_tokens;
  if (s.tokens == s.window_tokens) {
    ForEachVector(s.tokens, [&](int64_t j, int64_t count) {
      StorePart(hn::Add(LoadPart(to + j, count), LoadPart(ds + j, count)), to + j, count);
    });
    return;
  }
  for (int64_t j = 0; j < s.tokens; ++j) to[map.place[j]] += ds[j];
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
