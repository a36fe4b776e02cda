// Mixing has no backward pass: nothing asks for a gradient of pictures.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

using Boxes = std::vector<int64_t>;

Shape ShapeOf(const reference::Picture& p) { return {p.batch, p.channels, p.height, p.width}; }

// Some pictures are mixed, some have a box, which may be empty or all of the picture, some neither.
struct Mixes {
  Mixes(const reference::Picture& p, uint64_t seed) {
    std::mt19937_64 engine(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(engine() % n); };
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t kind = below(4);
      const float lam = kind == 0 ? static_cast<float>(below(1000)) / 1000 : 1;
      weight.insert(weight.end(), {lam, 1 - lam});
      Boxes one(4);
      if (kind == 1) {
        const int64_t top = below(p.height), left = below(p.width);
        one = {top, top + below(p.height - top + 1), left, left + below(p.width - left + 1)};
      } else if (kind == 2) {
        one = {0, p.height, 0, p.width};
      }
      box.insert(box.end(), one.begin(), one.end());
    }
  }
  Floats weight;
  Boxes box;
};

OpCase Mix(const reference::Picture& p, const Mixes& mixes, const Floats& image) {
  OpCase op;
  op.In("weight", {p.batch, 2}, mixes.weight);
  op.In("box", {p.batch, 4}, Floats(mixes.box.begin(), mixes.box.end()), DType::kI32);
  op.Out("image", ShapeOf(p),
         reference::MixPictures(p, ToDouble(mixes.weight), mixes.box, ToDouble(image)), F32(2),
         OutputMode::kUpdate)
      .initial = image;
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mix_pictures({.image = out[0], .weight = in[0], .box = in[1]}, context);
  };
  return op;
}

TEST(MixPictures, IsTheDefinition) {
  const std::vector<reference::Picture> sizes = {{1, 3, 4, 5},  {2, 1, 1, 1},   {3, 2, 7, 9},
                                                 {5, 3, 6, 16}, {8, 1, 20, 33}, {4, 12, 5, 8}};
  for (const reference::Picture& p : sizes) {
    SCOPED_TRACE(ShapeOf(p).ToString());
    CheckOp([&](uint64_t seed) {
      return Mix(p, Mixes(p, seed), Random(seed).Normal(ShapeOf(p).NumElements()));
    });
  }
}

// What is not mixed, or comes out of a box, keeps its bits: a negative zero its sign, and what is
// no number stays out of others.
TEST(MixPictures, CopiesAreExact) {
  const reference::Picture p = {2, 1, 2, 3};
  Mixes mixes(p, 1);
  mixes.weight = {1, 0, 1, 0};
  mixes.box = {0, 1, 1, 3, 0, 0, 0, 0};
  const float nan = std::nanf("");
  const Floats image = {-0.0f, 1, 2, 3, 4, 5, nan, -0.0f, 7, nan, nan, nan};
  const Floats mixed = RunOp(Mix(p, mixes, image))[0];
  const Floats expected = {-0.0f, -0.0f, 7, 3, 4, 5, nan, -0.0f, 7, nan, nan, nan};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(std::isnan(mixed[i]), std::isnan(expected[i])) << i;
    EXPECT_EQ(std::signbit(mixed[i]), std::signbit(expected[i])) << i;
    if (std::isnan(expected[i])) continue;
    EXPECT_EQ(mixed[i], expected[i]) << i;
  }
}

}  // namespace
}  // namespace swinfleet::testing
