#include "tests/kernels/window_attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace swinfleet::testing {
namespace {

// What stands in the rows of excluded padding.
constexpr float kBait = 100;

// The tensors' shape with `channels` channels.
Shape ShapeOf(const AttentionSize& s, int64_t channels) {
  const reference::Windows& w = s.shape.windows;
  if (s.shape.count > 0) return {s.shape.count, w.Tokens(), channels};
  return {w.batch, w.depth, w.height, w.width, channels};
}

Shape BiasShape(const AttentionSize& s) {
  const int64_t n = s.shape.windows.Tokens();
  if (s.shape.biases == 1) return {s.shape.heads, n, n};
  return {s.shape.biases, s.shape.heads, n, n};
}

// Rows of a range that are excluded padding; none on a map.
std::vector<bool> ExcludedRows(const AttentionSize& s) {
  std::vector<bool> excluded(RowsOf(s), false);
  const reference::Windows& w = s.shape.windows;
  if (s.shape.count == 0 || !s.shape.exclude_padding) return excluded;
  const Vec padding = reference::PaddingOfWindows(w);
  for (int64_t row = 0; row < RowsOf(s); ++row) {
    const int64_t window = (s.shape.first + row / w.Tokens()) % w.PerPicture();
    excluded[row] = padding[window * w.Tokens() + row % w.Tokens()] != 0;
  }
  return excluded;
}

// With few dimensions a normal vector may be nearly zero, and then its direction, and the gradient
// through it, is badly conditioned: these have lengths around 1.
Floats Vectors(const AttentionSize& s, Random* random) {
  const int64_t n = RowsOf(s) * 3 * s.shape.heads * s.shape.dim;
  if (s.shape.dim >= 8) return random->Normal(n);
  Floats values = random->Uniform(n, 0.5, 2);
  const Floats sign = random->Normal(n);
  for (int64_t i = 0; i < n; ++i) values[i] = std::copysign(values[i], sign[i]);
  return values;
}

// Scores reach the scale (or the longest product) plus the bias, and so does their lse: each is up
// to three roundings of that size off, where the table allows 16 roundings of 1.
double Amplification(const AttentionSize& s, const AttentionData& data) {
  double score = 0;
  if (s.cosine) {
    const float scale = *std::max_element(data.logit_scale.begin(), data.logit_scale.end());
    score = std::exp(std::min<double>(scale, std::log(100.0)));
  } else {
    double squares[3] = {0, 0, 0};
    const int64_t c = s.shape.heads * s.shape.dim;
    for (size_t begin = 0; begin < data.qkv.size(); begin += s.shape.dim) {
      double sum = 0;
      for (int64_t d = 0; d < s.shape.dim; ++d) sum += std::pow(data.qkv[begin + d], 2);
      double& largest = squares[begin % (3 * c) / c];
      largest = std::max(largest, sum);
    }
    const double scale = s.shape.score_scale != 0 ? std::abs(s.shape.score_scale)
                                                  : 1 / std::sqrt(static_cast<double>(s.shape.dim));
    score = std::sqrt(squares[0] * squares[1]) * scale;
  }
  if (s.bias) score += *std::max_element(data.bias.begin(), data.bias.end());
  return std::max(1.0, score / 6);
}

// q, k and v are measured apart. A vector that is nearly zero has a group of its own: its gradient
// is larger by 1e12.
std::vector<int> GroupsOf(const AttentionSize& s, const AttentionData& data) {
  std::vector<int> groups;
  const int64_t c = s.shape.heads * s.shape.dim;
  for (size_t i = 0; i < data.qkv.size(); ++i) {
    const int part = static_cast<int>(i % (3 * c) / c);
    const size_t begin = i - i % s.shape.dim;
    const bool zero = std::all_of(data.qkv.begin() + begin, data.qkv.begin() + begin + s.shape.dim,
                                  [](float x) { return std::abs(x) < 1e-12f; });
    groups.push_back(zero ? part + 3 : part);
  }
  return groups;
}

void AddInputs(const AttentionSize& s, const AttentionData& data, OpCase* op) {
  op->In("qkv", ShapeOf(s, 3 * s.shape.heads * s.shape.dim), data.qkv, s.dtype);
  op->In("logit_scale", {s.shape.heads}, data.logit_scale, s.dtype);
  op->In("bias", BiasShape(s), data.bias);
}

// An output of forward, whose rows of excluded padding stay as they were.
void AddRowsOut(const AttentionSize& s, const std::string& name, int64_t channels, Vec expected,
                double tolerance, DType dtype, OpCase* op) {
  const std::vector<bool> excluded = ExcludedRows(s);
  const bool some = std::find(excluded.begin(), excluded.end(), true) != excluded.end();
  const Floats before = Rounded(Random(17).Normal(RowsOf(s) * channels), dtype);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (excluded[i / channels]) expected[i] = before[i];
  }
  OpOutput& out = op->Out(name, ShapeOf(s, channels), expected, tolerance,
                          some ? OutputMode::kUpdate : OutputMode::kOverwrite, dtype);
  if (some) out.initial = before;
  // Tokens that attend to nobody have an lse of their own size.
  for (double x : expected) out.group.push_back(x == reference::kNobodyLse ? 1 : 0);
}

WindowRange RangeOf(const AttentionSize& s) { return {s.shape.first, s.shape.count}; }

}  // namespace

int64_t RowsOf(const AttentionSize& s) {
  const reference::Windows& w = s.shape.windows;
  if (s.shape.count > 0) return s.shape.count * w.Tokens();
  return w.batch * w.depth * w.height * w.width;
}

std::string Name(const AttentionSize& s) {
  const reference::Windows& w = s.shape.windows;
  std::ostringstream name;
  name << NameOf(s.dtype) << (s.cosine ? " cosine" : " plain") << ", map "
       << Shape{w.batch, w.depth, w.height, w.width} << ", window "
       << Shape{w.window_d, w.window_h, w.window_w} << ", shift "
       << Shape{w.shift_d, w.shift_h, w.shift_w} << ", heads " << s.shape.heads << "x"
       << s.shape.dim << ", biases " << (s.bias ? s.shape.biases : 0) << ", range " << s.shape.first
       << "+" << s.shape.count;
  return name.str();
}

WindowGeometry Geometry(const reference::Windows& w) {
  return {.batch = w.batch,
          .height = w.height,
          .width = w.width,
          .window_h = w.window_h,
          .window_w = w.window_w,
          .shift_h = w.shift_h,
          .shift_w = w.shift_w,
          .depth = w.depth,
          .window_d = w.window_d,
          .shift_d = w.shift_d};
}

AttentionData MakeData(const AttentionSize& s, uint64_t seed) {
  Random random(seed);
  const int64_t heads = s.shape.heads;
  const int64_t c = heads * s.shape.dim;
  AttentionData data;
  data.qkv = Vectors(s, &random);
  if (s.cosine) {
    data.logit_scale = Rounded(random.Uniform(heads, 0, std::log(5)), s.dtype);
    if (heads > 1) data.logit_scale[0] = 5.5f;
  }
  if (s.bias) data.bias = random.Uniform(BiasShape(s).NumElements(), 0, 4);
  data.dout = random.Normal(RowsOf(s) * c, 0, 0.5);
  for (size_t i = 0; i < data.dout.size(); ++i) {
    float* token = data.qkv.data() + i / c * 3 * c + i % c;
    data.dout[i] += token[0];
    token[2 * c] = token[c] + 0.5f * token[2 * c];
  }
  const std::vector<bool> excluded = ExcludedRows(s);
  for (int64_t row = 0; row < RowsOf(s); ++row) {
    if (!excluded[row]) continue;
    std::fill_n(data.qkv.begin() + row * 3 * c, 3 * c, kBait);
    std::fill_n(data.dout.begin() + row * c, c, kBait);
  }
  data.qkv = Rounded(data.qkv, s.dtype);
  data.dout = Rounded(data.dout, s.dtype);
  return data;
}

OpCase AttentionForward(const AttentionSize& s, const AttentionData& data) {
  const int64_t terms = s.shape.windows.Tokens() + s.shape.dim;
  const int64_t heads = s.shape.heads;
  const auto r = reference::WindowAttentionForward(s.shape, ToDouble(data.qkv),
                                                   ToDouble(data.logit_scale), ToDouble(data.bias));
  OpCase op;
  AddInputs(s, data, &op);
  AddRowsOut(s, "out", heads * s.shape.dim, r.out,
             reference::Tolerance(s.dtype, terms, Amplification(s, data)), s.dtype, &op);
  AddRowsOut(s, "lse", heads, r.lse, F32(terms), DType::kF32, &op);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.window_attention_forward({.geometry = Geometry(s.shape.windows),
                                  .heads = s.shape.heads,
                                  .qkv = in[0],
                                  .logit_scale = in[1],
                                  .bias = in[2],
                                  .out = out[0],
                                  .lse = out[1],
                                  .range = RangeOf(s),
                                  .exclude_padding = s.shape.exclude_padding,
                                  .score_scale = static_cast<float>(s.shape.score_scale)},
                                 context);
  };
  return op;
}

OpCase AttentionBackward(const AttentionSize& s, const AttentionData& data, bool in_place) {
  const reference::Windows& w = s.shape.windows;
  const int64_t heads = s.shape.heads, terms = w.Tokens() + s.shape.dim;
  const Vec qkv = ToDouble(data.qkv), scale = ToDouble(data.logit_scale);
  const Vec bias = ToDouble(data.bias), dout = ToDouble(data.dout);
  const Vec lse = reference::WindowAttentionForward(s.shape, qkv, scale, bias).lse;
  const auto g = reference::WindowAttentionBackward(s.shape, qkv, scale, bias, dout);
  const auto sizes = reference::WindowAttentionBackwardSizes(s.shape, qkv, scale, bias, dout);
  const double amplification = Amplification(s, data);
  OpCase op;
  AddInputs(s, data, &op);
  op.In("lse", ShapeOf(s, heads), ToFloat(lse));
  op.In("dout", ShapeOf(s, heads * s.shape.dim), data.dout, s.dtype);
  OpOutput& dqkv =
      op.Out("dqkv", ShapeOf(s, 3 * heads * s.shape.dim), g.dqkv,
             reference::Tolerance(s.dtype, terms, amplification), OutputMode::kOverwrite, s.dtype);
  dqkv.alias = in_place ? 0 : -1;
  dqkv.group = GroupsOf(s, data);
  dqkv.size = sizes.dqkv;
  if (s.cosine) {
    op.Out("dlogit_scale", {heads}, g.dlogit_scale, F32(terms, amplification),
           OutputMode::kAccumulate)
        .size = sizes.dlogit_scale;
  }
  if (s.bias) {
    const int64_t windows = s.shape.count > 0 ? s.shape.count : w.batch * w.PerPicture();
    op.Out("dbias", BiasShape(s), g.dbias, F32(windows + s.shape.dim, amplification),
           OutputMode::kAccumulate)
        .size = sizes.dbias;
  }
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.window_attention_backward({.geometry = Geometry(s.shape.windows),
                                   .heads = s.shape.heads,
                                   .qkv = in[0],
                                   .logit_scale = in[1],
                                   .bias = in[2],
                                   .lse = in[3],
                                   .dout = in[4],
                                   .dqkv = out[0],
                                   .dlogit_scale = s.cosine ? out[1] : TensorView{},
                                   .dbias = s.bias ? out.back() : TensorView{},
                                   .range = RangeOf(s),
                                   .exclude_padding = s.shape.exclude_padding,
                                   .score_scale = static_cast<float>(s.shape.score_scale)},
                                  context);
  };
  return op;
}

void CheckAttention(const AttentionSize& s, const std::function<void(AttentionData*)>& change) {
  SCOPED_TRACE(Name(s));
  const auto data = [&](uint64_t seed) {
    AttentionData made = MakeData(s, seed);
    change(&made);
    return made;
  };
  {
    SCOPED_TRACE("forward");
    CheckOp([&](uint64_t seed) { return AttentionForward(s, data(seed)); });
  }
  for (const bool in_place : {false, true}) {
    SCOPED_TRACE(in_place ? "backward in place" : "backward");
    CheckOp([&](uint64_t seed) { return AttentionBackward(s, data(seed), in_place); });
  }
}

void CheckReferenceGradients(const AttentionSize& s, const AttentionData& data) {
  SCOPED_TRACE(Name(s));
  const Vec qkv = ToDouble(data.qkv), scale = ToDouble(data.logit_scale);
  const Vec bias = ToDouble(data.bias);
  Vec dout = ToDouble(data.dout);
  const auto g = reference::WindowAttentionBackward(s.shape, qkv, scale, bias, dout);
  // What stands in the output's rows of excluded padding is nobody's business.
  const std::vector<bool> excluded = ExcludedRows(s);
  const int64_t c = s.shape.heads * s.shape.dim;
  for (size_t i = 0; i < dout.size(); ++i) {
    if (excluded[i / c]) dout[i] = 0;
  }
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dout, reference::WindowAttentionForward(s.shape, in[0], in[1], in[2]).out);
      },
      {qkv, scale, bias}, {g.dqkv, g.dlogit_scale, g.dbias}, 1e-7);
}

}  // namespace swinfleet::testing
