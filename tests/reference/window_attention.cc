#include <algorithm>
#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

const double kMaxLogitScale = std::log(100.0);
constexpr double kMinNorm = 1e-12;
// Scores below this are of pairs that a bias excludes.
constexpr double kExcludedBelow = -1e29;

// torch.nn.functional.normalize over rows of `dim`; with `cosine` false the rows as they are.
struct Normalized {
  Vec unit;    // x / max(norm, 1e-12)
  Vec length;  // max(norm, 1e-12) of each row
  // Whether the length is a constant.
  std::vector<bool> clamped;
};

Normalized Normalize(const Vec& x, int64_t dim, bool cosine) {
  const size_t rows = x.size() / dim;
  if (!cosine) return {x, Vec(rows, 1), std::vector<bool>(rows, true)};
  Normalized n{Vec(x.size()), Vec(rows), std::vector<bool>(rows)};
  for (size_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d) squares += x[row * dim + d] * x[row * dim + d];
    n.clamped[row] = std::sqrt(squares) < kMinNorm;
    n.length[row] = std::max(std::sqrt(squares), kMinNorm);
    for (int64_t d = 0; d < dim; ++d) n.unit[row * dim + d] = x[row * dim + d] / n.length[row];
  }
  return n;
}

// The gradient with respect to what was normalised. Where the length was clamped it is a constant.
Vec NormalizeBackward(const Normalized& n, const Vec& dunit, int64_t dim) {
  Vec dx(dunit.size());
  for (size_t row = 0; row < n.length.size(); ++row) {
    double along = 0;
    for (int64_t d = 0; d < dim; ++d) along += dunit[row * dim + d] * n.unit[row * dim + d];
    if (n.clamped[row]) along = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const size_t i = row * dim + d;
      dx[i] = (dunit[i] - along * n.unit[i]) / n.length[row];
    }
  }
  return dx;
}

// (windows, N, parts heads D) -> part `part` as (windows, heads, N, D).
Vec SplitHeads(const AttentionCore& a, const Vec& x, int64_t parts, int64_t part) {
  Vec y(a.windows * a.heads * a.tokens * a.dim);
  for (int64_t w = 0; w < a.windows; ++w) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t n = 0; n < a.tokens; ++n) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const int64_t from = (((w * a.tokens + n) * parts + part) * a.heads + h) * a.dim + d;
          y.at(((w * a.heads + h) * a.tokens + n) * a.dim + d) = x.at(from);
        }
      }
    }
  }
  return y;
}

// The inverse of SplitHeads, into part `part` of x.
void MergeHeads(const AttentionCore& a, const Vec& y, int64_t parts, int64_t part, Vec* x) {
  for (int64_t w = 0; w < a.windows; ++w) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t n = 0; n < a.tokens; ++n) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const int64_t to = (((w * a.tokens + n) * parts + part) * a.heads + h) * a.dim + d;
          x->at(to) = y.at(((w * a.heads + h) * a.tokens + n) * a.dim + d);
        }
      }
    }
  }
}

// Of head `head`: what the product of q and k is multiplied by.
double ScaleOf(const AttentionCore& a, const AttentionInputs& in, int64_t head) {
  if (in.logit_scale.empty()) {
    return in.score_scale != 0 ? in.score_scale : 1 / std::sqrt(static_cast<double>(a.dim));
  }
  return std::exp(std::min(in.logit_scale.at(head), kMaxLogitScale));
}

// The number of window w in its picture.
int64_t NumberOf(const AttentionCore& a, int64_t w) { return (a.first + w) % a.per_picture; }

// The element of the bias for a pair of tokens of window w and head h.
int64_t BiasAt(const AttentionCore& a, int64_t w, int64_t h, int64_t i, int64_t j) {
  return (((NumberOf(a, w) % a.biases) * a.heads + h) * a.tokens + i) * a.tokens + j;
}

// Whether token i of window w attends to token j.
bool Attends(const AttentionCore& a, const AttentionInputs& in, int64_t w, int64_t h, int64_t i,
             int64_t j) {
  if (!in.excluded.empty() && in.excluded.at(NumberOf(a, w) * a.tokens + j) != 0) return false;
  return in.bias.empty() || in.bias.at(BiasAt(a, w, h, i, j)) > kExcludedBelow;
}

}  // namespace

AttentionResult AttentionForward(const AttentionCore& a, const AttentionInputs& in) {
  const int64_t n = a.tokens;
  const bool cosine = !in.logit_scale.empty();
  const Vec unit_q = Normalize(in.q, a.dim, cosine).unit;
  const Vec unit_k = Normalize(in.k, a.dim, cosine).unit;
  AttentionResult r{Vec(a.windows * a.heads * n * a.dim), Vec(a.windows * a.heads * n, kNobodyLse),
                    Vec(a.windows * a.heads * n * n)};
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads, window = wh / a.heads;
    for (int64_t i = 0; i < n; ++i) {
      Vec score(n);
      double largest = -INFINITY;
      for (int64_t j = 0; j < n; ++j) {
        if (!Attends(a, in, window, head, i, j)) continue;
        double product = 0;
        for (int64_t d = 0; d < a.dim; ++d) {
          product += unit_q.at((wh * n + i) * a.dim + d) * unit_k.at((wh * n + j) * a.dim + d);
        }
        score[j] = ScaleOf(a, in, head) * product;
        if (!in.bias.empty()) score[j] += in.bias.at(BiasAt(a, window, head, i, j));
        if (!in.mask.empty()) score[j] += in.mask.at((NumberOf(a, window) * n + i) * n + j);
        largest = std::max(largest, score[j]);
      }
      if (std::isinf(largest)) continue;
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) {
        if (Attends(a, in, window, head, i, j)) sum += std::exp(score[j] - largest);
      }
      r.lse[wh * n + i] = largest + std::log(sum);
      for (int64_t j = 0; j < n; ++j) {
        if (!Attends(a, in, window, head, i, j)) continue;
        const double p = std::exp(score[j] - r.lse[wh * n + i]);
        r.attention[(wh * n + i) * n + j] = p;
        for (int64_t d = 0; d < a.dim; ++d) {
          r.out[(wh * n + i) * a.dim + d] += p * in.v.at((wh * n + j) * a.dim + d);
        }
      }
    }
  }
  return r;
}

AttentionGradients AttentionBackward(const AttentionCore& a, const AttentionInputs& in,
                                     const Vec& dout) {
  const int64_t n = a.tokens;
  const int64_t size = a.windows * a.heads * n * a.dim;
  const bool cosine = !in.logit_scale.empty();
  const Vec p = AttentionForward(a, in).attention;
  const Normalized nq = Normalize(in.q, a.dim, cosine);
  const Normalized nk = Normalize(in.k, a.dim, cosine);
  AttentionGradients g{{}, {}, Vec(size), Vec(in.logit_scale.size()), Vec(in.bias.size())};
  Vec dunit_q(size);
  Vec dunit_k(size);
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads, window = wh / a.heads;
    const bool clamped = cosine && in.logit_scale.at(head) > kMaxLogitScale;
    const double scale = ScaleOf(a, in, head);
    for (int64_t i = 0; i < n; ++i) {
      Vec dp(n);
      double mean_dp = 0;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const double dy = dout.at((wh * n + i) * a.dim + d);
          dp[j] += dy * in.v.at((wh * n + j) * a.dim + d);
          g.dv[(wh * n + j) * a.dim + d] += p[(wh * n + i) * n + j] * dy;
        }
        mean_dp += p[(wh * n + i) * n + j] * dp[j];
      }
      for (int64_t j = 0; j < n; ++j) {
        if (!Attends(a, in, window, head, i, j)) continue;
        const double dscore = p[(wh * n + i) * n + j] * (dp[j] - mean_dp);
        if (!in.bias.empty()) g.dbias[BiasAt(a, window, head, i, j)] += dscore;
        double product = 0;
        for (int64_t d = 0; d < a.dim; ++d) {
          const int64_t qi = (wh * n + i) * a.dim + d;
          const int64_t kj = (wh * n + j) * a.dim + d;
          product += nq.unit[qi] * nk.unit[kj];
          dunit_q[qi] += dscore * scale * nk.unit[kj];
          dunit_k[kj] += dscore * scale * nq.unit[qi];
        }
        if (cosine && !clamped) g.dlogit_scale[head] += dscore * product * scale;
      }
    }
  }
  g.dq = NormalizeBackward(nq, dunit_q, a.dim);
  g.dk = NormalizeBackward(nk, dunit_k, a.dim);
  return g;
}

AttentionGradients AttentionBackwardSizes(const AttentionCore& a, const AttentionInputs& in,
                                          const Vec& dout) {
  const int64_t n = a.tokens;
  const int64_t size = a.windows * a.heads * n * a.dim;
  const bool cosine = !in.logit_scale.empty();
  const Vec p = AttentionForward(a, in).attention;
  const Normalized nq = Normalize(in.q, a.dim, cosine);
  const Normalized nk = Normalize(in.k, a.dim, cosine);
  AttentionGradients g{Vec(size), Vec(size), Vec(size), Vec(in.logit_scale.size()),
                       Vec(in.bias.size())};
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads, window = wh / a.heads;
    const bool clamped = cosine && in.logit_scale.at(head) > kMaxLogitScale;
    const double scale = ScaleOf(a, in, head);
    for (int64_t i = 0; i < n; ++i) {
      Vec dp(n);
      double mean_dp = 0;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const double dy = std::abs(dout.at((wh * n + i) * a.dim + d));
          dp[j] += dy * std::abs(in.v.at((wh * n + j) * a.dim + d));
          g.dv[(wh * n + j) * a.dim + d] += p[(wh * n + i) * n + j] * dy;
        }
        mean_dp += p[(wh * n + i) * n + j] * dp[j];
      }
      for (int64_t j = 0; j < n; ++j) {
        const double dscore = p[(wh * n + i) * n + j] * (dp[j] + mean_dp);
        if (!in.bias.empty()) g.dbias[BiasAt(a, window, head, i, j)] += dscore;
        if (cosine && !clamped) g.dlogit_scale[head] += dscore * scale;
        for (int64_t d = 0; d < a.dim; ++d) {
          const int64_t qi = (wh * n + i) * a.dim + d;
          const int64_t kj = (wh * n + j) * a.dim + d;
          g.dq[qi] += dscore * scale * std::abs(nk.unit[kj]) / nq.length[wh * n + i];
          g.dk[kj] += dscore * scale * std::abs(nq.unit[qi]) / nk.length[wh * n + j];
        }
      }
    }
  }
  return g;
}

namespace {

AttentionCore CoreOf(const WindowAttention& w) {
  const Windows& m = w.windows;
  return {.windows = w.count > 0 ? w.count : m.batch * m.PerPicture(),
          .heads = w.heads,
          .tokens = m.Tokens(),
          .dim = w.dim,
          .first = w.first,
          .per_picture = m.PerPicture(),
          .biases = w.biases};
}

// Rows of windows, whichever way tensors hold them.
Vec RowsOf(const WindowAttention& w, int64_t channels, const Vec& x) {
  return w.count > 0 ? x : CutWindows(w.windows, channels, x);
}

Vec TensorOf(const WindowAttention& w, int64_t channels, const Vec& rows) {
  return w.count > 0 ? rows : JoinWindows(w.windows, channels, rows);
}

AttentionInputs InputsOf(const WindowAttention& w, const Vec& qkv, const Vec& logit_scale,
                         const Vec& bias) {
  const AttentionCore a = CoreOf(w);
  const Vec rows = RowsOf(w, 3 * w.heads * w.dim, qkv);
  return {.q = SplitHeads(a, rows, 3, 0),
          .k = SplitHeads(a, rows, 3, 1),
          .v = SplitHeads(a, rows, 3, 2),
          .logit_scale = logit_scale,
          .bias = bias,
          .mask = AttentionMask(w.windows),
          .excluded = w.exclude_padding ? PaddingOfWindows(w.windows) : Vec(),
          .score_scale = w.score_scale};
}

// Runs a gradient of the core. Nothing comes from the padding's own rows where it is excluded.
template <typename Core>
WindowAttentionGradients OnWindows(const Core& core, const WindowAttention& w, const Vec& qkv,
                                   const Vec& logit_scale, const Vec& bias, const Vec& dout) {
  const AttentionCore a = CoreOf(w);
  const AttentionInputs in = InputsOf(w, qkv, logit_scale, bias);
  Vec dout_rows = RowsOf(w, w.heads * w.dim, dout);
  for (int64_t row = 0; !in.excluded.empty() && row < a.windows * a.tokens; ++row) {
    const int64_t window = (a.first + row / a.tokens) % a.per_picture;
    if (in.excluded.at(window * a.tokens + row % a.tokens) == 0) continue;
    std::fill_n(dout_rows.begin() + row * a.heads * a.dim, a.heads * a.dim, 0.0);
  }
  const AttentionGradients g = core(a, in, SplitHeads(a, dout_rows, 1, 0));
  Vec dqkv(a.windows * a.tokens * 3 * a.heads * a.dim);
  MergeHeads(a, g.dq, 3, 0, &dqkv);
  MergeHeads(a, g.dk, 3, 1, &dqkv);
  MergeHeads(a, g.dv, 3, 2, &dqkv);
  return {TensorOf(w, 3 * w.heads * w.dim, dqkv), g.dlogit_scale, g.dbias};
}

}  // namespace

WindowAttentionResult WindowAttentionForward(const WindowAttention& w, const Vec& qkv,
                                             const Vec& logit_scale, const Vec& bias) {
  const AttentionCore a = CoreOf(w);
  const AttentionResult r = AttentionForward(a, InputsOf(w, qkv, logit_scale, bias));
  Vec out(r.out.size());
  MergeHeads(a, r.out, 1, 0, &out);
  AttentionCore scalar = a;
  scalar.dim = 1;
  Vec lse(r.lse.size());
  MergeHeads(scalar, r.lse, 1, 0, &lse);
  return {TensorOf(w, w.heads * w.dim, out), TensorOf(w, w.heads, lse)};
}

WindowAttentionGradients WindowAttentionBackward(const WindowAttention& w, const Vec& qkv,
                                                 const Vec& logit_scale, const Vec& bias,
                                                 const Vec& dout) {
  return OnWindows(AttentionBackward, w, qkv, logit_scale, bias, dout);
}

WindowAttentionGradients WindowAttentionBackwardSizes(const WindowAttention& w, const Vec& qkv,
                                                      const Vec& logit_scale, const Vec& bias,
                                                      const Vec& dout) {
  return OnWindows(AttentionBackwardSizes, w, qkv, logit_scale, bias, dout);
}

}  // namespace swinfleet::reference
