#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

Shape ShapeOf(const reference::Picture& p) { return {p.batch, p.channels, p.height, p.width}; }

struct NormSize {
  reference::Picture picture;
  int64_t window;
};

OpCase Norm(const NormSize& s, double mean, uint64_t seed) {
  const Shape shape = ShapeOf(s.picture);
  const Floats x = Random(seed).Normal(shape.NumElements(), mean);
  OpCase op;
  op.In("x", shape, x);
  // A pixel's difference from the mean loses what both have in common.
  op.Out("y", shape, reference::NormTargets(s.picture, s.window, ToDouble(x)), F32(1, 1 + mean));
  op.call = [window = s.window](const OpTable& ops, const Views& in, const Views& out,
                                Context& context) {
    ops.norm_targets({.x = in[0], .window = window, .y = out[0]}, context);
  };
  return op;
}

TEST(NormTargets, Normalises) {
  const std::vector<NormSize> sizes = {
      {{2, 3, 9, 12}, 3},   {{1, 1, 1, 2}, 3},  {{1, 2, 20, 17}, 7}, {{1, 1, 5, 5}, 47},
      {{1, 3, 40, 48}, 11}, {{1, 1, 2, 30}, 5}, {{2, 1, 3, 600}, 47}};
  for (const NormSize& s : sizes) {
    for (const double mean : {0.0, 10.0}) {
      SCOPED_TRACE(ShapeOf(s.picture).ToString() + " by " + std::to_string(s.window));
      CheckOp([&](uint64_t seed) { return Norm(s, mean, seed); });
    }
  }
}

// Pictures have even areas: nothing of other pixels' sums is left there.
TEST(NormTargets, EvenAreaIsZero) {
  OpCase op;
  Floats x(30 * 30, 1.5f);
  for (int64_t i = 0; i < 8; ++i) x[i * 31] = 1e4f;
  op.In("x", {1, 1, 30, 30}, x);
  op.Out("y", {1, 1, 30, 30}, Vec(900, 0), 0);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.norm_targets({.x = in[0], .window = 5, .y = out[0]}, context);
  };
  const Floats y = RunOp(op)[0];
  for (int64_t row = 12; row < 30; ++row) {
    for (int64_t column = 12; column < 30; ++column) EXPECT_NEAR(y[row * 30 + column], 0, 1e-4);
  }
}

struct PatchSize {
  reference::Picture picture;
  int64_t patch;
};

OpCase Patches(const PatchSize& s, bool normalise, uint64_t seed) {
  const reference::Picture& p = s.picture;
  const Floats image = Random(seed).Normal(ShapeOf(p).NumElements());
  OpCase op;
  op.In("image", ShapeOf(p), image);
  op.Out("y", {p.batch, p.height / s.patch * (p.width / s.patch), s.patch * s.patch * p.channels},
         reference::PatchTargets(p, s.patch, normalise, ToDouble(image)), normalise ? F32() : 0);
  op.call = [patch = s.patch, normalise](const OpTable& ops, const Views& in, const Views& out,
                                         Context& context) {
    ops.patch_targets({.image = in[0], .patch = patch, .normalise = normalise, .y = out[0]},
                      context);
  };
  return op;
}

TEST(PatchTargets, CopiesAndNormalises) {
  const std::vector<PatchSize> sizes = {
      {{2, 3, 8, 12}, 4}, {{1, 2, 3, 3}, 1}, {{3, 1, 10, 5}, 5}, {{2, 3, 32, 32}, 16}};
  for (const PatchSize& s : sizes) {
    for (const bool normalise : {false, true}) {
      SCOPED_TRACE(ShapeOf(s.picture).ToString() + " by " + std::to_string(s.patch));
      CheckOp([&](uint64_t seed) { return Patches(s, normalise, seed); });
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
