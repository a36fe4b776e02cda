#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Picture picture;
  int64_t patch_h, patch_w;
  int64_t first_row, rows;  // rows 0 for all

  int64_t RowLength() const { return picture.channels * patch_h * patch_w; }
  int64_t AllRows() const {
    return picture.batch * (picture.height / patch_h) * (picture.width / patch_w);
  }
  int64_t Rows() const { return rows == 0 ? AllRows() : rows; }
};

const std::vector<Size> kSizes = {{{2, 3, 8, 12}, 4, 4, 0, 0},  {{1, 1, 28, 28}, 2, 2, 0, 0},
                                  {{2, 3, 6, 10}, 3, 5, 0, 0},  {{1, 2, 4, 4}, 1, 1, 0, 0},
                                  {{3, 1, 4, 6}, 4, 2, 0, 0},   {{2, 3, 8, 12}, 4, 4, 5, 4},
                                  {{2, 3, 8, 12}, 4, 4, 11, 1}, {{2, 2, 32, 32}, 16, 16, 0, 0}};

std::string Name(const Size& s) {
  return "patch " + std::to_string(s.patch_h) + "x" + std::to_string(s.patch_w) + ", rows " +
         std::to_string(s.first_row) + "+" + std::to_string(s.Rows());
}

Shape ImageShape(const Size& s) {
  const reference::Picture& p = s.picture;
  return {p.batch, p.channels, p.height, p.width};
}

OpCase Gather(const Size& s, uint64_t seed) {
  const Floats image = Random(seed).Normal(ImageShape(s).NumElements());
  const Vec all = reference::PatchGather(s.picture, s.patch_h, s.patch_w, ToDouble(image));
  const auto begin = all.begin() + s.first_row * s.RowLength();
  OpCase op;
  op.In("image", ImageShape(s), image);
  op.Out("rows", {s.Rows(), s.RowLength()}, Vec(begin, begin + s.Rows() * s.RowLength()), 0);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_gather({.image = in[0],
                      .patch_h = s.patch_h,
                      .patch_w = s.patch_w,
                      .first_row = s.first_row,
                      .rows = out[0]},
                     context);
  };
  return op;
}

OpCase Scatter(const Size& s, uint64_t seed) {
  Random random(seed);
  const Floats rows = random.Normal(s.Rows() * s.RowLength());
  const Floats before = random.Normal(ImageShape(s).NumElements());
  // The reference scatters whole pictures: rows that are not given are what was there.
  Vec all = reference::PatchGather(s.picture, s.patch_h, s.patch_w, ToDouble(before));
  std::copy(rows.begin(), rows.end(), all.begin() + s.first_row * s.RowLength());
  OpCase op;
  op.In("rows", {s.Rows(), s.RowLength()}, rows);
  op.Out("image", ImageShape(s), reference::PatchScatter(s.picture, s.patch_h, s.patch_w, all), 0,
         OutputMode::kUpdate)
      .initial = before;
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.patch_scatter({.rows = in[0],
                       .patch_h = s.patch_h,
                       .patch_w = s.patch_w,
                       .first_row = s.first_row,
                       .image = out[0]},
                      context);
  };
  return op;
}

TEST(Patch, Gather) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Gather(s, seed); });
  }
}

TEST(Patch, Scatter) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Scatter(s, seed); });
  }
}

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

// A patch's elements are (channel, row, column), as a convolution's weight has them.
TEST(Patch, ReferenceOrder) {
  const reference::Picture p{1, 2, 2, 4};
  const Vec image = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17};
  EXPECT_EQ(reference::PatchGather(p, 2, 2, image),
            (Vec{0, 1, 4, 5, 10, 11, 14, 15, 2, 3, 6, 7, 12, 13, 16, 17}));
}

}  // namespace
}  // namespace swinfleet::testing
