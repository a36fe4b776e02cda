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
#include <cmath>
#include <cstring>
#include <type_traits>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/vector-inl.h"
#include "kernels/cpu/window_map.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Asks for the `bytes` at an address, which may be any.
HWY_INLINE void PrefetchBytes(const void* at, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) hwy::Prefetch(static_cast<const char*>(at) + i);
}

// rows = the window's vectors of one head, from `from` (row 0, channel 0 of the head), `stride`
// elements a row; padded with zeros. What the next task needs is `ahead` elements further, and is
// asked for: rows are short and far apart, which the processor does not foresee.
template <typename T>
void GatherRows(const AttentionSizes& s, const WindowMap& map, const T* from, int64_t stride,
                int64_t ahead, float* rows) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  for (int64_t t = 0; t < s.tokens; ++t) {
    const T* vector = from + map.row[t] * stride;
    PrefetchBytes(vector + ahead, s.dim * static_cast<int64_t>(sizeof(T)));
    float* to = rows + t * s.dim_padded;
    int64_t i = 0;
    for (; i + kLanes <= s.dim; i += kLanes) StoreWhole(LoadWhole(vector + i), to + i);
    if (i < s.dim) {
      StoreWhole(LoadPart(vector + i, s.dim - i), to + i);
      i += kLanes;
    }
    std::fill(to + i, to + s.dim_padded, 0.0f);
  }
}

// The other way.
template <typename T>
void ScatterRows(const AttentionSizes& s, const WindowMap& map, const float* rows, int64_t stride,
                 T* to) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  for (int64_t t = 0; t < s.tokens; ++t) {
    const float* vector = rows + t * s.dim_padded;
    T* at = to + map.row[t] * stride;
    int64_t i = 0;
    for (; i + kLanes <= s.dim; i += kLanes) StoreWhole(LoadWhole(vector + i), at + i);
    if (i < s.dim) StorePart(LoadWhole(vector + i), at + i, s.dim - i);
  }
}

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

HWY_INLINE float Dot(const float* a, const float* b, int64_t n) {
  const D d;
  V sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    sum = hn::MulAdd(hn::Load(d, a + i), hn::Load(d, b + i), sum);
  }
  return Total(sum);
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
  const D d;
  const V shortest = hn::Set(d, 1e-12f);
  std::fill(inverse + s.tokens, inverse + s.tokens_padded, 0.0f);
  for (int64_t t = 0; t < s.tokens_padded; t += static_cast<int64_t>(hn::Lanes(d))) {
    const V norm = hn::Sqrt(hn::Load(d, inverse + t));
    const V inv = hn::Div(hn::Set(d, 1.0f), hn::Max(norm, shortest));
    hn::Store(hn::IfThenElse(hn::Lt(norm, shortest), hn::Neg(inv), inv), d, inverse + t);
  }
  std::fill(inverse + s.tokens, inverse + s.tokens_padded, 0.0f);
}

// Divides each row by its norm and multiplies it by `factor`. inverse (tokens_padded) as
// InverseNorms has it.
inline void NormaliseRows(const AttentionSizes& s, float factor, float* rows, float* inverse) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const float* row = rows + t * s.dim_padded;
    inverse[t] = Dot(row, row, s.dim_padded);
  }
  InverseNorms(s, inverse);
  for (int64_t t = 0; t < s.tokens; ++t) {
    ScaleRow(rows + t * s.dim_padded, s.dim_padded, std::abs(inverse[t]) * factor);
  }
}

// Through y = factor * x / norm: dx = factor * inverse * (dy - y (y . dy) / factor^2). Returns
// y . dy. A row that was too short to be divided by its norm was only scaled.
HWY_INLINE float NormaliseGradientRow(const float* y, float factor, float inverse, int64_t n,
                                      float* dy) {
  const D d;
  const float dot = Dot(y, dy, n);
  const V along = hn::Set(d, inverse < 0 ? 0.0f : dot / (factor * factor));
  const V scale = hn::Set(d, factor * std::abs(inverse));
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V across = hn::NegMulAdd(hn::Load(d, y + i), along, hn::Load(d, dy + i));
    hn::Store(hn::Mul(across, scale), d, dy + i);
  }
  return dot;
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

// What is known of the softmax of a tile's rows.
struct TileSums {
  float* peak;     // (tile), the largest score
  float* inverse;  // (tile), 1 / the sum of exp(score - peak)
};

// Gives store(j, exponentials of the row's scores j, ... less their peak), and returns their sum: 1
// where all is excluded, and the exponentials are zero.
template <typename Store>
HWY_INLINE float SoftmaxRow(const float* row, int64_t n, float* peak, const Store& store) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V highest = hn::Load(d, row);
  for (int64_t j = lanes; j < n; j += lanes) highest = hn::Max(highest, hn::Load(d, row + j));
  highest = hn::MaxOfLanes(d, highest);
  *peak = hn::GetLane(highest);
  if (NothingLeft(*peak)) {
    *peak = kExcludedScore;
    for (int64_t j = 0; j < n; j += lanes) store(j, hn::Zero(d));
    return 1.0f;
  }
  V sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = ExpOfNegative(hn::Sub(hn::Load(d, row + j), highest));
    sum = hn::Add(sum, e);
    store(j, e);
  }
  return Total(sum);
}

// From the sums (tile) in sums.inverse and the peaks: lse of rows [first, first + count), where
// `lse` is that of row 0, and the sums' inverses.
inline void FinishSoftmax(const WindowMap& map, int64_t first, int64_t count, const TileSums& sums,
                          float* lse, int64_t lse_stride) {
  for (int64_t i = 0; i < count; ++i) {
    lse[map.row[first + i] * lse_stride] = sums.peak[i] + std::log(sums.inverse[i]);
    sums.inverse[i] = 1.0f / sums.inverse[i];
  }
}

// A row's weights p = exp(score - lse) and ds = p (dp - sum p dp), in place of score and dp, over a
// padded row. `factor` and `delta` are left to be applied: the weight is factor p, and ds is factor
// p (dp - delta).
//
// Where values hardly differ from token to token, neither does dp, and ds is a small difference.
// Two steps keep its digits: dp is taken from its first element, and p is divided by its sum, since
// an lse near 100 is rounded by more than the sum is.
struct RowGradient {
  V factor;
  V delta;
};

HWY_INLINE RowGradient SoftmaxGradientRow(float lse, int64_t n, float* p, float* dp) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V origin = hn::Set(d, dp[0]);
  if (NothingLeft(lse)) {
    std::fill_n(p, n, 0.0f);
    std::fill_n(dp, n, 0.0f);
    return {hn::Zero(d), hn::Zero(d)};
  }
  const V vlse = hn::Set(d, lse);
  V sum = hn::Zero(d);
  V total = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = ExpOfNegative(hn::Sub(hn::Load(d, p + j), vlse));
    const V difference = hn::Sub(hn::Load(d, dp + j), origin);
    hn::Store(e, d, p + j);
    hn::Store(difference, d, dp + j);
    sum = hn::MulAdd(e, difference, sum);
    total = hn::Add(total, e);
  }
  const float inverse = 1.0f / Total(total);
  return {hn::Set(d, inverse), hn::Set(d, Total(sum) * inverse)};
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
