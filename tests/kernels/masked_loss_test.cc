#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

std::vector<int64_t> MakeMask(int64_t n, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int64_t> mask;
  for (int64_t i = 0; i < n; ++i) mask.push_back(static_cast<int64_t>(engine() % 5 < 3));
  return mask;
}

Floats AsFloats(const std::vector<int64_t>& mask) { return Floats(mask.begin(), mask.end()); }

constexpr float kScale = 0.37f, kGradScale = 1.25f;

struct L1Size {
  reference::Picture picture;
  int64_t unit;
};

const std::vector<L1Size> kL1Sizes = {
    {{1, 1, 1, 1}, 1}, {{2, 3, 8, 12}, 4}, {{3, 1, 9, 6}, 3}, {{2, 3, 64, 32}, 32}};

OpCase L1(const L1Size& s, DType dtype, bool with_gradient, uint64_t seed) {
  const reference::Picture& p = s.picture;
  const Shape shape{p.batch, p.channels, p.height, p.width};
  const Shape units{p.batch, p.height / s.unit * (p.width / s.unit)};
  Random random(seed);
  const Floats prediction = Rounded(random.Normal(shape.NumElements()), dtype);
  const Floats target = random.Normal(shape.NumElements());
  const std::vector<int64_t> mask = MakeMask(units.NumElements(), seed);
  const auto expected = reference::MaskedL1(p, s.unit, mask, ToDouble(prediction), ToDouble(target),
                                            kScale, kGradScale);
  OpCase op;
  op.In("prediction", shape, prediction, dtype);
  op.In("target", shape, target);
  op.In("mask", units, AsFloats(mask), DType::kI32);
  op.Out("loss", {p.batch}, expected.loss, F32(static_cast<double>(shape.NumElements() / p.batch)));
  if (with_gradient) {
    op.Out("dprediction", shape, expected.dprediction, Tolerance(dtype), OutputMode::kOverwrite,
           dtype);
  }
  op.call = [unit = s.unit](const OpTable& ops, const Views& in, const Views& out,
                            Context& context) {
    ops.masked_l1({.prediction = in[0],
                   .target = in[1],
                   .mask = in[2],
                   .unit = unit,
                   .scale = kScale,
                   .loss = out[0],
                   .dprediction = out.size() > 1 ? out[1] : TensorView{},
                   .grad_scale = kGradScale},
                  context);
  };
  return op;
}

TEST(MaskedL1, LossAndGradient) {
  for (DType dtype : kFloating) {
    for (const L1Size& s : kL1Sizes) {
      for (const bool with_gradient : {true, false}) {
        SCOPED_TRACE(std::to_string(s.unit) + " " + NameOf(dtype));
        CheckOp([&](uint64_t seed) { return L1(s, dtype, with_gradient, seed); });
      }
    }
  }
}

TEST(MaskedL1, ReferenceGradients) {
  const reference::Picture p{2, 3, 4, 6};
  const int64_t n = 2 * 3 * 4 * 6;
  Random random(1);
  const Vec prediction = ToDouble(random.Normal(n)), target = ToDouble(random.Normal(n));
  const std::vector<int64_t> mask = MakeMask(2 * 2 * 3, 1);
  const auto loss = [&](const std::vector<Vec>& in) {
    const Vec each = reference::MaskedL1(p, 2, mask, in[0], target, 1, 1).loss;
    return each[0] + each[1];
  };
  CheckGradients(loss, {prediction},
                 {reference::MaskedL1(p, 2, mask, prediction, target, 1, 1).dprediction});
}

struct MseSize {
  int64_t b, l, n;
  bool shared = false;  // one mask for all pictures
};

const std::vector<MseSize> kMseSizes = {{1, 1, 1}, {2, 9, 48}, {3, 16, 100, true}, {2, 49, 768}};

OpCase Mse(const MseSize& s, DType dtype, bool with_gradient, uint64_t seed) {
  const Shape shape{s.b, s.l, s.n};
  Random random(seed);
  const Floats prediction = Rounded(random.Normal(shape.NumElements()), dtype);
  const Floats target = random.Normal(shape.NumElements());
  const std::vector<int64_t> mask = MakeMask((s.shared ? 1 : s.b) * s.l, seed);
  const auto expected = reference::MaskedMse(s.b, s.l, s.n, mask, ToDouble(prediction),
                                             ToDouble(target), kScale, kGradScale);
  OpCase op;
  op.In("prediction", shape, prediction, dtype);
  op.In("target", shape, target);
  op.In("mask", {s.shared ? 1 : s.b, s.l}, AsFloats(mask), DType::kI32);
  op.Out("loss", {s.b}, expected.loss, F32(static_cast<double>(s.l * s.n)));
  if (with_gradient) {
    op.Out("dprediction", shape, expected.dprediction, Tolerance(dtype), OutputMode::kOverwrite,
           dtype);
  }
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.masked_mse({.prediction = in[0],
                    .target = in[1],
                    .mask = in[2],
                    .scale = kScale,
                    .loss = out[0],
                    .dprediction = out.size() > 1 ? out[1] : TensorView{},
                    .grad_scale = kGradScale},
                   context);
  };
  return op;
}

TEST(MaskedMse, LossAndGradient) {
  for (DType dtype : kFloating) {
    for (const MseSize& s : kMseSizes) {
      for (const bool with_gradient : {true, false}) {
        SCOPED_TRACE(Shape({s.b, s.l, s.n}).ToString() + " " + NameOf(dtype));
        CheckOp([&](uint64_t seed) { return Mse(s, dtype, with_gradient, seed); });
      }
    }
  }
}

TEST(MaskedMse, ReferenceGradients) {
  Random random(1);
  const Vec prediction = ToDouble(random.Normal(2 * 4 * 3)), target = ToDouble(random.Normal(24));
  const std::vector<int64_t> mask = MakeMask(2 * 4, 1);
  const auto loss = [&](const std::vector<Vec>& in) {
    const Vec each = reference::MaskedMse(2, 4, 3, mask, in[0], target, 1, 1).loss;
    return each[0] + each[1];
  };
  CheckGradients(loss, {prediction},
                 {reference::MaskedMse(2, 4, 3, mask, prediction, target, 1, 1).dprediction});
}

}  // namespace
}  // namespace swinfleet::testing
