// Window attention where it is not Swin V2's on pictures that windows divide: padding, clips, plain
// scores, biases for each window or none, runs of windows, and 16 bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/op_check.h"
#include "tests/kernels/window_attention_case.h"

namespace swinfleet::testing {
namespace {

using Size = AttentionSize;

// {batch, height, width, window_h, window_w, shift_h, shift_w[, depth, window_d, shift_d]}, heads,
// dim. Plain where `cosine` is false.
Size Of(const reference::Windows& windows, int64_t heads, int64_t dim, bool cosine) {
  return {.shape = {.windows = windows, .heads = heads, .dim = dim}, .cosine = cosine};
}

// Rows of windows [first, first + count).
Size Range(Size s, int64_t first, int64_t count, bool exclude_padding = true) {
  s.shape.first = first;
  s.shape.count = count;
  s.shape.exclude_padding = exclude_padding;
  return s;
}

Size InBfloat16(Size s) {
  s.dtype = DType::kBF16;
  return s;
}

// Maps that windows do not divide, along one axis or both, shifted or not; also a map smaller than
// its window.
const std::vector<reference::Windows> kPadded = {
    {1, 5, 4, 4, 4, 0, 0},   {2, 7, 5, 4, 4, 2, 2}, {1, 3, 3, 4, 4, 0, 0},   {1, 9, 7, 8, 8, 4, 4},
    {1, 12, 12, 8, 8, 0, 0}, {1, 5, 7, 3, 4, 1, 3}, {1, 13, 5, 11, 4, 5, 1}, {1, 3, 2, 4, 4, 1, 3}};

// Clips: whole, padded along every axis, shifted along some.
const std::vector<reference::Windows> kClips = {{1, 4, 4, 2, 2, 1, 1, 4, 2, 1},
                                                {2, 4, 8, 4, 4, 0, 2, 2, 2, 0},
                                                {1, 5, 7, 4, 4, 2, 2, 3, 2, 1},
                                                {1, 3, 5, 3, 2, 0, 1, 5, 4, 2},
                                                {1, 4, 4, 4, 4, 0, 0, 6, 4, 2}};

// Of one tile of tokens and of several, shifted and not; and of clips.
const std::vector<reference::Windows> kFewPadded = {
    {1, 7, 5, 4, 4, 2, 2}, {1, 5, 6, 6, 6, 3, 0}, {1, 3, 2, 4, 4, 1, 3}};
const std::vector<reference::Windows> kFewClips = {{1, 3, 4, 3, 2, 0, 1, 5, 4, 2},
                                                   {1, 3, 4, 3, 4, 0, 0, 3, 4, 1}};

constexpr DType kSixteenBits[] = {DType::kBF16, DType::kF16};

TEST(WindowAttentionVariants, Plain) {
  for (int64_t dim :
       SizesToRun<int64_t>({1, 2, 3, 5, 8, 15, 16, 17, 24, 32, 33, 48, 63, 64}, {3, 40})) {
    CheckAttention(Of({1, 4, 6, 2, 3, 1, 1}, 2, dim, false));
  }
  for (const Size& s : SizesToRun<Size>(
           {Of({1, 16, 8, 8, 8, 4, 0}, 3, 32, false), Of({1, 12, 12, 12, 12, 0, 0}, 1, 32, false)},
           {Of({1, 12, 6, 6, 6, 3, 0}, 1, 32, false)})) {
    CheckAttention(s);
  }
}

TEST(WindowAttentionVariants, PlainWithAScaleOfItsOwn) {
  for (double scale : SizesToRun<double>({0.5, 0.03125, -0.25}, {-0.25})) {
    Size s = Of({1, 5, 6, 4, 4, 2, 0}, 2, 12, false);
    s.shape.score_scale = scale;
    CheckAttention(s);
  }
}

TEST(WindowAttentionVariants, Padding) {
  for (const reference::Windows& windows : SizesToRun(kPadded, kFewPadded)) {
    CheckAttention(Of(windows, 2, 8, true));
    CheckAttention(Of(windows, 3, 20, false));
  }
}

TEST(WindowAttentionVariants, Clips) {
  for (const reference::Windows& windows : SizesToRun(kClips, kFewClips)) {
    CheckAttention(Of(windows, 2, 12, true));
    CheckAttention(Of(windows, 1, 32, false));
  }
}

// The largest scale, and keys opposite to their queries: every score is -100, where a mask of -100
// on the padding would leave it all the weight.
TEST(WindowAttentionVariants, PaddingUnderAdversarialScores) {
  for (const reference::Windows& windows : SizesToRun(kPadded, kFewPadded)) {
    const Size s = Of(windows, 2, 16, true);
    CheckAttention(s, [&](AttentionData* data) {
      std::fill(data->logit_scale.begin(), data->logit_scale.end(), 10.f);
      std::fill(data->bias.begin(), data->bias.end(), 0.f);
      const int64_t c = s.shape.heads * s.shape.dim;
      for (int64_t row = 0; row < RowsOf(s); ++row) {
        for (int64_t i = 0; i < c; ++i) {
          data->qkv[row * 3 * c + i] = i % 2 == 0 ? 1.f : -2.f;
          data->qkv[row * 3 * c + c + i] = i % 2 == 0 ? -1.f : 2.f;
        }
      }
    });
  }
}

// Attention to a single token, whose value comes out whatever the scores.
TEST(WindowAttentionVariants, TheOnlyTokenOfItsWindowKeepsItsValue) {
  for (bool cosine : {false, true}) {
    const Size s = Of({1, 5, 5, 4, 4, 0, 0}, 1, 8, cosine);
    const AttentionData data = MakeData(s, 1);
    const Floats out = RunOp(AttentionForward(s, data))[0];
    for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(out[24 * 8 + i], data.qkv[24 * 24 + 16 + i]);
  }
}

TEST(WindowAttentionVariants, WithoutBias) {
  for (bool cosine : {false, true}) {
    for (const reference::Windows& windows :
         SizesToRun<reference::Windows>({kPadded[1], kClips[0], kClips[2]}, {kFewPadded[0]})) {
      Size s = Of(windows, 2, 9, cosine);
      s.bias = false;
      CheckAttention(s);
      CheckAttention(Range(s, 1, 2));
    }
  }
}

TEST(WindowAttentionVariants, BiasForEachWindow) {
  // As many as windows, a divisor of them, and a number that is neither.
  for (int64_t biases : SizesToRun<int64_t>({4, 2, 3}, {3})) {
    Size s = Of({2, 7, 6, 4, 4, 1, 2}, 2, 8, biases == 3);
    s.shape.biases = biases;
    CheckAttention(s);
    CheckAttention(Range(s, 3, 3));
  }
}

// Most pairs, all of one query, all of one key.
void ExcludePairs(const Size& s, AttentionData* data) {
  const int64_t n = s.shape.windows.Tokens();
  const Floats draw = Random(3).Uniform(static_cast<int64_t>(data->bias.size()), 0, 1);
  for (size_t i = 0; i < draw.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / n % n, column = static_cast<int64_t>(i) % n;
    if (draw[i] < 0.6f || row == 1 || column == 2) data->bias[i] = kExcludedScore;
  }
}

// Pairs that the bias excludes, up to tokens that attend to nobody or that nobody attends to.
TEST(WindowAttentionVariants, ExcludedPairs) {
  for (bool cosine : {false, true}) {
    for (const reference::Windows& windows :
         SizesToRun<reference::Windows>({kPadded[1], kClips[2]}, {kFewPadded[0]})) {
      Size s = Of(windows, 2, 8, cosine);
      s.shape.biases = 2;
      CheckAttention(s, [&](AttentionData* data) {
        if (cosine) std::fill(data->logit_scale.begin(), data->logit_scale.end(), 10.f);
        ExcludePairs(s, data);
      });
    }
  }
}

TEST(WindowAttentionVariants, Ranges) {
  bool cosine = false;
  for (const reference::Windows& windows : SizesToRun<reference::Windows>(
           {kPadded[1], kPadded[5], kClips[0], kClips[2]}, {kFewPadded[0], kFewClips[0]})) {
    cosine = !cosine;
    const Size s = Of(windows, 2, 10, cosine);
    const int64_t all = windows.batch * windows.PerPicture();
    CheckAttention(Range(s, all - 1, 1));
    CheckAttention(Range(s, all / 3, all / 2));
    CheckAttention(Range(s, all / 3, all / 2, /*exclude_padding=*/false));
  }
}

TEST(WindowAttentionVariants, SixteenBits) {
  for (DType dtype : kSixteenBits) {
    for (bool cosine : {false, true}) {
      // Of tensor cores: heads of every multiple of 16 dimensions, whole and not, of whole 16 bytes
      // and not; tiles of 16, 32, 48 and 64 tokens, whole and not.
      std::vector<Size> sizes = SizesToRun<Size>(
          {Of({1, 8, 16, 8, 8, 4, 4}, 2, 32, cosine), Of(kPadded[1], 2, 21, cosine),
           Of(kClips[2], 1, 3, cosine), Range(Of(kPadded[1], 2, 16, cosine), 1, 2)},
          {Of({1, 6, 6, 6, 6, 3, 3}, 1, 16, cosine), Of(kFewPadded[2], 2, 35, cosine),
           Range(Of(kFewPadded[0], 2, 24, cosine), 1, 2), Of({1, 8, 16, 8, 8, 4, 4}, 1, 32, cosine),
           Of({1, 8, 7, 8, 7, 0, 3}, 1, 48, cosine), Of({1, 5, 5, 5, 5, 0, 0}, 2, 64, cosine),
           Of({2, 1, 3, 1, 1, 0, 0}, 2, 5, cosine), Of(kFewClips[0], 1, 33, cosine)});
      for (Size& s : sizes) {
        s.dtype = dtype;
        CheckAttention(s);
      }
    }
  }
}

// Windows of one tile, one after the other in a block; tiles that pass through shared memory in
// turn; and one that comes to where another one was.
TEST(WindowAttentionVariants, SixteenBitsInTiles) {
  CheckAttention(InBfloat16(Of({1, 5, 10, 5, 5, 0, 2}, 1, 16, true)));
  CheckAttention(InBfloat16(Of({1, 5, 13, 5, 13, 0, 0}, 1, 16, true)));
  Size three = Of({1, 11, 12, 11, 12, 0, 6}, 1, 40, false);
  three.dtype = DType::kF16;
  CheckAttention(three);
}

// Groups of windows whose biases are summed apart, of more windows than a block sums.
TEST(WindowAttentionVariants, SixteenBitsWithBiasForEachWindow) {
  for (DType dtype : kSixteenBits) {
    Size s = Of({2, 7, 6, 2, 2, 1, 1}, 2, 8, dtype == DType::kF16);
    s.dtype = dtype;
    s.shape.biases = 3;
    CheckAttention(s);
    CheckAttention(Range(s, 3, 14, /*exclude_padding=*/false));
  }
}

// Pairs that the bias excludes, a token that attends to nobody, one that nobody attends to.
TEST(WindowAttentionVariants, SixteenBitsWithExcludedPairs) {
  for (DType dtype : kSixteenBits) {
    Size s = Of(kFewPadded[0], 2, 8, dtype == DType::kF16);
    s.dtype = dtype;
    s.shape.biases = 2;
    CheckAttention(s, [&](AttentionData* data) { ExcludePairs(s, data); });
  }
}

// With cosine attention the lengths of queries and keys do not matter, be they next to the ends of
// the dtype's range, below the smallest length, or 0.
TEST(WindowAttentionVariants, SixteenBitVectorsOfAllLengths) {
  for (DType dtype : kSixteenBits) {
    Size s = Of({1, 6, 6, 6, 6, 3, 3}, 1, 24, true);
    s.dtype = dtype;
    const auto change = [&](AttentionData* data) {
      const float large = dtype == DType::kF16 ? 1e3f : 1e7f;
      const float small = dtype == DType::kF16 ? 0x1p-9f : 1e-6f;
      const float factors[] = {large, 1.0f, 16.0f, small, 0.125f};
      for (size_t i = 0; i < data->qkv.size(); ++i) {
        const size_t vector = i / 24;
        if (vector % 3 == 2) continue;
        float factor = factors[(vector + vector / 3) % 5];
        // In float16 the gradient of a vector that is 0 is beyond its range.
        if (dtype == DType::kBF16 && vector % 11 == 4) factor = 0;
        // About 24 numbers of 1: two thirds of the smallest length.
        if (dtype == DType::kBF16 && vector % 11 == 6) factor = 1.3e-13f;
        data->qkv[i] *= factor;
      }
      data->qkv = Rounded(data->qkv, dtype);
    };
    CheckAttention(s, change);
  }
}

// What a query of length 0 makes of its own gradient is beyond float16; that of the others, and
// everybody's attention, is not.
TEST(WindowAttentionVariants, ZeroVectorsInFloat16SpoilNobodyElse) {
  Size s = Of({1, 4, 4, 4, 4, 0, 0}, 1, 16, true);
  s.dtype = DType::kF16;
  AttentionData data = MakeData(s, 1);
  constexpr int64_t kZero = 5;
  std::fill_n(data.qkv.begin() + kZero * 3 * 16, 2 * 16, 0.f);
  CheckOp([&](uint64_t) { return AttentionForward(s, data); });
  const OpCase backward = AttentionBackward(s, data);
  const Floats dqkv = RunOp(backward)[0];
  for (size_t i = 0; i < dqkv.size(); ++i) {
    if (i / (3 * 16) == kZero && i % (3 * 16) < 2 * 16) continue;
    EXPECT_NEAR(dqkv[i], backward.outputs[0].expected[i], 2e-3) << i;
  }
}

// Several tiles of scores, the last one incomplete.
TEST(WindowAttentionVariants, LargeWindows) {
  for (const Size& s : SizesToRun<Size>(
           {Of({1, 14, 13, 14, 13, 0, 0}, 1, 8, false), Of({1, 12, 11, 16, 16, 0, 0}, 2, 8, true)},
           {Of({1, 9, 8, 10, 10, 0, 0}, 1, 4, true)})) {
    CheckAttention(s);
  }
}

// As large as there are of models, in many tiles of scores.
TEST(WindowAttentionVariants, LargestWindows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t window : {16, 24, 64}) {
      Size s = Of({1, window, window, window, window, 0, 0}, 1, 8, true);
      s.dtype = dtype;
      SCOPED_TRACE(Name(s));
      const AttentionData data = MakeData(s, 1);
      CheckOnce(AttentionForward(s, data));
      if (window < 64) CheckOnce(AttentionBackward(s, data));
    }
  }
}

// NaN in rows of excluded padding reaches nothing.
TEST(WindowAttentionVariants, PaddingIsNeverRead) {
  for (DType dtype : kFloating) {
    Size s = Range(Of({1, 5, 4, 4, 4, 2, 0}, 2, 8, true), 1, 1);
    s.dtype = dtype;
    const AttentionData data = MakeData(s, 1);
    AttentionData spoilt = data;
    const Vec padding = reference::PaddingOfWindows(s.shape.windows);
    const int64_t n = s.shape.windows.Tokens(), c = s.shape.heads * s.shape.dim;
    for (int64_t row = 0; row < n; ++row) {
      if (padding[n + row] == 0) continue;
      std::fill_n(spoilt.qkv.begin() + row * 3 * c, 3 * c, std::numeric_limits<float>::quiet_NaN());
      std::fill_n(spoilt.dout.begin() + row * c, c, std::numeric_limits<float>::quiet_NaN());
    }
    OpCase forward = AttentionForward(s, data);
    const std::vector<Floats> clean = RunOp(forward);
    forward.inputs[0].values = spoilt.qkv;
    EXPECT_EQ(RunOp(forward), clean);
    OpCase backward = AttentionBackward(s, data);
    const std::vector<Floats> clean_gradients = RunOp(backward);
    backward.inputs[0].values = spoilt.qkv;
    backward.inputs[4].values = spoilt.dout;
    EXPECT_EQ(RunOp(backward), clean_gradients);
  }
}

// Rows [begin, begin + count) windows of a tensor of windows.
Floats Cut(const Floats& rows, int64_t window_size, int64_t first, int64_t count) {
  return Floats(rows.begin() + first * window_size, rows.begin() + (first + count) * window_size);
}

void Append(const Floats& part, Floats* all) { all->insert(all->end(), part.begin(), part.end()); }

// Window by window, by twos, and so on: the same bits as all at once on the map.
TEST(WindowAttentionVariants, RangesGiveTheBatchedResult) {
  for (const Size& of : SizesToRun<Size>(
           {Of(kPadded[1], 2, 16, true), Of(kClips[2], 2, 16, true),
            Of({2, 8, 8, 4, 4, 2, 2}, 2, 16, true)},
           {Of(kFewPadded[0], 2, 16, true), InBfloat16(Of(kFewPadded[0], 2, 16, true))})) {
    Size s = of;
    const reference::Windows& w = s.shape.windows;
    s.shape.biases = 3;
    const AttentionData data = MakeData(s, 4);
    const auto windows = [&](const Floats& x, int64_t channels) {
      return ToFloat(reference::CutWindows(w, channels, ToDouble(x)));
    };
    const int64_t n = w.Tokens(), c = s.shape.heads * s.shape.dim;
    const int64_t all = w.batch * w.PerPicture();
    const std::vector<Floats> out = RunOp(AttentionForward(s, data));
    const std::vector<Floats> gradients = RunOp(AttentionBackward(s, data), 1);
    for (int64_t size : {1, 2, 3}) {
      Floats out_rows, dqkv_rows;
      for (int64_t first = 0; first < all; first += size) {
        const int64_t count = std::min(size, all - first);
        const Size part = Range(s, first, count);
        AttentionData cut = data;
        cut.qkv = Cut(windows(data.qkv, 3 * c), n * 3 * c, first, count);
        cut.dout = Cut(windows(data.dout, c), n * c, first, count);
        Append(RunOp(AttentionForward(part, cut))[0], &out_rows);
        Append(RunOp(AttentionBackward(part, cut))[0], &dqkv_rows);
      }
      EXPECT_EQ(ToFloat(reference::JoinWindows(w, c, ToDouble(out_rows))), out[0]) << size;
      EXPECT_EQ(ToFloat(reference::JoinWindows(w, 3 * c, ToDouble(dqkv_rows))), gradients[0])
          << size;
    }
  }
}

TEST(WindowAttentionVariants, ReferenceGradients) {
  for (bool cosine : {false, true}) {
    Size padded = Of({1, 3, 4, 2, 3, 1, 1}, 2, 3, cosine);
    padded.shape.biases = 3;
    Size clip = Of({1, 2, 3, 2, 2, 0, 1, 3, 2, 1}, 1, 3, cosine);
    Size unbiased = clip;
    unbiased.bias = false;
    Size scaled = clip;
    scaled.shape.score_scale = 0.25;
    for (const Size& s : {scaled, padded, clip, unbiased, Range(padded, 1, 2), Range(clip, 1, 2),
                          Range(clip, 2, 1, false)}) {
      AttentionData data = MakeData(s, 5);
      // Differences would not see small gradients beside the baits.
      for (float& x : data.qkv) x = std::clamp(x, -2.f, 2.f);
      if (s.bias && s.shape.biases == 3) data.bias[1] = data.bias[5] = kExcludedScore;
      CheckReferenceGradients(s, data);
    }
  }
}

// Excluded padding costs nothing.
TEST(WindowAttentionVariants, DryRunCountsTokensThatAttend) {
  const Size s = Of({2, 6, 6, 4, 4, 0, 0}, 2, 8, false);
  // Windows of 16, 8, 8 and 4 tokens.
  const double product = 2.0 * (16 * 16 + 2 * 8 * 8 + 4 * 4) * 16;
  EXPECT_EQ(CountOp(AttentionForward(s, MakeData(s, 1))).matrix_flops, 2 * 2 * product);
  const Size one = Range(s, 1, 1);
  EXPECT_EQ(CountOp(AttentionForward(one, MakeData(one, 1))).matrix_flops, 2 * 2.0 * 8 * 8 * 16);
  const Size padded = Range(s, 1, 1, /*exclude_padding=*/false);
  EXPECT_EQ(CountOp(AttentionBackward(padded, MakeData(padded, 1))).matrix_flops,
            5 * 2.0 * 16 * 16 * 16);
}

}  // namespace
}  // namespace swinfleet::testing
