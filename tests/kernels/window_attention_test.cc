#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/op_check.h"
#include "tests/kernels/window_attention_case.h"

namespace swinfleet::testing {
namespace {

// Pictures that windows divide, with a logit scale and one bias.
using Size = AttentionSize;

Size Cosine(const reference::Windows& windows, int64_t heads, int64_t dim) {
  return {.shape = {.windows = windows, .heads = heads, .dim = dim}};
}

// {batch, height, width, window_h, window_w, shift_h, shift_w}, heads, dim. The last one's bias is
// so large that threads take heads.
const std::vector<Size> kSizes = {
    Cosine({1, 2, 2, 2, 2, 0, 0}, 1, 1),      Cosine({2, 4, 4, 2, 2, 1, 1}, 2, 5),
    Cosine({1, 9, 6, 3, 3, 1, 1}, 2, 16),     Cosine({1, 10, 5, 5, 5, 2, 0}, 1, 24),
    Cosine({2, 7, 14, 7, 7, 0, 3}, 3, 32),    Cosine({1, 6, 10, 3, 5, 1, 2}, 2, 33),
    Cosine({1, 8, 8, 8, 8, 0, 0}, 2, 32),     Cosine({1, 16, 16, 8, 8, 4, 4}, 2, 32),
    Cosine({1, 12, 12, 12, 12, 0, 0}, 1, 64), Cosine({1, 24, 12, 12, 12, 6, 0}, 1, 8),
    Cosine({3, 4, 8, 4, 4, 0, 2}, 4, 3),      Cosine({1, 11, 22, 11, 11, 0, 5}, 1, 7),
    Cosine({1, 6, 6, 6, 6, 0, 0}, 3, 48),     Cosine({1, 4, 4, 2, 4, 1, 0}, 2, 40),
    Cosine({1, 10, 10, 10, 10, 0, 0}, 1, 31), Cosine({1, 18, 9, 9, 9, 4, 0}, 2, 17),
    Cosine({2, 1, 3, 1, 1, 0, 0}, 2, 16),     Cosine({5, 4, 4, 4, 4, 0, 0}, 1, 64),
    Cosine({1, 8, 8, 4, 4, 3, 1}, 2, 12),     Cosine({1, 17, 16, 17, 16, 0, 0}, 6, 4)};

// One token, tiles of tokens and heads of all kinds that the CUDA kernels tell apart.
const std::vector<Size> kFewSizes = {
    Cosine({1, 2, 2, 1, 1, 0, 0}, 1, 1),   Cosine({1, 4, 4, 2, 2, 1, 1}, 2, 5),
    Cosine({1, 7, 14, 7, 7, 0, 3}, 1, 33), Cosine({1, 4, 8, 4, 8, 0, 0}, 1, 32),
    Cosine({1, 6, 6, 6, 6, 0, 0}, 1, 64),  Cosine({1, 9, 9, 9, 9, 0, 0}, 1, 8)};

// The vector `index` of part `part` (0 is q, 1 is k), counting heads of tokens.
float* VectorOf(const Size& s, int64_t part, int64_t index, Floats* qkv) {
  const int64_t token = index / s.shape.heads;
  const int64_t head = index % s.shape.heads;
  return qkv->data() + ((token * 3 + part) * s.shape.heads + head) * s.shape.dim;
}

void ScaleParts(const Size& s, float q, float k, float v, AttentionData* data) {
  const int64_t c = s.shape.heads * s.shape.dim;
  const float factor[3] = {q, k, v};
  for (size_t i = 0; i < data->qkv.size(); ++i) data->qkv[i] *= factor[i % (3 * c) / c];
}

TEST(WindowAttention, Forward) {
  for (const Size& s : SizesToRun(kSizes, kFewSizes)) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return AttentionForward(s, MakeData(s, seed)); });
  }
}

TEST(WindowAttention, Backward) {
  for (const Size& s : SizesToRun(kSizes, kFewSizes)) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return AttentionBackward(s, MakeData(s, seed)); });
  }
}

// Heads of any width, with a remainder of every kind.
TEST(WindowAttention, HeadDimensions) {
  std::vector<int64_t> all(63);
  std::iota(all.begin(), all.end(), 2);
  for (int64_t dim : SizesToRun(all, {2, 31, 32, 33, 63, 64})) {
    CheckAttention(Cosine({1, 3, 3, 3, 3, 0, 0}, 1, dim));
  }
}

TEST(WindowAttention, Windows) {
  for (int64_t window : SizesToRun<int64_t>({2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {2, 6, 9})) {
    const int64_t shift = window / 2;
    CheckAttention(Cosine({1, 2 * window, window, window, window, shift, 0}, 1, 8));
  }
}

TEST(WindowAttention, LargeVectors) {
  const Size s = Cosine({1, 6, 6, 3, 3, 1, 1}, 2, 20);
  CheckAttention(s, [&](AttentionData* data) { ScaleParts(s, 1e6f, 3e7f, 1e4f, data); });
}

TEST(WindowAttention, SmallVectors) {
  const Size s = Cosine({1, 6, 6, 3, 3, 1, 1}, 2, 20);
  CheckAttention(s, [&](AttentionData* data) { ScaleParts(s, 1e-8f, 1e-6f, 1e-5f, data); });
}

TEST(WindowAttention, ZeroVectors) {
  const Size s = Cosine({1, 4, 8, 4, 4, 2, 2}, 2, 24);
  CheckAttention(s, [&](AttentionData* data) {
    for (int64_t index : {0, 7, 20})
      std::fill_n(VectorOf(s, 0, index, &data->qkv), s.shape.dim, 0.f);
    for (int64_t index : {3, 7, 40})
      std::fill_n(VectorOf(s, 1, index, &data->qkv), s.shape.dim, 0.f);
  });
}

// Shorter than 1e-12: the length is clamped, and is a constant to the gradient.
TEST(WindowAttention, VectorsBelowTheSmallestLength) {
  const Size s = Cosine({1, 4, 4, 4, 4, 0, 0}, 1, 16);
  CheckAttention(s, [&](AttentionData* data) {
    for (int64_t part : {0, 1}) {
      float* vector = VectorOf(s, part, 5, &data->qkv);
      for (int64_t d = 0; d < s.shape.dim; ++d) vector[d] *= 3e-14f;
    }
  });
}

TEST(WindowAttention, AllHeadsAboveTheClamp) {
  CheckAttention(Cosine({1, 8, 8, 4, 4, 2, 2}, 3, 16), [](AttentionData* data) {
    std::fill(data->logit_scale.begin(), data->logit_scale.end(), 30.f);
  });
}

// Just below the clamp, and so small that the scores are the bias.
TEST(WindowAttention, ExtremeLogitScales) {
  CheckAttention(Cosine({1, 8, 4, 4, 4, 2, 0}, 3, 16), [](AttentionData* data) {
    data->logit_scale = {4.6f, 0.f, -12.f};
  });
}

// The full range of biases, which makes nearly all probabilities 0 or 1.
TEST(WindowAttention, SharpProbabilities) {
  CheckAttention(Cosine({1, 12, 6, 6, 6, 3, 0}, 2, 32), [](AttentionData* data) {
    data->logit_scale = {std::log(20.f), std::log(60.f)};
    data->bias = Random(7).Uniform(static_cast<int64_t>(data->bias.size()), 0, 16);
  });
}

// The logit scale's gradient in clamped heads must not move what is there.
TEST(WindowAttention, NoGradientOfAClampedScale) {
  const Size s = Cosine({1, 8, 8, 4, 4, 2, 2}, 2, 16);
  AttentionData data = MakeData(s, 1);
  data.logit_scale = {4.7f, 100.f};
  OpCase op = AttentionBackward(s, data);
  op.outputs[1].mode = OutputMode::kUpdate;
  op.outputs[1].initial = {0.25f, -3.f};
  EXPECT_EQ(RunOp(op)[1], (Floats{0.25f, -3.f}));
}

TEST(WindowAttention, ReferenceGradients) {
  // The mask of -100 hides nothing behind scores of 100, but makes them uneven.
  for (const Size& s : {Cosine({1, 4, 2, 2, 2, 1, 0}, 2, 5), Cosine({2, 6, 3, 3, 3, 0, 0}, 1, 3),
                        Cosine({1, 6, 10, 3, 5, 1, 2}, 2, 4)}) {
    CheckReferenceGradients(s, MakeData(s, 3));
  }
}

TEST(WindowAttention, ReferenceProbabilitiesAndLseAgree) {
  const reference::AttentionCore a{.windows = 2, .heads = 2, .tokens = 5, .dim = 3};
  Random random(4);
  const int64_t n = a.windows * a.heads * a.tokens * a.dim;
  const Vec q = ToDouble(random.Normal(n));
  const Vec k = ToDouble(random.Normal(n));
  const Vec bias = ToDouble(random.Normal(a.heads * a.tokens * a.tokens));
  const auto r = reference::AttentionForward(
      a, {.q = q, .k = k, .v = q, .logit_scale = {1, 2}, .bias = bias, .mask = {}, .excluded = {}});
  for (int64_t row = 0; row < a.windows * a.heads * a.tokens; ++row) {
    double sum = 0;
    for (int64_t j = 0; j < a.tokens; ++j) sum += r.attention[row * a.tokens + j];
    EXPECT_NEAR(sum, 1, 1e-14);
  }
}

TEST(WindowAttention, DryRunCountsFlops) {
  const Size s = Cosine({2, 8, 8, 4, 4, 2, 2}, 3, 16);
  // Scores and their product with v.
  const double product = 2.0 * (2 * 4 * 3) * 16 * 16 * 16;
  EXPECT_EQ(CountOp(AttentionForward(s, MakeData(s, 1))).matrix_flops, 2 * product);
  // Scores again, dP, dV, dQ and dK.
  EXPECT_EQ(CountOp(AttentionBackward(s, MakeData(s, 1))).matrix_flops, 5 * product);
}

}  // namespace
}  // namespace swinfleet::testing
