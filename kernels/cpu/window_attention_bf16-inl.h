// Window attention on processors with products of bfloat16: vectors stay in 16 bits, products are
// of pairs and summed in float32. q and k come in as they are, so that their products are exact,
// and are divided by their norms afterwards; only softmax weights and their gradients are rounded.
// Included once for each target.
//
// A word is a pair of neighbours along the inner side of a product. Of a window's vectors of one
// head, (tokens_padded, dim_padded), three arrangements are needed: rows (tokens_padded,
// dim_padded / 2 words), columns (dim_padded / 2, tokens_padded), their transpose, and pairs of
// rows (tokens_padded / 2, dim_padded), where a word has an element of two tokens.
#if defined(SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_BF16_INL_H_
#undef SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_BF16_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_BF16_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention_rows-inl.h"
#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/vector-inl.h"
#include "kernels/cpu/window_map.h"

#if SWINFLEET_NATIVE_BF16

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

inline uint32_t* TakeWords(FloatStack* stack, int64_t words) {
  return reinterpret_cast<uint32_t*>(stack->Take(words));
}

inline uint16_t* Halfwords(uint32_t* words) { return reinterpret_cast<uint16_t*>(words); }

// As GatherRows.
inline void GatherBf16Rows(const AttentionSizes& s, const WindowMap& map,
                           const hwy::bfloat16_t* from, int64_t stride, uint32_t* rows) {
  const hn::ScalableTag<uint16_t> d16;
  constexpr int64_t kLanes = hn::MaxLanes(d16);
  uint16_t* to = Halfwords(rows);
  for (int64_t t = 0; t < s.tokens; ++t, to += s.dim_padded) {
    const auto* vector = reinterpret_cast<const uint16_t*>(from + map.row[t] * stride);
    int64_t i = 0;
    for (; i + kLanes <= s.dim; i += kLanes) hn::StoreU(hn::LoadU(d16, vector + i), d16, to + i);
    std::memcpy(to + i, vector + i, (s.dim - i) * sizeof(uint16_t));
    std::fill(to + s.dim, to + s.dim_padded, uint16_t{0});
  }
  std::fill_n(to, (s.tokens_padded - s.tokens) * s.dim_padded, uint16_t{0});
}

inline void ColumnsOfRows(const AttentionSizes& s, const uint32_t* rows, uint32_t* columns) {
  Transpose(rows, s.tokens_padded, s.dim_padded / 2, s.dim_padded / 2, columns, s.tokens_padded);
}

// Words of an element of the first and of the second.
HWY_INLINE hn::Vec<DU> PairUp(hn::Vec<D16> first, hn::Vec<D16> second) {
  const DU du;
  return hn::Or(hn::PromoteTo(du, first), hn::ShiftLeft<16>(hn::PromoteTo(du, second)));
}

// Rounds, as NativeBf16 does, what becomes pairs, and keeps the order that this takes.
class RoundedPairs {
 public:
  // Half i of the first 16 beside half i of the others.
  HWY_INLINE RoundedPairs()
      : order_(_mm512_add_epi32(_mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7,
                                                                    6, 5, 4, 3, 2, 1, 0),
                                                   _mm512_set1_epi32(0x10001)),
                                _mm512_set1_epi32(0x100000))) {}
  HWY_INLINE hn::Vec<DU> operator()(V first, V second) const {
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.raw, first.raw));
    return hn::Vec<DU>{_mm512_permutexvar_epi16(order_, halves)};
  }

 private:
  const __m512i order_;
};

inline void PairsOfRows(const AttentionSizes& s, uint32_t* rows, uint32_t* pairs) {
  const D16 d16;
  for (int64_t t = 0; t < s.tokens_padded; t += 2) {
    const uint16_t* first = Halfwords(rows) + t * s.dim_padded;
    for (int64_t i = 0; i < s.dim_padded; i += static_cast<int64_t>(hn::Lanes(d16))) {
      hn::StoreU(PairUp(hn::LoadU(d16, first + i), hn::LoadU(d16, first + s.dim_padded + i)), DU(),
                 pairs + t / 2 * s.dim_padded + i);
    }
  }
}

// inverse (tokens_padded) as InverseNorms has it, and scale = factor |inverse|. Where scores are
// plain products, vectors count as too short to be divided by a norm, with an inverse of -1.
inline void ScalesOfRows(const AttentionSizes& s, const uint32_t* rows, bool cosine, float factor,
                         float* inverse, float* scale) {
  const hn::ScalableTag<uint32_t> dw;
  const D d;
  if (!cosine) {
    std::fill_n(inverse, s.tokens_padded, -1.0f);
    std::fill_n(scale, s.tokens_padded, factor);
    return;
  }
  const int64_t half = s.dim_padded / 2;
  const auto squares = [&](int64_t t) {
    V sum = hn::Zero(d);
    for (int64_t i = 0; i < half; i += static_cast<int64_t>(hn::Lanes(d))) {
      // Rows may end in the middle of a vector: half of a row of 16 elements.
      const auto words = hn::MaskedLoad(hn::FirstN(dw, half - i), dw, rows + t * half + i);
      sum = Bf16Pair::MulAdd(words, words, sum);
    }
    return sum;
  };
  // Rows of padding are zeros.
  for (int64_t t = 0; t < s.tokens_padded; t += kSumRows) {
    StoreTotals(squares(t), squares(t + 1), squares(t + 2), squares(t + 3), inverse + t);
  }
  InverseNorms(s, inverse);
  for (int64_t t = 0; t < s.tokens_padded; ++t) scale[t] = factor * std::abs(inverse[t]);
}

// q k of rows [first, ...), given to the epilogue.
template <typename Epilogue>
void Bf16Products(const AttentionSizes& s, int64_t first, int64_t count, const uint32_t* q,
                  const uint32_t* k_columns, const Epilogue& epilogue) {
  const int64_t half = s.dim_padded / 2;
  SmallGemm<Bf16Pair>({q + first * half, half, 1}, count, s.tokens_padded, (s.dim + 1) / 2,
                      k_columns, s.tokens_padded, epilogue);
}

struct Bf16ForwardBuffers {
  Bf16ForwardBuffers(const AttentionSizes& s, FloatStack* stack)
      : map(s, stack),
        after(s, stack),
        rows(TakeWords(stack, s.Rows() / 2)),
        q(TakeWords(stack, s.Rows() / 2)),
        k_columns(TakeWords(stack, s.Rows() / 2)),
        v_pairs(TakeWords(stack, s.Rows() / 2)),
        weights(TakeWords(stack, s.HalfStripScores())),
        scores(stack->Take(s.StripScores())),
        inverse(stack->Take(s.tokens_padded)),
        q_scale(stack->Take(s.tokens_padded)),
        k_scale(stack->Take(s.tokens_padded)),
        sums{stack->Take(s.StripRows()), stack->Take(s.StripRows())} {}
  WindowMap map, after;
  uint32_t *rows, *q, *k_columns, *v_pairs, *weights;
  float *scores, *inverse, *q_scale, *k_scale;
  StripSums sums;
};

inline void Bf16ForwardStrips(const AttentionSizes& s, const Bf16ForwardBuffers& b,
                              const float* bias, float* lse, int64_t lse_stride,
                              hwy::bfloat16_t* out, const NextVectors& next) {
  const int64_t n = s.tokens_padded;
  uint16_t* weights = Halfwords(b.weights);
  for (int64_t first = 0; first < s.tokens; first += s.strip) {
    const int64_t count = std::min(s.strip, s.tokens - first);
    next.q.Ask(first, count);
    const ScoreStart start = StartScores(s, b.map, first, count, bias, b.scores);
    Bf16Products(s, first, count, b.q, b.k_columns,
                 ScaleAndAdd{b.scores, n, b.q_scale + first, b.k_scale, start.rows, start.stride});
    next.k.Ask(first, count);
    SoftmaxRows(b.scores, count, n, b.sums, [&](int64_t row, int64_t j, V e) {
      hn::StoreU(NativeBf16(e), D16(), weights + row * n + j);
    });
    FinishSoftmax(b.map, first, count, b.sums, lse, lse_stride);
    next.v.Ask(first, count);
    SmallGemm<Bf16Pair>({b.weights, n / 2, 1}, count, s.dim_padded, (s.tokens + 1) / 2, b.v_pairs,
                        s.dim_padded,
                        ScatterScaledRows<hwy::bfloat16_t>{b.map.row + first, s.dim, b.sums.inverse,
                                                           s.channels, out});
    next.out.Ask(first, count);
    next.lse.Ask(first, count);
  }
}

inline void ForwardBf16Tasks(const WindowAttentionForwardArgs& args, const AttentionTasks& tasks,
                             float* scratch) {
  AttentionSizes s(args.geometry, args.heads, args.qkv);
  FloatStack stack(scratch);
  Bf16ForwardBuffers b(s, &stack);
  const int64_t stride = 3 * s.channels;
  ForEachTask(args, tasks, &s, &b.map, &b.after, [&](int64_t window, int64_t head, NextTask task) {
    const hwy::bfloat16_t* qkv = Elements<hwy::bfloat16_t>(args.qkv) + head * s.dim;
    const ScoreScale scale(args.logit_scale, args.score_scale, head, s.dim);
    GatherBf16Rows(s, b.map, qkv, stride, b.q);
    ScalesOfRows(s, b.q, scale.cosine, scale.factor, b.inverse, b.q_scale);
    GatherBf16Rows(s, b.map, qkv + s.channels, stride, b.rows);
    ScalesOfRows(s, b.rows, scale.cosine, 1.0f, b.inverse, b.k_scale);
    ColumnsOfRows(s, b.rows, b.k_columns);
    GatherBf16Rows(s, b.map, qkv + 2 * s.channels, stride, b.rows);
    PairsOfRows(s, b.rows, b.v_pairs);
    Bf16ForwardStrips(s, b, BiasOf(args.bias, args.geometry, args.heads, window, head),
                      args.lse.f32() + head, args.heads,
                      Elements<hwy::bfloat16_t>(args.out) + head * s.dim,
                      NextVectors(s, args, task, Elements<hwy::bfloat16_t>(args.qkv),
                                  Elements<hwy::bfloat16_t>(args.out)));
  });
}

struct Bf16BackwardBuffers {
  Bf16BackwardBuffers(const AttentionSizes& s, FloatStack* stack)
      : map(s, stack),
        after(s, stack),
        v(TakeWords(stack, s.Rows() / 2)),
        q(TakeWords(stack, s.Rows() / 2)),
        k(TakeWords(stack, s.Rows() / 2)),
        dout(TakeWords(stack, s.Rows() / 2)),
        k_columns(TakeWords(stack, s.Rows() / 2)),
        v_columns(TakeWords(stack, s.Rows() / 2)),
        q_pairs(TakeWords(stack, s.Rows() / 2)),
        k_pairs(TakeWords(stack, s.Rows() / 2)),
        dout_pairs(TakeWords(stack, s.Rows() / 2)),
        p_pairs(TakeWords(stack, s.HalfScores())),
        ds_pairs(TakeWords(stack, s.HalfScores())),
        ds_rows(TakeWords(stack, s.HalfScores())),
        scores(stack->Take(s.Scores())),
        dscores(stack->Take(s.Scores())),
        start(stack->Take(s.Scores())),
        dq(stack->Take(s.Rows())),
        dk(stack->Take(s.Rows())),
        dv(stack->Take(s.Rows())),
        q_inverse(stack->Take(s.tokens_padded)),
        k_inverse(stack->Take(s.tokens_padded)),
        q_scale(stack->Take(s.tokens_padded)),
        k_scale(stack->Take(s.tokens_padded)) {}
  WindowMap map, after;
  uint32_t *v, *q, *k, *dout, *k_columns, *v_columns, *q_pairs, *k_pairs, *dout_pairs;
  uint32_t *p_pairs, *ds_pairs, *ds_rows;
  float *scores, *dscores, *start, *dq, *dk, *dv;
  float *q_inverse, *k_inverse, *q_scale, *k_scale;
};

// As SoftmaxGradientRows, of p that holds q k and is added to `start` for the score. *dscale += the
// sum of ds q k, the gradient of the scale's logarithm, from numbers that were not rounded yet; q k
// is taken from its first element for the reason given there.
HWY_INLINE RowGradient ProductGradientRow(const float* start, float lse, int64_t n, float* p,
                                          float* dp, double* dscale) {
  const D d;
  const V subtrahend = Subtrahend(lse);
  const V origin = hn::Set(d, dp[0]), product_origin = hn::Set(d, p[0]);
  V total = hn::Zero(d), sum = hn::Zero(d), products = hn::Zero(d), both = hn::Zero(d);
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(hn::Lanes(d))) {
    const V product = hn::Load(d, p + j);
    const V e = ExpOfNegative(hn::Sub(hn::Add(product, hn::LoadU(d, start + j)), subtrahend));
    const V difference = hn::Sub(hn::Load(d, dp + j), origin);
    const V weighted = hn::Mul(e, hn::Sub(product, product_origin));
    hn::Store(e, d, p + j);
    hn::Store(difference, d, dp + j);
    total = hn::Add(total, e);
    sum = hn::MulAdd(e, difference, sum);
    products = hn::Add(products, weighted);
    both = hn::MulAdd(weighted, difference, both);
  }
  float totals[4];
  StoreTotals(total, sum, both, products, totals);
  const float inverse = NothingLeft(lse) ? 0.0f : 1.0f / totals[0];
  const float delta = totals[1] * inverse;
  *dscale += inverse * (totals[2] - delta * totals[3]);
  return {hn::Set(d, inverse), hn::Set(d, delta)};
}

// Where the gradients of a tile's rows go, beside the buffers; dbias (N, N) may be null.
struct Bf16Tile {
  int64_t first;
  int64_t count;
  ScoreStart start;
  float* dbias;
  double* dscale;
};

// From q k of rows i and i + 1 of a tile and the gradients dp of their weights: the weights in
// pairs, and ds, times what products with k and with q need, in rows and in pairs. An odd last row
// is paired with zeros. lse is that of the tensors' row 0.
inline void FinishBf16Pair(const AttentionSizes& s, const Bf16BackwardBuffers& b,
                           const Bf16Tile& tile, int64_t i, const float* lse, int64_t lse_stride) {
  const D d;
  const RoundedPairs rounded_pairs;
  const int64_t n = s.tokens_padded;
  const int rows = i + 1 < tile.count ? 2 : 1;
  const bool whole = BiasIsWhole(s, tile.dbias);
  RowGradient gradient[2] = {{hn::Zero(d), hn::Zero(d)}, {hn::Zero(d), hn::Zero(d)}};
  float *p[2], *ds[2];
  V q_scale[2];
  for (int r = 0; r < 2; ++r) {
    // A missing row is the first again, with a factor of zero.
    const int64_t row = i + std::min(r, rows - 1);
    p[r] = b.scores + row * n;
    ds[r] = b.dscores + row * n;
    q_scale[r] = hn::Set(d, b.q_scale[tile.first + row]);
    if (r >= rows) continue;
    gradient[r] = ProductGradientRow(tile.start.rows + row * tile.start.stride,
                                     lse[b.map.row[tile.first + row] * lse_stride], n, p[r], ds[r],
                                     tile.dscale);
  }
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(hn::Lanes(d))) {
    const V k_scale = hn::Load(d, b.k_scale + j);
    V weights[2], scaled[2];
    for (int r = 0; r < 2; ++r) {
      const V weight = hn::Mul(hn::Load(d, p[r] + j), gradient[r].factor);
      const V dscore = hn::Mul(weight, hn::Sub(hn::Load(d, ds[r] + j), gradient[r].delta));
      weights[r] = weight;
      scaled[r] = hn::Mul(dscore, q_scale[r]);
      if (r >= rows) continue;
      hn::StoreU(NativeBf16(hn::Mul(dscore, k_scale)), D16(),
                 Halfwords(b.ds_rows) + (i + r) * n + j);
      if (whole) {
        float* row = tile.dbias + (tile.first + i + r) * s.tokens + j;
        hn::StoreU(hn::Add(hn::LoadU(d, row), dscore), d, row);
      } else {
        hn::Store(dscore, d, ds[r] + j);
      }
    }
    hn::StoreU(rounded_pairs(weights[0], weights[1]), DU(), b.p_pairs + i / 2 * n + j);
    hn::StoreU(rounded_pairs(scaled[0], scaled[1]), DU(), b.ds_pairs + i / 2 * n + j);
  }
  for (int r = 0; r < rows && tile.dbias != nullptr && !whole; ++r) {
    AddBiasRow(s, b.map, tile.first + i + r, ds[r], tile.dbias);
  }
}

// Of rows of a tile from row `from` on, a strip of them: weights and ds, and b.dq.
inline void Bf16BackwardStrip(const AttentionSizes& s, const Bf16BackwardBuffers& b,
                              const Bf16Tile& tile, int64_t from, const float* lse,
                              int64_t lse_stride, const NextVectors& next) {
  const int64_t n = s.tokens_padded, dim = s.dim_padded;
  const int64_t first = tile.first + from, count = std::min(s.strip, tile.count - from);
  next.q.Ask(first, count);
  Bf16Products(s, first, count, b.q, b.k_columns,
               ScaleBoth{b.scores + from * n, n, b.q_scale + first, b.k_scale});
  next.k.Ask(first, count);
  SmallGemm<Bf16Pair>({b.dout + first * dim / 2, dim / 2, 1}, count, n, (s.dim + 1) / 2,
                      b.v_columns, n, Overwrite{b.dscores + from * n, n});
  next.v.Ask(first, count);
  for (int64_t i = from; i < from + count; i += 2) FinishBf16Pair(s, b, tile, i, lse, lse_stride);
  next.out.Ask(first, count);
  next.lse.Ask(first, count);
  SmallGemm<Bf16Pair>({b.ds_rows + from * n / 2, n / 2, 1}, count, dim, (s.tokens + 1) / 2,
                      b.k_pairs, dim, Overwrite{b.dq + first * dim, dim});
}

// Gradients of one window and head: b.dv, and sums of k, divided by its norm, into b.dq and of the
// scaled, normalised q into b.dk, each weighted with ds. dbias (N, N), where given, and *dscale are
// added to.
inline void Bf16BackwardTiles(const AttentionSizes& s, const Bf16BackwardBuffers& b,
                              const float* bias, const float* lse, int64_t lse_stride, float* dbias,
                              double* dscale, const NextVectors& next) {
  const int64_t n = s.tokens_padded, dim = s.dim_padded;
  for (int64_t first = 0; first < s.tokens; first += s.tile) {
    const int64_t count = std::min(s.tile, s.tokens - first);
    const Bf16Tile tile = {first, count, StartScores(s, b.map, first, count, bias, b.start), dbias,
                           dscale};
    for (int64_t i = 0; i < count; i += s.strip) {
      Bf16BackwardStrip(s, b, tile, i, lse, lse_stride, next);
    }
    const auto sum_up = [&](const uint32_t* weights, const uint32_t* pairs, float* to) {
      const SmallMatrix<uint32_t> columns = {weights, 1, n};
      const int64_t inner = (count + 1) / 2;
      const uint32_t* vectors = pairs + first / 2 * dim;
      if (first == 0) {
        SmallGemm<Bf16Pair>(columns, s.tokens, dim, inner, vectors, dim, Overwrite{to, dim});
      } else {
        SmallGemm<Bf16Pair>(columns, s.tokens, dim, inner, vectors, dim, AddTo{to, dim, to, dim});
      }
    };
    sum_up(b.p_pairs, b.dout_pairs, b.dv);
    sum_up(b.ds_pairs, b.q_pairs, b.dk);
  }
}

// Gradients of all of a window's rows x, written where `to` is that of row 0, from `sums`, those of
// x / |x| divided by `factor`. An x that is not divided by its norm has a negative inverse.
inline void ScatterBf16Gradients(const AttentionSizes& s, const WindowMap& map,
                                 const uint32_t* rows, float factor, const float* inverse,
                                 const float* sums, int64_t stride, hwy::bfloat16_t* to) {
  const D d;
  const int64_t dim = s.dim;
  ForEachRowDot(s, reinterpret_cast<const hwy::bfloat16_t*>(rows), sums,
                [&](int64_t t, float dot, const hwy::bfloat16_t* row, const float* gradient) {
                  const float inv = inverse[t];
                  const V projection = hn::Set(d, inv < 0 ? 0.0f : dot * inv * inv);
                  const V scale = hn::Set(d, factor * std::abs(inv));
                  hwy::bfloat16_t* at = to + map.row[t] * stride;
                  ForEachVector(dim, [&](int64_t i, int64_t count) {
                    const V across =
                        hn::NegMulAdd(LoadWhole(row + i), projection, hn::Load(d, gradient + i));
                    StorePart(hn::Mul(across, scale), at + i, count);
                  });
                });
}

inline void LoadBf16Window(const AttentionSizes& s, const hwy::bfloat16_t* qkv,
                           const hwy::bfloat16_t* dout, const ScoreScale& scale,
                           const Bf16BackwardBuffers& b) {
  const int64_t stride = 3 * s.channels;
  GatherBf16Rows(s, b.map, qkv, stride, b.q);
  GatherBf16Rows(s, b.map, qkv + s.channels, stride, b.k);
  GatherBf16Rows(s, b.map, qkv + 2 * s.channels, stride, b.v);
  GatherBf16Rows(s, b.map, dout, s.channels, b.dout);
  ScalesOfRows(s, b.q, scale.cosine, scale.factor, b.q_inverse, b.q_scale);
  ScalesOfRows(s, b.k, scale.cosine, 1.0f, b.k_inverse, b.k_scale);
  ColumnsOfRows(s, b.k, b.k_columns);
  ColumnsOfRows(s, b.v, b.v_columns);
  PairsOfRows(s, b.q, b.q_pairs);
  PairsOfRows(s, b.k, b.k_pairs);
  PairsOfRows(s, b.dout, b.dout_pairs);
}

inline void BackwardBf16Tasks(const WindowAttentionBackwardArgs& args, const AttentionTasks& tasks,
                              float* scratch, const TensorView& dbias, double* dscale) {
  AttentionSizes s(args.geometry, args.heads, args.qkv);
  const WindowGeometry& geometry = args.geometry;
  FloatStack stack(scratch);
  Bf16BackwardBuffers b(s, &stack);
  const int64_t stride = 3 * s.channels;
  ForEachTask(args, tasks, &s, &b.map, &b.after, [&](int64_t window, int64_t head, NextTask task) {
    const ScoreScale scale(args.logit_scale, args.score_scale, head, s.dim);
    const hwy::bfloat16_t* qkv = Elements<hwy::bfloat16_t>(args.qkv) + head * s.dim;
    const hwy::bfloat16_t* dout = Elements<hwy::bfloat16_t>(args.dout) + head * s.dim;
    LoadBf16Window(s, qkv, dout, scale, b);
    double scale_gradient = 0;
    Bf16BackwardTiles(s, b, BiasOf(args.bias, geometry, args.heads, window, head),
                      args.lse.f32() + head, args.heads,
                      BiasOf(dbias, geometry, args.heads, window, head), &scale_gradient,
                      NextVectors(s, args, task, Elements<hwy::bfloat16_t>(args.qkv),
                                  Elements<hwy::bfloat16_t>(args.dout)));
    if (scale.cosine && !scale.clamped) dscale[head] += scale_gradient;
    auto* dqkv = Elements<hwy::bfloat16_t>(args.dqkv) + head * s.dim;
    ScatterBf16Gradients(s, b.map, b.q, scale.factor, b.q_inverse, b.dq, stride, dqkv);
    ScatterBf16Gradients(s, b.map, b.k, 1.0f, b.k_inverse, b.dk, stride, dqkv + s.channels);
    ScatterRows(s, b.map, b.dv, stride, dqkv + 2 * s.channels);
    for (int part = 0; part < 3; ++part) {
      ClearPadding(s, b.map, stride, dqkv + part * s.channels);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SWINFLEET_NATIVE_BF16

#endif  // include guard for each target
