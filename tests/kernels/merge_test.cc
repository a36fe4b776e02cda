#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Picture picture;
  int64_t first_row, rows;  // rows 0 for all

  int64_t RowLength() const { return 4 * picture.channels; }
  int64_t Rows() const {
    return rows == 0 ? picture.batch * ((picture.height + 1) / 2) * ((picture.width + 1) / 2)
                     : rows;
  }
  Shape XShape() const { return {picture.batch, picture.height, picture.width, picture.channels}; }
};

// {batch, channels, height, width}.
const std::vector<Size> kSizes = {
    {{2, 5, 4, 6}, 0, 0},   {{1, 1, 2, 2}, 0, 0}, {{1, 96, 8, 8}, 0, 0}, {{2, 33, 6, 2}, 0, 0},
    {{3, 7, 10, 12}, 0, 0}, {{2, 5, 4, 6}, 3, 7}, {{2, 16, 4, 4}, 7, 1}, {{2, 5, 3, 6}, 0, 0},
    {{2, 5, 4, 5}, 0, 0},   {{3, 3, 5, 7}, 0, 0}, {{1, 4, 1, 1}, 0, 0},  {{2, 6, 5, 3}, 3, 8}};

std::string Name(const Size& s, DType dtype) {
  return s.XShape().ToString() + ", rows " + std::to_string(s.first_row) + "+" +
         std::to_string(s.Rows()) + " " + NameOf(dtype);
}

OpCase Gather(const Size& s, DType dtype, uint64_t seed) {
  const Floats x = Rounded(Random(seed).Normal(s.XShape().NumElements()), dtype);
  const Vec all = reference::MergeGather(s.picture, ToDouble(x));
  const auto begin = all.begin() + s.first_row * s.RowLength();
  OpCase op;
  op.In("x", s.XShape(), x, dtype);
  op.Out("rows", {s.Rows(), s.RowLength()}, Vec(begin, begin + s.Rows() * s.RowLength()), 0,
         OutputMode::kOverwrite, dtype);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.merge_gather({.x = in[0], .first_row = s.first_row, .rows = out[0]}, context);
  };
  return op;
}

OpCase Scatter(const Size& s, DType dtype, uint64_t seed) {
  Random random(seed);
  const Floats rows = Rounded(random.Normal(s.Rows() * s.RowLength()), dtype);
  const Floats before = Rounded(random.Normal(s.XShape().NumElements()), dtype);
  Vec all = reference::MergeGather(s.picture, ToDouble(before));
  std::copy(rows.begin(), rows.end(), all.begin() + s.first_row * s.RowLength());
  OpCase op;
  op.In("rows", {s.Rows(), s.RowLength()}, rows, dtype);
  op.Out("x", s.XShape(), reference::MergeScatter(s.picture, all), 0, OutputMode::kUpdate, dtype)
      .initial = before;
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.merge_scatter({.rows = in[0], .first_row = s.first_row, .x = out[0]}, context);
  };
  return op;
}

using MakeCase = OpCase (*)(const Size&, DType, uint64_t seed);

void CheckSizes(MakeCase make) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, dtype));
      CheckOp([&](uint64_t seed) { return make(s, dtype, seed); });
    }
  }
}

TEST(Merge, Gather) { CheckSizes(Gather); }
TEST(Merge, Scatter) { CheckSizes(Scatter); }

// Scattering is the gradient of gathering.
TEST(Merge, ReferenceGradients) {
  const reference::Picture p{2, 3, 4, 2};
  Random random(1);
  const Vec x = ToDouble(random.Normal(2 * 3 * 4 * 2));
  const Vec dy = ToDouble(random.Normal(2 * 3 * 4 * 2));
  CheckGradients(
      [&](const std::vector<Vec>& in) { return Dot(dy, reference::MergeGather(p, in[0])); }, {x},
      {reference::MergeScatter(p, dy)});
}

TEST(Merge, ReferenceGradientsOfOddMaps) {
  const reference::Picture p{2, 2, 3, 5};
  Random random(1);
  const Vec x = ToDouble(random.Normal(2 * 2 * 3 * 5));
  const Vec dy = ToDouble(random.Normal(2 * 2 * 3 * 4 * 2));
  CheckGradients(
      [&](const std::vector<Vec>& in) { return Dot(dy, reference::MergeGather(p, in[0])); }, {x},
      {reference::MergeScatter(p, dy)});
}

TEST(Merge, ReferenceOfOddMaps) {
  EXPECT_EQ(reference::MergeGather({1, 1, 1, 3}, {7, 8, 9}), (Vec{7, 0, 8, 0, 9, 0, 0, 0}));
}

// The official order of neighbours: down before right.
TEST(Merge, ReferenceOrder) {
  EXPECT_EQ(reference::MergeGather({1, 1, 2, 4}, {0, 1, 2, 3, 4, 5, 6, 7}),
            (Vec{0, 4, 1, 5, 2, 6, 3, 7}));
}

}  // namespace
}  // namespace swinfleet::testing
