#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Windows windows;
  int64_t heads;
  int64_t dim;
};

// {batch, height, width, window_h, window_w, shift_h, shift_w}, heads, dim.
const std::vector<Size> kSizes = {
    {{1, 2, 2, 2, 2, 0, 0}, 1, 1},      {{2, 4, 4, 2, 2, 1, 1}, 2, 5},
    {{1, 9, 6, 3, 3, 1, 1}, 2, 16},     {{1, 10, 5, 5, 5, 2, 0}, 1, 24},
    {{2, 7, 14, 7, 7, 0, 3}, 3, 32},    {{1, 6, 10, 3, 5, 1, 2}, 2, 33},
    {{1, 8, 8, 8, 8, 0, 0}, 2, 32},     {{1, 16, 16, 8, 8, 4, 4}, 2, 32},
    {{1, 12, 12, 12, 12, 0, 0}, 1, 64}, {{1, 24, 12, 12, 12, 6, 0}, 1, 8},
    {{3, 4, 8, 4, 4, 0, 2}, 4, 3},      {{1, 11, 22, 11, 11, 0, 5}, 1, 7},
    {{1, 6, 6, 6, 6, 0, 0}, 3, 48},     {{1, 4, 4, 2, 4, 1, 0}, 2, 40},
    {{1, 10, 10, 10, 10, 0, 0}, 1, 31}, {{1, 18, 9, 9, 9, 4, 0}, 2, 17},
    {{2, 1, 3, 1, 1, 0, 0}, 2, 16},     {{5, 4, 4, 4, 4, 0, 0}, 1, 64},
    {{1, 8, 8, 4, 4, 3, 1}, 2, 12}};

std::string Name(const Size& s) {
  const reference::Windows& w = s.windows;
  std::ostringstream name;
  name << "map " << Shape{w.batch, w.height, w.width} << ", window " << w.window_h << "x"
       << w.window_w << ", shift " << w.shift_h << "," << w.shift_w << ", heads " << s.heads << "x"
       << s.dim;
  return name.str();
}

WindowGeometry Geometry(const reference::Windows& w) {
  return {.batch = w.batch,
          .height = w.height,
          .width = w.width,
          .window_h = w.window_h,
          .window_w = w.window_w,
          .shift_h = w.shift_h,
          .shift_w = w.shift_w};
}

struct Data {
  Floats qkv, logit_scale, bias, dout;
};

// With few dimensions a normal vector may be nearly zero, and then its direction, and the gradient
// through it, is badly conditioned: these have lengths around 1.
Floats Vectors(const Size& s, Random* random) {
  const auto& w = s.windows;
  const int64_t n = w.batch * w.height * w.width * 3 * s.heads * s.dim;
  if (s.dim >= 8) return random->Normal(n);
  Floats values = random->Uniform(n, 0.5, 2);
  const Floats sign = random->Normal(n);
  for (int64_t i = 0; i < n; ++i) values[i] = std::copysign(values[i], sign[i]);
  return values;
}

// Soft probabilities, and values and gradients that go along with keys and queries, so that little
// of the scores' gradients cancels. With several heads the first one lies above the clamp.
Data MakeData(const Size& s, uint64_t seed) {
  Random random(seed);
  const auto& w = s.windows;
  const int64_t n = w.Tokens();
  const int64_t c = s.heads * s.dim;
  Data data;
  data.qkv = Vectors(s, &random);
  data.logit_scale = random.Uniform(s.heads, 0, std::log(5));
  if (s.heads > 1) data.logit_scale[0] = 5.5f;
  data.bias = random.Uniform(s.heads * n * n, 0, 4);
  data.dout = random.Normal(w.batch * w.height * w.width * c, 0, 0.5);
  for (size_t i = 0; i < data.dout.size(); ++i) {
    float* token = data.qkv.data() + i / c * 3 * c + i % c;
    data.dout[i] += token[0];
    token[2 * c] = token[c] + 0.5f * token[2 * c];
  }
  return data;
}

// Scores reach the scale plus the bias, and so does their lse: each is up to three roundings of
// that size off, where the table allows 16 roundings of 1.
double Amplification(const Data& data) {
  const float scale = *std::max_element(data.logit_scale.begin(), data.logit_scale.end());
  const float bias = *std::max_element(data.bias.begin(), data.bias.end());
  return std::max(1.0, (std::exp(std::min<double>(scale, std::log(100.0))) + bias) / 6);
}

OpCase Forward(const Size& s, const Data& data) {
  const auto& w = s.windows;
  const int64_t n = w.Tokens();
  const int64_t c = s.heads * s.dim;
  const auto r = reference::WindowAttentionForward(w, s.heads, s.dim, ToDouble(data.qkv),
                                                   ToDouble(data.logit_scale), ToDouble(data.bias));
  OpCase op;
  op.In("qkv", {w.batch, w.height, w.width, 3 * c}, data.qkv);
  op.In("logit_scale", {s.heads}, data.logit_scale);
  op.In("bias", {s.heads, n, n}, data.bias);
  op.Out("out", {w.batch, w.height, w.width, c}, r.out, F32(n + s.dim, Amplification(data)));
  op.Out("lse", {w.batch, w.height, w.width, s.heads}, r.lse, F32(n + s.dim));
  op.call = [w, heads = s.heads](const OpTable& ops, const Views& in, const Views& out,
                                 Context& context) {
    ops.window_attention_forward({.geometry = Geometry(w),
                                  .heads = heads,
                                  .qkv = in[0],
                                  .logit_scale = in[1],
                                  .bias = in[2],
                                  .out = out[0],
                                  .lse = out[1]},
                                 context);
  };
  return op;
}

// q, k and v are measured apart. A vector that is nearly zero has a group of its own: its gradient
// is larger by 1e12.
std::vector<int> GroupsOf(const Size& s, const Data& data) {
  std::vector<int> groups;
  const int64_t c = s.heads * s.dim;
  for (size_t i = 0; i < data.qkv.size(); ++i) {
    const int part = static_cast<int>(i % (3 * c) / c);
    const size_t begin = i - i % s.dim;
    const bool zero = std::all_of(data.qkv.begin() + begin, data.qkv.begin() + begin + s.dim,
                                  [](float x) { return std::abs(x) < 1e-12f; });
    groups.push_back(zero ? part + 3 : part);
  }
  return groups;
}

OpCase Backward(const Size& s, const Data& data) {
  const auto& w = s.windows;
  const int64_t n = w.Tokens();
  const int64_t c = s.heads * s.dim;
  const Vec qkv = ToDouble(data.qkv);
  const Vec scale = ToDouble(data.logit_scale);
  const Vec bias = ToDouble(data.bias);
  const Vec lse = reference::WindowAttentionForward(w, s.heads, s.dim, qkv, scale, bias).lse;
  const auto g =
      reference::WindowAttentionBackward(w, s.heads, s.dim, qkv, scale, bias, ToDouble(data.dout));
  const auto sizes = reference::WindowAttentionBackwardSizes(w, s.heads, s.dim, qkv, scale, bias,
                                                             ToDouble(data.dout));
  const double amplification = Amplification(data);
  OpCase op;
  op.In("qkv", {w.batch, w.height, w.width, 3 * c}, data.qkv);
  op.In("logit_scale", {s.heads}, data.logit_scale);
  op.In("bias", {s.heads, n, n}, data.bias);
  op.In("lse", {w.batch, w.height, w.width, s.heads}, ToFloat(lse));
  op.In("dout", {w.batch, w.height, w.width, c}, data.dout);
  OpOutput& dqkv =
      op.Out("dqkv", {w.batch, w.height, w.width, 3 * c}, g.dqkv, F32(n + s.dim, amplification));
  dqkv.group = GroupsOf(s, data);
  dqkv.size = sizes.dqkv;
  const int64_t windows = w.batch * w.PerPicture();
  op.Out("dlogit_scale", {s.heads}, g.dlogit_scale, F32(n + s.dim, amplification),
         OutputMode::kAccumulate)
      .size = sizes.dlogit_scale;
  op.Out("dbias", {s.heads, n, n}, g.dbias, F32(windows + s.dim, amplification),
         OutputMode::kAccumulate)
      .size = sizes.dbias;
  op.call = [w, heads = s.heads](const OpTable& ops, const Views& in, const Views& out,
                                 Context& context) {
    ops.window_attention_backward({.geometry = Geometry(w),
                                   .heads = heads,
                                   .qkv = in[0],
                                   .logit_scale = in[1],
                                   .bias = in[2],
                                   .lse = in[3],
                                   .dout = in[4],
                                   .dqkv = out[0],
                                   .dlogit_scale = out[1],
                                   .dbias = out[2]},
                                  context);
  };
  return op;
}

// Forward and backward on data that `change` has made special.
void CheckBoth(
    const Size& s, const std::function<void(Data*)>& change = [](Data*) {}) {
  SCOPED_TRACE(Name(s));
  const auto data = [&](uint64_t seed) {
    Data made = MakeData(s, seed);
    change(&made);
    return made;
  };
  {
    SCOPED_TRACE("forward");
    CheckOp([&](uint64_t seed) { return Forward(s, data(seed)); });
  }
  SCOPED_TRACE("backward");
  CheckOp([&](uint64_t seed) { return Backward(s, data(seed)); });
}

// The vector `index` of part `part` (0 is q, 1 is k), counting heads of tokens.
float* VectorOf(const Size& s, int64_t part, int64_t index, Floats* qkv) {
  const int64_t token = index / s.heads;
  const int64_t head = index % s.heads;
  return qkv->data() + ((token * 3 + part) * s.heads + head) * s.dim;
}

void ScaleParts(const Size& s, float q, float k, float v, Data* data) {
  const int64_t c = s.heads * s.dim;
  const float factor[3] = {q, k, v};
  for (size_t i = 0; i < data->qkv.size(); ++i) data->qkv[i] *= factor[i % (3 * c) / c];
}

TEST(WindowAttention, Forward) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Forward(s, MakeData(s, seed)); });
  }
}

TEST(WindowAttention, Backward) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Backward(s, MakeData(s, seed)); });
  }
}

// Heads of any width, with a remainder of every kind.
TEST(WindowAttention, HeadDimensions) {
  for (int64_t dim = 2; dim <= 64; ++dim) CheckBoth({{1, 3, 3, 3, 3, 0, 0}, 1, dim});
}

TEST(WindowAttention, Windows) {
  for (int64_t window = 2; window <= 12; ++window) {
    const int64_t shift = window / 2;
    CheckBoth({{1, 2 * window, window, window, window, shift, 0}, 1, 8});
  }
}

TEST(WindowAttention, LargeVectors) {
  const Size s{{1, 6, 6, 3, 3, 1, 1}, 2, 20};
  CheckBoth(s, [&](Data* data) { ScaleParts(s, 1e6f, 3e7f, 1e4f, data); });
}

TEST(WindowAttention, SmallVectors) {
  const Size s{{1, 6, 6, 3, 3, 1, 1}, 2, 20};
  CheckBoth(s, [&](Data* data) { ScaleParts(s, 1e-8f, 1e-6f, 1e-5f, data); });
}

TEST(WindowAttention, ZeroVectors) {
  const Size s{{1, 4, 8, 4, 4, 2, 2}, 2, 24};
  CheckBoth(s, [&](Data* data) {
    for (int64_t index : {0, 7, 20}) std::fill_n(VectorOf(s, 0, index, &data->qkv), s.dim, 0.f);
    for (int64_t index : {3, 7, 40}) std::fill_n(VectorOf(s, 1, index, &data->qkv), s.dim, 0.f);
  });
}

// Shorter than 1e-12: the length is clamped, and is a constant to the gradient.
TEST(WindowAttention, VectorsBelowTheSmallestLength) {
  const Size s{{1, 4, 4, 4, 4, 0, 0}, 1, 16};
  CheckBoth(s, [&](Data* data) {
    for (int64_t part : {0, 1}) {
      float* vector = VectorOf(s, part, 5, &data->qkv);
      for (int64_t d = 0; d < s.dim; ++d) vector[d] *= 3e-14f;
    }
  });
}

TEST(WindowAttention, AllHeadsAboveTheClamp) {
  CheckBoth({{1, 8, 8, 4, 4, 2, 2}, 3, 16}, [](Data* data) {
    std::fill(data->logit_scale.begin(), data->logit_scale.end(), 30.f);
  });
}

// Just below the clamp, and so small that the scores are the bias.
TEST(WindowAttention, ExtremeLogitScales) {
  CheckBoth({{1, 8, 4, 4, 4, 2, 0}, 3, 16}, [](Data* data) {
    data->logit_scale = {4.6f, 0.f, -12.f};
  });
}

// The full range of biases, which makes nearly all probabilities 0 or 1.
TEST(WindowAttention, SharpProbabilities) {
  CheckBoth({{1, 12, 6, 6, 6, 3, 0}, 2, 32}, [](Data* data) {
    data->logit_scale = {std::log(20.f), std::log(60.f)};
    data->bias = Random(7).Uniform(static_cast<int64_t>(data->bias.size()), 0, 16);
  });
}

// The logit scale's gradient in clamped heads must not move what is there.
TEST(WindowAttention, NoGradientOfAClampedScale) {
  const Size s{{1, 8, 8, 4, 4, 2, 2}, 2, 16};
  Data data = MakeData(s, 1);
  data.logit_scale = {4.7f, 100.f};
  OpCase op = Backward(s, data);
  op.outputs[1].mode = OutputMode::kUpdate;
  op.outputs[1].initial = {0.25f, -3.f};
  EXPECT_EQ(RunOp(op)[1], (Floats{0.25f, -3.f}));
}

TEST(WindowAttention, ReferenceGradients) {
  for (const Size& s : {Size{{1, 4, 2, 2, 2, 1, 0}, 2, 5}, Size{{2, 6, 3, 3, 3, 0, 0}, 1, 3},
                        Size{{1, 6, 10, 3, 5, 1, 2}, 2, 4}}) {
    SCOPED_TRACE(Name(s));
    Data data = MakeData(s, 3);
    // The mask of -100 hides nothing behind scores of 100, but makes them uneven.
    const Vec dout = ToDouble(data.dout);
    const Vec qkv = ToDouble(data.qkv);
    const Vec scale = ToDouble(data.logit_scale);
    const Vec bias = ToDouble(data.bias);
    const auto g =
        reference::WindowAttentionBackward(s.windows, s.heads, s.dim, qkv, scale, bias, dout);
    CheckGradients(
        [&](const std::vector<Vec>& in) {
          return Dot(dout, reference::WindowAttentionForward(s.windows, s.heads, s.dim, in[0],
                                                             in[1], in[2])
                               .out);
        },
        {qkv, scale, bias}, {g.dqkv, g.dlogit_scale, g.dbias}, 1e-7);
  }
}

TEST(WindowAttention, ReferenceProbabilitiesAndLseAgree) {
  const reference::CosineAttention a{.windows = 2, .heads = 2, .tokens = 5, .dim = 3, .masks = 0};
  Random random(4);
  const int64_t n = a.windows * a.heads * a.tokens * a.dim;
  const Vec q = ToDouble(random.Normal(n));
  const Vec k = ToDouble(random.Normal(n));
  const Vec bias = ToDouble(random.Normal(a.heads * a.tokens * a.tokens));
  const auto r = reference::CosineAttentionForward(a, q, k, q, {1, 2}, bias, {});
  for (int64_t row = 0; row < a.windows * a.heads * a.tokens; ++row) {
    double sum = 0;
    for (int64_t j = 0; j < a.tokens; ++j) sum += r.attention[row * a.tokens + j];
    EXPECT_NEAR(sum, 1, 1e-14);
  }
}

// The kernel's own index functions against the official way: roll, cut, compare regions.
TEST(WindowAttention, GeometryMatchesRollAndPartition) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    const reference::Windows& w = s.windows;
    const WindowGeometry geometry = Geometry(w);
    Vec index(w.batch * w.height * w.width);
    for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<double>(i);
    const Vec windows =
        reference::WindowPartition(w, 1, reference::Roll(w, 1, index, -w.shift_h, -w.shift_w));
    const Vec mask = reference::AttentionMask(w);
    const int64_t n = geometry.WindowTokens();
    ASSERT_EQ(n, w.Tokens());
    ASSERT_EQ(geometry.WindowsPerPicture(), w.PerPicture());
    for (int64_t window = 0; window < w.PerPicture(); ++window) {
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(geometry.TokenAt(window, i), windows[window * n + i]) << window << " " << i;
        for (int64_t j = 0; j < n; ++j) {
          const bool same = geometry.RegionAt(window, i) == geometry.RegionAt(window, j);
          ASSERT_EQ(same ? 0 : -100, mask[(window * n + i) * n + j]) << window << " " << i;
        }
      }
    }
  }
}

TEST(WindowAttention, ReferenceReverseUndoesPartition) {
  const reference::Windows w{2, 6, 10, 3, 5, 1, 2};
  const Vec x = ToDouble(Random(1).Normal(2 * 6 * 10 * 7));
  EXPECT_EQ(reference::WindowReverse(w, 7, reference::WindowPartition(w, 7, x)), x);
  EXPECT_EQ(reference::Roll(w, 7, reference::Roll(w, 7, x, -1, -2), 1, 2), x);
  EXPECT_NE(reference::Roll(w, 7, x, -1, -2), x);
}

TEST(WindowAttention, DryRunCountsFlops) {
  const Size s{{2, 8, 8, 4, 4, 2, 2}, 3, 16};
  // Scores and their product with v.
  const double product = 2.0 * (2 * 4 * 3) * 16 * 16 * 16;
  EXPECT_EQ(CountOp(Forward(s, MakeData(s, 1))).matrix_flops, 2 * product);
  // Scores again, dP, dV, dQ and dK.
  EXPECT_EQ(CountOp(Backward(s, MakeData(s, 1))).matrix_flops, 5 * product);
}

}  // namespace
}  // namespace swinfleet::testing
