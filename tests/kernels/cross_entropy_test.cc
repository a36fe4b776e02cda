#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t b, classes;
};

const std::vector<Size> kSizes = {{1, 2}, {3, 10}, {6, 11}, {2, 1000}, {5, 1}, {64, 17}};
// A picture is a block of CUDA's, of 256 threads.
const std::vector<Size> kFewSizes = {{3, 10}, {2, 300}, {2, 1}};

std::string Name(const Size& s) { return Shape{s.b, s.classes}.ToString(); }

enum class Target { kHard, kSmoothed, kSoft };

Floats MakeTarget(const Size& s, Target kind, Random* random) {
  Floats target(s.b * s.classes);
  if (kind == Target::kSoft) {
    // Does not sum to one: the gradient must follow the sum.
    for (float& t : target) t = random->Uniform(1, 0, 0.5)[0];
    return target;
  }
  const float rest = kind == Target::kSmoothed ? 0.1f / static_cast<float>(s.classes) : 0;
  for (int64_t i = 0; i < s.b; ++i) {
    std::fill_n(target.begin() + i * s.classes, s.classes, rest);
    target[i * s.classes + (7 * i + 1) % s.classes] += kind == Target::kSmoothed ? 0.9f : 1.f;
  }
  return target;
}

// `magnitude` is the deviation of the logits.
OpCase Case(const Size& s, Target kind, double magnitude, bool with_gradient, float grad_scale,
            uint64_t seed, DType dtype = DType::kF32) {
  Random random(seed);
  const Floats logits = Rounded(random.Normal(s.b * s.classes, 0, magnitude), dtype);
  const Floats target = MakeTarget(s, kind, &random);
  const auto r =
      reference::CrossEntropy(s.b, s.classes, ToDouble(logits), ToDouble(target), grad_scale);
  OpCase op;
  op.In("logits", {s.b, s.classes}, logits, dtype);
  op.In("target", {s.b, s.classes}, target);
  op.Out("loss", {s.b}, r.loss, F32(s.classes));
  if (with_gradient) {
    op.Out("dlogits", {s.b, s.classes}, r.dlogits, Tolerance(dtype, s.classes),
           OutputMode::kOverwrite, dtype);
  }
  op.call = [=](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.cross_entropy({.logits = in[0],
                       .target = in[1],
                       .loss = out[0],
                       .dlogits = with_gradient ? out[1] : TensorView{},
                       .grad_scale = grad_scale},
                      context);
  };
  return op;
}

void CheckSizes(Target kind, double magnitude, bool with_gradient, float grad_scale) {
  for (DType dtype : kFloating) {
    for (const Size& s : SizesToRun(kSizes, kFewSizes)) {
      SCOPED_TRACE(Name(s) + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) {
        return Case(s, kind, magnitude, with_gradient, grad_scale, seed, dtype);
      });
    }
  }
}

TEST(CrossEntropy, Hard) { CheckSizes(Target::kHard, 2, true, 1); }
TEST(CrossEntropy, Smoothed) { CheckSizes(Target::kSmoothed, 2, true, 1); }
TEST(CrossEntropy, Soft) { CheckSizes(Target::kSoft, 2, true, 0.125f); }
TEST(CrossEntropy, WithoutGradient) { CheckSizes(Target::kSoft, 2, false, 1); }
// exp of the logits overflows.
TEST(CrossEntropy, LargeLogits) { CheckSizes(Target::kSmoothed, 1e4, true, 3); }

// The mask of a class that must not be chosen.
TEST(CrossEntropy, VeryNegativeLogit) {
  CheckOp([](uint64_t seed) {
    OpCase op = Case({2, 9}, Target::kHard, 1, true, 1, seed);
    op.inputs[0].values[0] = -1e30f;  // the target of the first row is class 1
    const auto r = reference::CrossEntropy(2, 9, ToDouble(op.inputs[0].values),
                                           ToDouble(op.inputs[1].values), 1);
    op.outputs[0].expected = r.loss;
    op.outputs[1].expected = r.dlogits;
    return op;
  });
}

TEST(CrossEntropy, KeepsNaN) {
  OpCase op = Case({2, 3}, Target::kHard, 1, true, 1, 1);
  op.inputs[0].values[0] = NAN;
  const std::vector<Floats> results = RunOp(op);
  EXPECT_TRUE(std::isnan(results[0][0]));
  EXPECT_TRUE(std::isfinite(results[0][1]));
  EXPECT_TRUE(std::isnan(results[1][0]));
}

TEST(CrossEntropy, ReferenceGradients) {
  Random random(1);
  const Size s{4, 6};
  const Vec logits = ToDouble(random.Normal(s.b * s.classes, 0, 2));
  const Vec target = ToDouble(MakeTarget(s, Target::kSoft, &random));
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return 0.25 *
               Dot(Vec(s.b, 1), reference::CrossEntropy(s.b, s.classes, in[0], target, 1).loss);
      },
      {logits}, {reference::CrossEntropy(s.b, s.classes, logits, target, 0.25).dlogits});
}

}  // namespace
}  // namespace swinfleet::testing
