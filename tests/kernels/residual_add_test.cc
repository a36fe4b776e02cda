#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t pictures, rows, c;  // rows of each picture

  int64_t M() const { return pictures * rows; }
};

const std::vector<Size> kSizes = {{1, 1, 1},  {2, 3, 5},   {3, 7, 33},
                                  {1, 9, 96}, {4, 25, 17}, {2, 40, 768}};

struct Options {
  DType dtype = DType::kF32;
  bool scale = true;
  int alias = -1;  // y is this input
};

// Survivors and one dropped path.
Floats MakeScale(const Size& s, Random* random) {
  Floats scale = random->Uniform(s.pictures, 0.5, 2);
  if (s.pictures > 1) scale[1] = 0;
  return scale;
}

OpCase Residual(const Size& s, const Options& o, uint64_t seed) {
  Random random(seed);
  const Floats x = Rounded(random.Normal(s.M() * s.c), o.dtype);
  const Floats branch = Rounded(random.Normal(s.M() * s.c), o.dtype);
  const Floats scale = o.scale ? MakeScale(s, &random) : Floats{};
  OpCase op;
  op.In("x", {s.M(), s.c}, x, o.dtype);
  op.In("branch", {s.M(), s.c}, branch, o.dtype);
  op.In("scale", {s.pictures}, scale);
  op.Out("y", {s.M(), s.c},
         reference::ResidualAdd(s.c, ToDouble(x), ToDouble(branch), ToDouble(scale)),
         Tolerance(o.dtype), OutputMode::kOverwrite, o.dtype)
      .alias = o.alias;
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.residual_add({.x = in[0], .branch = in[1], .scale = in[2], .y = out[0]}, context);
  };
  return op;
}

OpCase Scaled(const Size& s, const Options& o, uint64_t seed) {
  Random random(seed);
  const Floats x = Rounded(random.Normal(s.M() * s.c), o.dtype);
  const Floats scale = MakeScale(s, &random);
  OpCase op;
  op.In("x", {s.M(), s.c}, x, o.dtype);
  op.In("scale", {s.pictures}, scale);
  op.Out("y", {s.M(), s.c}, reference::ScaleRows(s.c, ToDouble(x), ToDouble(scale)),
         Tolerance(o.dtype), OutputMode::kOverwrite, o.dtype)
      .alias = o.alias;
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.scale_rows({.x = in[0], .scale = in[1], .y = out[0]}, context);
  };
  return op;
}

using MakeCase = OpCase (*)(const Size&, const Options&, uint64_t seed);

void CheckSizes(MakeCase make, Options o) {
  for (DType dtype : kFloating) {
    o.dtype = dtype;
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Shape({s.pictures, s.rows, s.c}).ToString() + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) { return make(s, o, seed); });
    }
  }
}

TEST(ResidualAdd, Plain) { CheckSizes(Residual, {.scale = false}); }
TEST(ResidualAdd, DropPath) { CheckSizes(Residual, {}); }
TEST(ResidualAdd, InPlaceOfX) { CheckSizes(Residual, {.alias = 0}); }
TEST(ResidualAdd, InPlaceOfBranch) { CheckSizes(Residual, {.alias = 1}); }
TEST(ScaleRows, ToAnother) { CheckSizes(Scaled, {}); }
TEST(ScaleRows, InPlace) { CheckSizes(Scaled, {.alias = 0}); }

// Scaling rows is the gradient of the branch.
TEST(ResidualAdd, ReferenceGradients) {
  const int64_t c = 5, m = 6;
  Random random(1);
  const Vec x = ToDouble(random.Normal(m * c));
  const Vec branch = ToDouble(random.Normal(m * c));
  const Vec scale = {0.5, 0, 1.25};
  const Vec dy = ToDouble(random.Normal(m * c));
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::ResidualAdd(c, in[0], in[1], scale));
      },
      {x, branch}, {dy, reference::ScaleRows(c, dy, scale)});
}

}  // namespace
}  // namespace swinfleet::testing
