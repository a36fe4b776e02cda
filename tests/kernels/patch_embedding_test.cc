#include <gtest/gtest.h>

#include "kernels/cuda/scratch.h"
#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Picture picture;
  reference::PatchSize patch;
  int64_t filters;

  // With frames even where there is one.
  bool IsClip() const { return picture.frames > 1 || patch.t > 1; }
  Shape Image() const {
    const reference::Picture& p = picture;
    if (!IsClip()) return {p.batch, p.channels, p.height, p.width};
    return {p.batch, p.channels, p.frames, p.height, p.width};
  }
  Shape Weight() const {
    if (!IsClip()) return {filters, picture.channels, patch.h, patch.w};
    return {filters, picture.channels, patch.t, patch.h, patch.w};
  }
  int64_t Tokens() const {
    const auto ceil = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
    return picture.batch * ceil(picture.frames, patch.t) * ceil(picture.height, patch.h) *
           ceil(picture.width, patch.w);
  }
  int64_t Width() const { return picture.channels * patch.t * patch.h * patch.w; }
};

// {{batch, channels, height, width, frames}, {patch_t, patch_h, patch_w}, filters}: patches of 2, 4
// and 16, of two sides, of 1; pictures that they do not divide, also on two sides, or that are
// smaller; clips, which they divide or not.
const std::vector<Size> kSizes = {
    {{2, 3, 8, 12}, {1, 4, 4}, 8},     {{2, 1, 20, 20}, {1, 2, 2}, 5},
    {{3, 3, 32, 32}, {1, 16, 16}, 16}, {{2, 2, 6, 10}, {1, 3, 5}, 7},
    {{2, 3, 3, 5}, {1, 1, 1}, 4},      {{2, 3, 7, 10}, {1, 4, 4}, 8},
    {{3, 2, 9, 7}, {1, 4, 2}, 6},      {{1, 2, 3, 5}, {1, 4, 8}, 3},
    {{1, 3, 20, 18}, {1, 16, 16}, 8},  {{2, 3, 8, 12, 4}, {2, 4, 4}, 8},
    {{1, 2, 4, 6, 3}, {1, 2, 3}, 5},   {{2, 2, 5, 7, 5}, {2, 4, 3}, 6},
    {{1, 3, 8, 8, 1}, {2, 4, 4}, 8},   {{3, 3, 6, 6, 2}, {2, 2, 2}, 16}};

std::string Name(const Size& s, DType dtype) {
  return std::string(NameOf(dtype)) + ", image " + s.Image().ToString() + ", weight " +
         s.Weight().ToString();
}

OpCase Forward(const Size& s, DType dtype, DType bias_dtype, uint64_t seed) {
  Random random(seed);
  const Floats image = random.Normal(s.Image().NumElements());
  const Floats weight = Rounded(random.Normal(s.Weight().NumElements(), 0, 0.3), dtype);
  const Floats bias = Rounded(random.Normal(s.filters), bias_dtype);
  OpCase op;
  op.In("image", s.Image(), image);
  op.In("weight", s.Weight(), weight, dtype);
  op.In("bias", {s.filters}, bias, bias_dtype);
  op.Out("y", {s.Tokens(), s.filters},
         reference::PatchEmbeddingForward(s.picture, s.patch, s.filters,
                                          ToDouble(Rounded(image, dtype)), ToDouble(weight),
                                          ToDouble(bias)),
         Tolerance(dtype, s.Width()), OutputMode::kOverwrite, dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_embedding_forward({in[0], in[1], in[2], out[0]}, context);
  };
  return op;
}

// Pixels are outside of what patches cover only where a patch reaches beyond the picture.
OpCase Backward(const Size& s, DType dtype, bool of_image, uint64_t seed) {
  Random random(seed);
  const Floats image = random.Normal(s.Image().NumElements());
  const Floats weight = Rounded(random.Normal(s.Weight().NumElements(), 0, 0.3), dtype);
  const Floats dy = Rounded(random.Normal(s.Tokens() * s.filters), dtype);
  const auto g = reference::PatchEmbeddingBackward(s.picture, s.patch, s.filters,
                                                   ToDouble(Rounded(image, dtype)),
                                                   ToDouble(weight), ToDouble(dy));
  OpCase op;
  op.In("image", s.Image(), image);
  op.In("weight", s.Weight(), weight, dtype);
  op.In("dy", {s.Tokens(), s.filters}, dy, dtype);
  op.Out("dweight", s.Weight(), g.dweight, F32(s.Tokens()), OutputMode::kAccumulate);
  op.Out("dbias", {s.filters}, g.dbias, F32(s.Tokens()), OutputMode::kAccumulate);
  if (of_image) op.Out("dimage", s.Image(), g.dimage, Tolerance(dtype, s.filters));
  op.call = [of_image](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_embedding_backward(
        {in[0], in[1], in[2], out[0], out[1], of_image ? out[2] : TensorView{}}, context);
  };
  return op;
}

// Calls check(size, dtype) for each.
template <typename Check>
void ForEachCase(const Check& check) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, dtype));
      check(s, dtype);
    }
  }
}

TEST(PatchEmbedding, Forward) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) { return Forward(s, dtype, dtype, seed); });
  });
}

TEST(PatchEmbedding, ForwardWithFloat32Bias) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    CheckOp([&](uint64_t seed) { return Forward(kSizes[5], dtype, DType::kF32, seed); });
  }
}

TEST(PatchEmbedding, Backward) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) { return Backward(s, dtype, false, seed); });
  });
}

TEST(PatchEmbedding, BackwardToTheImage) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) { return Backward(s, dtype, true, seed); });
  });
}

// On CUDA some pictures are taken at once: as float32 here 3 of 5.
class FewAtOnce {
 public:
  explicit FewAtOnce(const Size& s) {
    const int64_t elements = s.Tokens() * (s.Width() + s.filters) / s.picture.batch;
    cuda::picture_bytes = elements * 4 * 7 / 2;
  }
  ~FewAtOnce() { cuda::picture_bytes = before_; }
  FewAtOnce(const FewAtOnce&) = delete;
  FewAtOnce& operator=(const FewAtOnce&) = delete;

 private:
  const int64_t before_ = cuda::picture_bytes;
};

// More tokens than are taken at once: on the CPU up to 4096.
TEST(PatchEmbedding, SeveralTimes) {
  for (const Size& s : {Size{{5, 3, 10, 8}, {1, 4, 4}, 6}, Size{{5, 1, 66, 66}, {1, 2, 2}, 3},
                        Size{{5, 2, 5, 7, 3}, {2, 4, 3}, 4}}) {
    const FewAtOnce few(s);
    for (DType dtype : {DType::kF32, DType::kF16}) {
      SCOPED_TRACE(Name(s, dtype));
      CheckOp([&](uint64_t seed) { return Forward(s, dtype, dtype, seed); });
      CheckOp([&](uint64_t seed) { return Backward(s, dtype, true, seed); });
    }
  }
}

TEST(PatchEmbedding, ReferenceGradients) {
  for (const Size& s : {kSizes[6], kSizes[11]}) {
    Random random(3);
    const Vec image = ToDouble(random.Normal(s.Image().NumElements()));
    const Vec weight = ToDouble(random.Normal(s.Weight().NumElements()));
    const Vec bias = ToDouble(random.Normal(s.filters));
    const Vec dy = ToDouble(random.Normal(s.Tokens() * s.filters));
    const auto g =
        reference::PatchEmbeddingBackward(s.picture, s.patch, s.filters, image, weight, dy);
    CheckGradients(
        [&](const std::vector<Vec>& in) {
          return Dot(dy, reference::PatchEmbeddingForward(s.picture, s.patch, s.filters, in[0],
                                                          in[1], in[2]));
        },
        {image, weight, bias}, {g.dimage, g.dweight, g.dbias});
  }
}

// It is the linear layer of patches whose elements are (channel, frame, row, column).
TEST(PatchEmbedding, ReferenceIsALinearLayerOfPatches) {
  const Size& s = kSizes[11];
  Random random(4);
  const Vec image = ToDouble(random.Normal(s.Image().NumElements()));
  const Vec weight = ToDouble(random.Normal(s.Weight().NumElements()));
  const Vec bias = ToDouble(random.Normal(s.filters));
  const Vec patches = reference::PatchGather(s.picture, s.patch.h, s.patch.w, image, s.patch.t);
  EXPECT_EQ(reference::LinearForward(s.Tokens(), s.filters, s.Width(), patches, weight, bias),
            reference::PatchEmbeddingForward(s.picture, s.patch, s.filters, image, weight, bias));
}

TEST(PatchEmbedding, DryRunCountsFlops) {
  const Size& s = kSizes[0];
  const double product = 2.0 * 12 * 8 * 48;
  EXPECT_EQ(CountOp(Forward(s, DType::kF32, DType::kF32, 1)).matrix_flops, product);
  EXPECT_EQ(CountOp(Backward(s, DType::kF32, false, 1)).matrix_flops, product);
  EXPECT_EQ(CountOp(Backward(s, DType::kF32, true, 1)).matrix_flops, 2 * product);
}

}  // namespace
}  // namespace swinfleet::testing
