#include <gtest/gtest.h>

#include <bit>

#include "tests/kernels/op_check.h"
#include "tests/reference/rounding.h"

namespace swinfleet::testing {
namespace {

struct State {
  Floats param, grad, momentum;
};

State MakeState(int64_t n, uint64_t seed) {
  Random random(seed);
  return {random.Normal(n), random.Normal(n), random.Normal(n)};
}

OpCase Case(const reference::SgdOptions& o, const State& s) {
  const int64_t n = static_cast<int64_t>(s.param.size());
  Vec param = ToDouble(s.param);
  Vec momentum = ToDouble(s.momentum);
  reference::Sgd(o, ToDouble(s.grad), &param, &momentum);
  OpCase op;
  op.In("grad", {n}, s.grad);
  op.Out("param", {n}, param, F32(), OutputMode::kUpdate).initial = s.param;
  op.Out("momentum", {n}, momentum, F32(), OutputMode::kUpdate).initial = s.momentum;
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.sgd({.param = out[0],
             .grad = in[0],
             .momentum = out[1],
             .learning_rate = o.learning_rate,
             .momentum_factor = o.momentum_factor,
             .weight_decay = o.weight_decay,
             .grad_scale = static_cast<float>(o.grad_scale),
             .master = {}},
            context);
  };
  return op;
}

const reference::SgdOptions kOptions = {.learning_rate = 0.01, .weight_decay = 0.05};

TEST(Sgd, Steps) {
  for (int64_t n : {1, 7, 64, 1003, 20000}) {
    SCOPED_TRACE(n);
    CheckOp([&](uint64_t seed) { return Case(kOptions, MakeState(n, seed)); });
  }
}

TEST(Sgd, Options) {
  for (const reference::SgdOptions& o :
       {reference::SgdOptions{.learning_rate = 0.5, .momentum_factor = 0},
        reference::SgdOptions{.learning_rate = 1e-3, .momentum_factor = 0.99, .grad_scale = 0.125},
        reference::SgdOptions{.learning_rate = 0, .weight_decay = 1}}) {
    CheckOp([&](uint64_t seed) { return Case(o, MakeState(77, seed)); });
  }
}

// From a parameter of zero the result is the update alone.
TEST(Sgd, UpdateAlone) {
  CheckOp([&](uint64_t seed) {
    State s = MakeState(100, seed);
    std::fill(s.param.begin(), s.param.end(), 0.f);
    return Case(kOptions, s);
  });
}

// Ranks that own different shards compute the same bits for an element, wherever it lies.
TEST(Sgd, BitsDoNotDependOnTheShard) {
  const int64_t n = 101;
  const State s = MakeState(n, 1);
  const std::vector<Floats> whole = RunOp(Case(kOptions, s));
  for (int64_t cut : {1, 5, 37, 96}) {
    const auto part = [&](int64_t begin, int64_t end) {
      const auto slice = [&](const Floats& x) {
        return Floats(x.begin() + begin, x.begin() + end);
      };
      return RunOp(Case(kOptions, {slice(s.param), slice(s.grad), slice(s.momentum)}), 1);
    };
    const std::vector<Floats> low = part(0, cut);
    const std::vector<Floats> high = part(cut, n);
    for (int t = 0; t < 2; ++t) {
      Floats joined = low[t];
      joined.insert(joined.end(), high[t].begin(), high[t].end());
      EXPECT_EQ(joined, whole[t]) << "tensor " << t << ", cut at " << cut;
    }
  }
}

// Over many steps the master of weights of 16 bits is the float32 weight to the bit, and the
// parameter its rounding.
void CheckTrajectory(DType dtype) {
  const int64_t n = 2050;
  const bool bf16 = dtype == DType::kBF16;
  Arena workspace = Arena::OnHost("workspace", 64);
  Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 3, .count = nullptr};
  State plain = MakeState(n, 1);
  State mixed = plain;
  std::vector<uint16_t> param(n), remainder(n);
  const auto bits_of = [](float weight) { return std::bit_cast<uint32_t>(weight); };
  for (int64_t i = 0; i < n; ++i) {
    param[i] = bf16 ? static_cast<uint16_t>((bits_of(plain.param[i]) + 0x8000) >> 16)
                    : reference::ToBits(reference::Round(plain.param[i], dtype), dtype);
    remainder[i] = static_cast<uint16_t>(bits_of(plain.param[i]));
  }
  const auto step = [&](State* s, const TensorView& weights, const TensorView& master) {
    CpuOps().sgd({.param = weights,
                  .grad = ViewOf(s->grad.data(), {n}),
                  .momentum = ViewOf(s->momentum.data(), {n}),
                  .learning_rate = 0.01,
                  .weight_decay = 0.05,
                  .master = master},
                 context);
  };
  for (int t = 0; t < 20; ++t) {
    plain.grad = mixed.grad = Random(100 + t).Normal(n);
    step(&plain, ViewOf(plain.param.data(), {n}), {});
    step(&mixed, {param.data(), {n}, dtype},
         bf16 ? TensorView{remainder.data(), {n}, DType::kU16} : ViewOf(mixed.param.data(), {n}));
    ASSERT_EQ(mixed.momentum, plain.momentum) << "step " << t;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = bits_of(plain.param[i]);
      if (bf16) {
        ASSERT_EQ(param[i], static_cast<uint16_t>((bits + 0x8000) >> 16)) << "step " << t;
        ASSERT_EQ(remainder[i], bits & 0xffff) << "step " << t;
      } else {
        ASSERT_EQ(bits_of(mixed.param[i]), bits) << "step " << t;
        ASSERT_EQ(reference::FromBits(param[i], dtype), reference::Round(plain.param[i], dtype));
      }
    }
  }
}

TEST(Sgd, TrajectoryOf16BitsIsThatOfFloat32) {
  for (int64_t target : InstructionSets()) {
    UseInstructionSet use(target);
    CheckTrajectory(DType::kBF16);
    CheckTrajectory(DType::kF16);
  }
}

// Bfloat16 gradients give the bits of the same numbers in float32.
TEST(Sgd, GradientsInBf16) {
  const int64_t n = 2500;
  const reference::SgdOptions o{.learning_rate = 0.1, .weight_decay = 0.05};
  State s = MakeState(n, 1);
  s.grad = Rounded(s.grad, DType::kBF16);
  const auto run = [&](DType dtype) {
    OpCase op = Case(o, s);
    op.inputs[0].dtype = dtype;
    return RunOp(op, 2);
  };
  EXPECT_EQ(run(DType::kBF16), run(DType::kF32));
}

// Two steps by hand: buf = g, then 0.9 g + g; the step is lr (g + 0.9 buf).
TEST(Sgd, ReferenceByHand) {
  const reference::SgdOptions o{.learning_rate = 0.1};
  Vec param = {1};
  Vec momentum = {0};
  reference::Sgd(o, {2}, &param, &momentum);
  EXPECT_NEAR(param[0], 1 - 0.1 * (2 + 0.9 * 2), 1e-14);
  reference::Sgd(o, {2}, &param, &momentum);
  EXPECT_NEAR(momentum[0], 3.8, 1e-14);
  EXPECT_NEAR(param[0], 1 - 0.1 * (2 + 0.9 * 2) - 0.1 * (2 + 0.9 * 3.8), 1e-14);
}

}  // namespace
}  // namespace swinfleet::testing
