#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t b, l, c;
  bool shared = false;  // one mask for all pictures
};

// The last one's rows are many parts of a sum of CUDA's.
const std::vector<Size> kSizes = {{1, 1, 1},   {2, 9, 5},    {3, 16, 33, true},
                                  {2, 64, 96}, {1, 7, 2050}, {2, 600, 35}};

std::vector<int64_t> MakeMask(const Size& s, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int64_t> mask;
  for (int64_t i = 0; i < (s.shared ? 1 : s.b) * s.l; ++i) {
    mask.push_back(static_cast<int64_t>(engine() % 5 < 3));
  }
  return mask;
}

void InMask(const Size& s, const std::vector<int64_t>& mask, OpCase* op) {
  op->In("mask", {s.shared ? 1 : s.b, s.l}, Floats(mask.begin(), mask.end()), DType::kI32);
}

OpCase Forward(const Size& s, DType dtype, uint64_t seed) {
  Random random(seed);
  const Floats token = Rounded(random.Normal(s.c), dtype);
  const Floats x = Rounded(random.Normal(s.b * s.l * s.c), dtype);
  const std::vector<int64_t> mask = MakeMask(s, seed);
  OpCase op;
  InMask(s, mask, &op);
  op.In("token", {s.c}, token, dtype);
  op.Out("x", {s.b, s.l, s.c},
         reference::MaskTokensForward(s.b, s.l, s.c, mask, ToDouble(token), ToDouble(x)), 0,
         OutputMode::kUpdate, dtype)
      .initial = x;
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mask_tokens_forward({.mask = in[0], .token = in[1], .x = out[0]}, context);
  };
  return op;
}

OpCase Backward(const Size& s, DType dtype, uint64_t seed) {
  const Floats dy = Rounded(Random(seed).Normal(s.b * s.l * s.c), dtype);
  const std::vector<int64_t> mask = MakeMask(s, seed);
  const auto expected = reference::MaskTokensBackward(s.b, s.l, s.c, mask, ToDouble(dy));
  OpCase op;
  InMask(s, mask, &op);
  op.Out("dx", {s.b, s.l, s.c}, expected.dx, 0, OutputMode::kUpdate, dtype).initial = dy;
  op.Out("dtoken", {s.c}, expected.dtoken, F32(static_cast<double>(s.b * s.l)),
         OutputMode::kAccumulate);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mask_tokens_backward({.mask = in[0], .dx = out[0], .dtoken = out[1]}, context);
  };
  return op;
}

TEST(MaskTokens, Forward) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Shape({s.b, s.l, s.c}).ToString() + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) { return Forward(s, dtype, seed); });
    }
  }
}

TEST(MaskTokens, Backward) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Shape({s.b, s.l, s.c}).ToString() + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) { return Backward(s, dtype, seed); });
    }
  }
}

TEST(MaskTokens, ReferenceGradients) {
  const Size s{2, 6, 3};
  const std::vector<int64_t> mask = MakeMask(s, 1);
  Random random(1);
  const Vec token = ToDouble(random.Normal(s.c)), x = ToDouble(random.Normal(s.b * s.l * s.c));
  const Vec dy = ToDouble(random.Normal(s.b * s.l * s.c));
  const auto gradients = reference::MaskTokensBackward(s.b, s.l, s.c, mask, dy);
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::MaskTokensForward(s.b, s.l, s.c, mask, in[0], in[1]));
      },
      {token, x}, {gradients.dtoken, gradients.dx});
}

}  // namespace
}  // namespace swinfleet::testing
