#include <algorithm>
#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

const double kMaxLogitScale = std::log(100.0);
constexpr double kMinNorm = 1e-12;

// torch.nn.functional.normalize over rows of `dim`.
struct Normalized {
  Vec unit;    // x / max(norm, 1e-12)
  Vec length;  // max(norm, 1e-12) of each row
  std::vector<bool> clamped;
};

Normalized Normalize(const Vec& x, int64_t dim) {
  Normalized n{Vec(x.size()), Vec(x.size() / dim), std::vector<bool>(x.size() / dim)};
  for (size_t row = 0; row < n.length.size(); ++row) {
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
Vec SplitHeads(const CosineAttention& a, const Vec& x, int64_t parts, int64_t part) {
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
void MergeHeads(const CosineAttention& a, const Vec& y, int64_t parts, int64_t part, Vec* x) {
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

CosineAttention CoreOf(const Windows& w, int64_t heads, int64_t dim) {
  return {.windows = w.batch * w.PerPicture(),
          .heads = heads,
          .tokens = w.Tokens(),
          .dim = dim,
          .masks = w.PerPicture()};
}

// The picture rolled, cut into windows and split: q, k, v or, with one part, an output gradient.
Vec CutPart(const Windows& w, const CosineAttention& a, const Vec& x, int64_t parts, int64_t part) {
  const int64_t channels = parts * a.heads * a.dim;
  const Vec rolled = Roll(w, channels, x, -w.shift_h, -w.shift_w);
  return SplitHeads(a, WindowPartition(w, channels, rolled), parts, part);
}

// Windows put together again and rolled back.
Vec Uncut(const Windows& w, int64_t channels, const Vec& windows) {
  return Roll(w, channels, WindowReverse(w, channels, windows), w.shift_h, w.shift_w);
}

// Runs a gradient of the core on a feature map.
template <typename Core>
WindowAttentionGradients OnMap(const Core& core, const Windows& w, int64_t heads, int64_t dim,
                               const Vec& qkv, const Vec& logit_scale, const Vec& bias,
                               const Vec& dout) {
  const CosineAttention a = CoreOf(w, heads, dim);
  const CosineAttentionGradients g =
      core(a, CutPart(w, a, qkv, 3, 0), CutPart(w, a, qkv, 3, 1), CutPart(w, a, qkv, 3, 2),
           logit_scale, bias, AttentionMask(w), CutPart(w, a, dout, 1, 0));
  Vec dqkv(qkv.size());
  MergeHeads(a, g.dq, 3, 0, &dqkv);
  MergeHeads(a, g.dk, 3, 1, &dqkv);
  MergeHeads(a, g.dv, 3, 2, &dqkv);
  return {Uncut(w, 3 * heads * dim, dqkv), g.dlogit_scale, g.dbias};
}

}  // namespace

CosineAttentionResult CosineAttentionForward(const CosineAttention& a, const Vec& q, const Vec& k,
                                             const Vec& v, const Vec& logit_scale, const Vec& bias,
                                             const Vec& mask) {
  const int64_t n = a.tokens;
  const Vec unit_q = Normalize(q, a.dim).unit;
  const Vec unit_k = Normalize(k, a.dim).unit;
  CosineAttentionResult r{Vec(a.windows * a.heads * n * a.dim), Vec(a.windows * a.heads * n),
                          Vec(a.windows * a.heads * n * n)};
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads;
    const int64_t window = wh / a.heads;
    const double scale = std::exp(std::min(logit_scale.at(head), kMaxLogitScale));
    for (int64_t i = 0; i < n; ++i) {
      Vec score(n);
      for (int64_t j = 0; j < n; ++j) {
        double cosine = 0;
        for (int64_t d = 0; d < a.dim; ++d) {
          cosine += unit_q.at((wh * n + i) * a.dim + d) * unit_k.at((wh * n + j) * a.dim + d);
        }
        score[j] = scale * cosine + bias.at((head * n + i) * n + j);
        if (a.masks > 0) score[j] += mask.at(((window % a.masks) * n + i) * n + j);
      }
      const double largest = *std::max_element(score.begin(), score.end());
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += std::exp(score[j] - largest);
      r.lse[wh * n + i] = largest + std::log(sum);
      for (int64_t j = 0; j < n; ++j) {
        const double p = std::exp(score[j] - r.lse[wh * n + i]);
        r.attention[(wh * n + i) * n + j] = p;
        for (int64_t d = 0; d < a.dim; ++d) {
          r.out[(wh * n + i) * a.dim + d] += p * v.at((wh * n + j) * a.dim + d);
        }
      }
    }
  }
  return r;
}

CosineAttentionGradients CosineAttentionBackward(const CosineAttention& a, const Vec& q,
                                                 const Vec& k, const Vec& v, const Vec& logit_scale,
                                                 const Vec& bias, const Vec& mask,
                                                 const Vec& dout) {
  const int64_t n = a.tokens;
  const int64_t size = a.windows * a.heads * n * a.dim;
  const Vec p = CosineAttentionForward(a, q, k, v, logit_scale, bias, mask).attention;
  const Normalized nq = Normalize(q, a.dim);
  const Normalized nk = Normalize(k, a.dim);
  CosineAttentionGradients g{{}, {}, Vec(size), Vec(a.heads), Vec(a.heads * n * n)};
  Vec dunit_q(size);
  Vec dunit_k(size);
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads;
    const bool clamped = logit_scale.at(head) > kMaxLogitScale;
    const double scale = std::exp(std::min(logit_scale.at(head), kMaxLogitScale));
    for (int64_t i = 0; i < n; ++i) {
      Vec dp(n);
      double mean_dp = 0;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const double dy = dout.at((wh * n + i) * a.dim + d);
          dp[j] += dy * v.at((wh * n + j) * a.dim + d);
          g.dv[(wh * n + j) * a.dim + d] += p[(wh * n + i) * n + j] * dy;
        }
        mean_dp += p[(wh * n + i) * n + j] * dp[j];
      }
      for (int64_t j = 0; j < n; ++j) {
        const double dscore = p[(wh * n + i) * n + j] * (dp[j] - mean_dp);
        g.dbias[(head * n + i) * n + j] += dscore;
        double cosine = 0;
        for (int64_t d = 0; d < a.dim; ++d) {
          const int64_t qi = (wh * n + i) * a.dim + d;
          const int64_t kj = (wh * n + j) * a.dim + d;
          cosine += nq.unit[qi] * nk.unit[kj];
          dunit_q[qi] += dscore * scale * nk.unit[kj];
          dunit_k[kj] += dscore * scale * nq.unit[qi];
        }
        if (!clamped) g.dlogit_scale[head] += dscore * cosine * scale;
      }
    }
  }
  g.dq = NormalizeBackward(nq, dunit_q, a.dim);
  g.dk = NormalizeBackward(nk, dunit_k, a.dim);
  return g;
}

CosineAttentionGradients CosineAttentionBackwardSizes(const CosineAttention& a, const Vec& q,
                                                      const Vec& k, const Vec& v,
                                                      const Vec& logit_scale, const Vec& bias,
                                                      const Vec& mask, const Vec& dout) {
  const int64_t n = a.tokens;
  const int64_t size = a.windows * a.heads * n * a.dim;
  const Vec p = CosineAttentionForward(a, q, k, v, logit_scale, bias, mask).attention;
  const Normalized nq = Normalize(q, a.dim);
  const Normalized nk = Normalize(k, a.dim);
  CosineAttentionGradients g{Vec(size), Vec(size), Vec(size), Vec(a.heads), Vec(a.heads * n * n)};
  for (int64_t wh = 0; wh < a.windows * a.heads; ++wh) {
    const int64_t head = wh % a.heads;
    const bool clamped = logit_scale.at(head) > kMaxLogitScale;
    const double scale = std::exp(std::min(logit_scale.at(head), kMaxLogitScale));
    for (int64_t i = 0; i < n; ++i) {
      Vec dp(n);
      double mean_dp = 0;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t d = 0; d < a.dim; ++d) {
          const double dy = std::abs(dout.at((wh * n + i) * a.dim + d));
          dp[j] += dy * std::abs(v.at((wh * n + j) * a.dim + d));
          g.dv[(wh * n + j) * a.dim + d] += p[(wh * n + i) * n + j] * dy;
        }
        mean_dp += p[(wh * n + i) * n + j] * dp[j];
      }
      for (int64_t j = 0; j < n; ++j) {
        const double dscore = p[(wh * n + i) * n + j] * (dp[j] + mean_dp);
        g.dbias[(head * n + i) * n + j] += dscore;
        if (!clamped) g.dlogit_scale[head] += dscore * scale;
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

WindowAttentionResult WindowAttentionForward(const Windows& w, int64_t heads, int64_t dim,
                                             const Vec& qkv, const Vec& logit_scale,
                                             const Vec& bias) {
  const CosineAttention a = CoreOf(w, heads, dim);
  const CosineAttentionResult r =
      CosineAttentionForward(a, CutPart(w, a, qkv, 3, 0), CutPart(w, a, qkv, 3, 1),
                             CutPart(w, a, qkv, 3, 2), logit_scale, bias, AttentionMask(w));
  Vec out(r.out.size());
  MergeHeads(a, r.out, 1, 0, &out);
  CosineAttention scalar = a;
  scalar.dim = 1;
  Vec lse(r.lse.size());
  MergeHeads(scalar, r.lse, 1, 0, &lse);
  return {Uncut(w, heads * dim, out), Uncut(w, heads, lse)};
}

WindowAttentionGradients WindowAttentionBackward(const Windows& w, int64_t heads, int64_t dim,
                                                 const Vec& qkv, const Vec& logit_scale,
                                                 const Vec& bias, const Vec& dout) {
  return OnMap(CosineAttentionBackward, w, heads, dim, qkv, logit_scale, bias, dout);
}

WindowAttentionGradients WindowAttentionBackwardSizes(const Windows& w, int64_t heads, int64_t dim,
                                                      const Vec& qkv, const Vec& logit_scale,
                                                      const Vec& bias, const Vec& dout) {
  return OnMap(CosineAttentionBackwardSizes, w, heads, dim, qkv, logit_scale, bias, dout);
}

}  // namespace swinfleet::reference
