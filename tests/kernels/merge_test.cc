#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  reference::Picture picture;
  int64_t first_row, rows;  // rows 0 for all

  int64_t RowLength() const { return 4 * picture.channels; }
  int64_t Rows() const {
    return rows == 0 ? picture.batch * (picture.height / 2) * (picture.width / 2) : rows;
  }
  Shape XShape() const { return {picture.batch, picture.height, picture.width, picture.channels}; }
};

// {batch, channels, height, width}.
const std::vector<Size> kSizes = {
    {{2, 5, 4, 6}, 0, 0},   {{1, 1, 2, 2}, 0, 0}, {{1, 96, 8, 8}, 0, 0}, {{2, 33, 6, 2}, 0, 0},
    {{3, 7, 10, 12}, 0, 0}, {{2, 5, 4, 6}, 3, 7}, {{2, 16, 4, 4}, 7, 1}};

std::string Name(const Size& s) {
  return s.XShape().ToString() + ", rows " + std::to_string(s.first_row) + "+" +
         std::to_string(s.Rows());
}

OpCase Gather(const Size& s, uint64_t seed) {
  const Floats x = Random(seed).Normal(s.XShape().NumElements());
  const Vec all = reference::MergeGather(s.picture, ToDouble(x));
  const auto begin = all.begin() + s.first_row * s.RowLength();
  OpCase op;
  op.In("x", s.XShape(), x);
  op.Out("rows", {s.Rows(), s.RowLength()}, Vec(begin, begin + s.Rows() * s.RowLength()), 0);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.merge_gather({.x = in[0], .first_row = s.first_row, .rows = out[0]}, context);
  };
  return op;
}

OpCase Scatter(const Size& s, uint64_t seed) {
  Random random(seed);
  const Floats rows = random.Normal(s.Rows() * s.RowLength());
  const Floats before = random.Normal(s.XShape().NumElements());
  Vec all = reference::MergeGather(s.picture, ToDouble(before));
  std::copy(rows.begin(), rows.end(), all.begin() + s.first_row * s.RowLength());
  OpCase op;
  op.In("rows", {s.Rows(), s.RowLength()}, rows);
  op.Out("x", s.XShape(), reference::MergeScatter(s.picture, all), 0, OutputMode::kUpdate).initial =
      before;
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.merge_scatter({.rows = in[0], .first_row = s.first_row, .x = out[0]}, context);
  };
  return op;
}

TEST(Merge, Gather) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Gather(s, seed); });
  }
}

TEST(Merge, Scatter) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Scatter(s, seed); });
  }
}

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

// The official order of neighbours: down before right.
TEST(Merge, ReferenceOrder) {
  EXPECT_EQ(reference::MergeGather({1, 1, 2, 4}, {0, 1, 2, 3, 4, 5, 6, 7}),
            (Vec{0, 4, 1, 5, 2, 6, 3, 7}));
}

}  // namespace
}  // namespace swinfleet::testing
