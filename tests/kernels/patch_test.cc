#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Picture picture;
  int64_t patch_h, patch_w;
  int64_t first_row, rows;  // rows 0 for all
  int64_t patch_t = 1;

  int64_t RowLength() const { return picture.channels * patch_t * patch_h * patch_w; }
  int64_t AllRows() const {
    const auto ceil = [](int64_t size, int64_t patch) { return (size + patch - 1) / patch; };
    return picture.batch * ceil(picture.frames, patch_t) * ceil(picture.height, patch_h) *
           ceil(picture.width, patch_w);
  }
  int64_t Rows() const { return rows == 0 ? AllRows() : rows; }
};

// {{batch, channels, height, width, frames}, patch_h, patch_w, first_row, rows, patch_t}. The last
// ones have patches that the picture does not fill, and long lines.
const std::vector<Size> kSizes = {
    {{2, 3, 8, 12}, 4, 4, 0, 0},       {{1, 1, 28, 28}, 2, 2, 0, 0},
    {{2, 3, 6, 10}, 3, 5, 0, 0},       {{1, 2, 4, 4}, 1, 1, 0, 0},
    {{3, 1, 4, 6}, 4, 2, 0, 0},        {{2, 3, 8, 12}, 4, 4, 5, 4},
    {{2, 3, 8, 12}, 4, 4, 11, 1},      {{2, 2, 32, 32}, 16, 16, 0, 0},
    {{2, 3, 8, 12, 4}, 4, 4, 0, 0, 2}, {{1, 2, 4, 6, 3}, 2, 3, 2, 7, 1},
    {{2, 3, 7, 10}, 4, 4, 0, 0},       {{1, 2, 3, 5}, 4, 8, 0, 0},
    {{2, 2, 5, 7, 5}, 4, 3, 0, 0, 2},  {{2, 2, 5, 7, 5}, 4, 3, 7, 20, 2},
    {{1, 2, 3, 1100}, 2, 3, 0, 0},     {{1, 1, 2, 2100}, 1, 1030, 0, 0}};

// image, rows: the image may be float32 beside rows of another dtype.
struct Dtypes {
  DType image, rows;
};
constexpr Dtypes kDtypes[] = {{DType::kF32, DType::kF32},
                              {DType::kF32, DType::kBF16},
                              {DType::kF32, DType::kF16},
                              {DType::kBF16, DType::kBF16},
                              {DType::kF16, DType::kF16}};

std::string Name(const Size& s, const Dtypes& d) {
  return "patch " + std::to_string(s.patch_t) + "x" + std::to_string(s.patch_h) + "x" +
         std::to_string(s.patch_w) + ", rows " + std::to_string(s.first_row) + "+" +
         std::to_string(s.Rows()) + ", image " + NameOf(d.image) + ", rows " + NameOf(d.rows);
}

Shape ImageShape(const Size& s) {
  const reference::Picture& p = s.picture;
  if (p.frames == 1) return {p.batch, p.channels, p.height, p.width};
  return {p.batch, p.channels, p.frames, p.height, p.width};
}

Vec ReferenceRows(const Size& s, const Floats& image) {
  return reference::PatchGather(s.picture, s.patch_h, s.patch_w, ToDouble(image), s.patch_t);
}

// Elements are copied and rounded, so that no error is allowed.
OpCase Gather(const Size& s, const Dtypes& d, uint64_t seed) {
  const Floats image = Rounded(Random(seed).Normal(ImageShape(s).NumElements()), d.image);
  const Vec all = Rounded(ReferenceRows(s, image), d.rows);
  const auto begin = all.begin() + s.first_row * s.RowLength();
  OpCase op;
  op.In("image", ImageShape(s), image, d.image);
  op.Out("rows", {s.Rows(), s.RowLength()}, Vec(begin, begin + s.Rows() * s.RowLength()), 0,
         OutputMode::kOverwrite, d.rows);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_gather({.image = in[0],
                      .patch_h = s.patch_h,
                      .patch_w = s.patch_w,
                      .first_row = s.first_row,
                      .rows = out[0],
                      .patch_t = s.patch_t},
                     context);
  };
  return op;
}

OpCase Scatter(const Size& s, const Dtypes& d, uint64_t seed) {
  Random random(seed);
  const Floats rows = Rounded(random.Normal(s.Rows() * s.RowLength()), d.rows);
  const Floats before = Rounded(random.Normal(ImageShape(s).NumElements()), d.image);
  // The reference scatters whole pictures: rows that are not given are what was there.
  Vec all = ReferenceRows(s, before);
  std::copy(rows.begin(), rows.end(), all.begin() + s.first_row * s.RowLength());
  OpCase op;
  op.In("rows", {s.Rows(), s.RowLength()}, rows, d.rows);
  op.Out("image", ImageShape(s),
         reference::PatchScatter(s.picture, s.patch_h, s.patch_w, all, s.patch_t), 0,
         OutputMode::kUpdate, d.image)
      .initial = before;
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_scatter({.rows = in[0],
                       .patch_h = s.patch_h,
                       .patch_w = s.patch_w,
                       .first_row = s.first_row,
                       .image = out[0],
                       .patch_t = s.patch_t},
                      context);
  };
  return op;
}

using MakeCase = OpCase (*)(const Size&, const Dtypes&, uint64_t seed);

void CheckSizes(MakeCase make) {
  for (const Dtypes& d : kDtypes) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, d));
      CheckOp([&](uint64_t seed) { return make(s, d, seed); });
    }
  }
}

TEST(Patch, Gather) { CheckSizes(Gather); }
TEST(Patch, Scatter) { CheckSizes(Scatter); }

// Scattering is the gradient of gathering.
TEST(Patch, ReferenceGradients) {
  const reference::Picture p{2, 2, 4, 6};
  Random random(1);
  const Vec image = ToDouble(random.Normal(2 * 2 * 4 * 6));
  const Vec dy = ToDouble(random.Normal(2 * 2 * 4 * 6));
  CheckGradients(
      [&](const std::vector<Vec>& in) { return Dot(dy, reference::PatchGather(p, 2, 3, in[0])); },
      {image}, {reference::PatchScatter(p, 2, 3, dy)});
}

// Incomplete patches of a clip.
TEST(Patch, ReferenceGradientsOfClips) {
  const reference::Picture p{2, 2, 4, 5, 3};
  Random random(2);
  const Vec image = ToDouble(random.Normal(2 * 2 * 3 * 4 * 5));
  const Vec dy = ToDouble(random.Normal(2 * (2 * 2 * 2) * (2 * 2 * 3 * 3)));
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::PatchGather(p, 3, 3, in[0], 2));
      },
      {image}, {reference::PatchScatter(p, 3, 3, dy, 2)});
}

// Frames come before rows; what the clip does not fill is zero.
TEST(Patch, ReferenceOrderOfClips) {
  const reference::Picture p{1, 1, 2, 3, 2};
  const Vec clip = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15};
  EXPECT_EQ(reference::PatchGather(p, 2, 2, clip, 2),
            (Vec{0, 1, 3, 4, 10, 11, 13, 14, 2, 0, 5, 0, 12, 0, 15, 0}));
}

// A patch's elements are (channel, row, column), as a convolution's weight has them.
TEST(Patch, ReferenceOrder) {
  const reference::Picture p{1, 2, 2, 4};
  const Vec image = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17};
  EXPECT_EQ(reference::PatchGather(p, 2, 2, image),
            (Vec{0, 1, 4, 5, 10, 11, 14, 15, 2, 3, 6, 7, 12, 13, 16, 17}));
}

}  // namespace
}  // namespace swinfleet::testing
