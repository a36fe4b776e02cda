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

#include <hwy/highway.h>
// Needs highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/vector-inl.h"
#include "kernels/cpu/window_map.h"

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// rows = the window's vectors of one head, from `from` (row 0, channel 0 of the head), `stride`
// elements a row; padded with zeros.
template <typename T>
void GatherRows(const AttentionSizes& s, const WindowMap& map, const T* from, int64_t stride,
                float* rows) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  for (int64_t t = 0; t < s.tokens; ++t) {
    const T* vector = from + map.row[t] * stride;
    float* to = rows + t * s.dim_padded;
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(to, vector, s.dim * sizeof(float));
    } else {
      for (int64_t i = 0; i < s.dim; i += kLanes) {
        StoreWhole(LoadPart(vector + i, std::min(kLanes, s.dim - i)), to + i);
      }
    }
    std::fill(to + s.dim, to + s.dim_padded, 0.0f);
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
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(at, vector, s.dim * sizeof(float));
    } else {
      for (int64_t i = 0; i < s.dim; i += kLanes) {
        StorePart(LoadWhole(vector + i), at + i, std::min(kLanes, s.dim - i));
      }
    }
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

// Divides each row by its norm and multiplies it by `factor`. inverse (tokens), where given, gets
// 1 / norm, negative where the norm was too short to be divided by: vectors shorter than 1e-12 are
// divided by that (torch.nn.functional.normalize).
inline void NormaliseRows(const AttentionSizes& s, float factor, float* rows, float* inverse) {
  constexpr float kShortest = 1e-12f;
  for (int64_t t = 0; t < s.tokens; ++t) {
    float* row = rows + t * s.dim_padded;
    const float norm = std::sqrt(Dot(row, row, s.dim_padded));
    const bool tiny = norm < kShortest;
    const float inv = 1.0f / (tiny ? kShortest : norm);
    ScaleRow(row, s.dim_padded, inv * factor);
    if (inverse != nullptr) inverse[t] = tiny ? -inv : inv;
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
  std::fill(rows + s.tokens * s.dim_padded, rows + s.Rows(), 0.0f);
  Transpose(rows, s.tokens_padded, s.dim_padded, s.dim_padded, columns, s.tokens_padded);
}

// The row of scores of token i before q k: its bias, if any.
HWY_INLINE void BiasRow(const AttentionSizes& s, const WindowMap& map, int64_t i, const float* bias,
                        float* row) {
  if (bias == nullptr) {
    std::fill_n(row, s.tokens, 0.0f);
  } else if (s.tokens == s.window_tokens) {
    std::memcpy(row, bias + i * s.tokens, s.tokens * sizeof(float));
  } else {
    const float* from = bias + map.place[i] * s.window_tokens;
    for (int64_t j = 0; j < s.tokens; ++j) row[j] = from[map.place[j]];
  }
}

// scores of rows [first, first + count): bias + mask + scaled q k^T. bias (N, N) may be null.
inline void Scores(const AttentionSizes& s, const WindowMap& map, int64_t first, int64_t count,
                   const float* scaled_q, const float* k_columns, const float* bias,
                   float* scores) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = scores + i * s.tokens_padded;
    BiasRow(s, map, first + i, bias, row);
    std::fill(row + s.tokens, row + s.tokens_padded, kExcludedScore);
    if (!map.masked) continue;
    const int32_t region = map.region[first + i];
    for (int64_t j = 0; j < s.tokens; ++j) row[j] += map.region[j] != region ? -100.0f : 0.0f;
  }
  SmallGemm({scaled_q + first * s.dim_padded, s.dim_padded, 1}, count, s.tokens_padded, s.dim,
            k_columns, s.tokens_padded, scores, s.tokens_padded, true);
}

// Whether nothing but excluded scores can have this peak or sum: a token that attends to nobody.
HWY_INLINE bool NothingLeft(float lse) { return lse <= 0.5f * kExcludedScore; }

// row = softmax(row); returns the logarithm of the sum of exponentials. Zeros, and kExcludedScore,
// where all is excluded.
HWY_INLINE float SoftmaxRow(float* row, int64_t n) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V peak = hn::Load(d, row);
  for (int64_t j = lanes; j < n; j += lanes) peak = hn::Max(peak, hn::Load(d, row + j));
  peak = hn::MaxOfLanes(d, peak);
  const float highest = hn::GetLane(peak);
  if (NothingLeft(highest)) {
    std::fill_n(row, n, 0.0f);
    return kExcludedScore;
  }
  V sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = hn::Exp(d, hn::Sub(hn::Load(d, row + j), peak));
    sum = hn::Add(sum, e);
    hn::Store(e, d, row + j);
  }
  const float total = Total(sum);
  ScaleRow(row, n, 1.0f / total);
  return highest + std::log(total);
}

// p = exp(score - lse), ds = p (dp - sum p dp), over a padded row.
//
// Where values hardly differ from token to token, neither does dp, and ds is a small difference.
// Two steps keep its digits: dp is taken from its first element, and p is divided by its sum, since
// an lse near 100 is rounded by more than the sum is.
HWY_INLINE void SoftmaxGradientRow(float lse, int64_t n, float* p, float* dp) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (NothingLeft(lse)) {
    std::fill_n(p, n, 0.0f);
    std::fill_n(dp, n, 0.0f);
    return;
  }
  const V vlse = hn::Set(d, lse);
  const V origin = hn::Set(d, dp[0]);
  V sum = hn::Zero(d);
  V total = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = hn::Exp(d, hn::Sub(hn::Load(d, p + j), vlse));
    const V difference = hn::Sub(hn::Load(d, dp + j), origin);
    hn::Store(e, d, p + j);
    hn::Store(difference, d, dp + j);
    sum = hn::MulAdd(e, difference, sum);
    total = hn::Add(total, e);
  }
  const float inverse = 1.0f / Total(total);
  const V normalise = hn::Set(d, inverse);
  const V delta = hn::Set(d, Total(sum) * inverse);
  for (int64_t j = 0; j < n; j += lanes) {
    const V probability = hn::Mul(hn::Load(d, p + j), normalise);
    hn::Store(probability, d, p + j);
    hn::Store(hn::Mul(probability, hn::Sub(hn::Load(d, dp + j), delta)), d, dp + j);
  }
}

inline void AddRow(const float* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// dbias (N, N), row of token i += ds.
HWY_INLINE void AddBiasRow(const AttentionSizes& s, const WindowMap& map, int64_t i,
                           const float* ds, float* dbias) {
  if (s.tokens == s.window_tokens) {
    AddRow(ds, dbias + i * s.tokens, s.tokens);
    return;
  }
  float* to = dbias + map.place[i] * s.window_tokens;
  for (int64_t j = 0; j < s.tokens; ++j) to[map.place[j]] += ds[j];
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
