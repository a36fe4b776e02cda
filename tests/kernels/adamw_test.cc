#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct State {
  Floats param, grad, m, v;
};

// The first moment points where the gradient does, so that their sum does not cancel.
State MakeState(int64_t n, int64_t step, uint64_t seed) {
  Random random(seed);
  State s{random.Normal(n), random.Normal(n), Floats(n), Floats(n)};
  if (step > 1) {
    s.m = random.Normal(n, 0, 0.1);
    for (int64_t i = 0; i < n; ++i) s.m[i] = std::copysign(s.m[i], s.grad[i]);
    s.v = random.Uniform(n, 1e-4, 2);
  }
  return s;
}

AdamWArgs ArgsOf(const reference::AdamWOptions& o, const TensorView& grad, const Views& out) {
  return {.param = out[0],
          .grad = grad,
          .m = out[1],
          .v = out[2],
          .learning_rate = o.learning_rate,
          .beta1 = o.beta1,
          .beta2 = o.beta2,
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .step = o.step,
          .grad_scale = static_cast<float>(o.grad_scale)};
}

OpCase Case(const reference::AdamWOptions& o, const State& s) {
  const int64_t n = static_cast<int64_t>(s.param.size());
  Vec param = ToDouble(s.param);
  Vec m = ToDouble(s.m);
  Vec v = ToDouble(s.v);
  reference::AdamW(o, ToDouble(s.grad), &param, &m, &v);
  OpCase op;
  op.In("grad", {n}, s.grad);
  op.Out("param", {n}, param, F32(), OutputMode::kUpdate).initial = s.param;
  op.Out("m", {n}, m, F32(), OutputMode::kUpdate).initial = s.m;
  op.Out("v", {n}, v, F32(), OutputMode::kUpdate).initial = s.v;
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.adamw(ArgsOf(o, in[0], out), context);
  };
  return op;
}

const reference::AdamWOptions kOptions = {.learning_rate = 1e-3, .weight_decay = 0.05};

TEST(AdamW, Steps) {
  for (int64_t n : {1, 7, 64, 1003, 20000}) {
    for (int64_t step : {1, 2, 10, 100000}) {
      SCOPED_TRACE(std::to_string(n) + " elements, step " + std::to_string(step));
      reference::AdamWOptions o = kOptions;
      o.step = step;
      CheckOp([&](uint64_t seed) { return Case(o, MakeState(n, step, seed)); });
    }
  }
}

TEST(AdamW, Options) {
  for (const reference::AdamWOptions& o :
       {reference::AdamWOptions{.learning_rate = 0.5, .beta1 = 0.8, .beta2 = 0.95, .step = 3},
        reference::AdamWOptions{.learning_rate = 1e-2, .eps = 1e-3, .weight_decay = 1, .step = 2},
        reference::AdamWOptions{.learning_rate = 1e-3, .step = 5, .grad_scale = 0.0625},
        reference::AdamWOptions{.learning_rate = 0, .weight_decay = 0.1}}) {
    CheckOp([&](uint64_t seed) { return Case(o, MakeState(77, o.step, seed)); });
  }
}

// From a parameter of zero the result is the update alone.
TEST(AdamW, UpdateAlone) {
  for (int64_t step : {1, 7}) {
    reference::AdamWOptions o = kOptions;
    o.step = step;
    CheckOp([&](uint64_t seed) {
      State s = MakeState(100, step, seed);
      std::fill(s.param.begin(), s.param.end(), 0.f);
      return Case(o, s);
    });
  }
}

TEST(AdamW, SmallLargeAndZeroGradients) {
  for (float magnitude : {0.f, 1e-12f, 1e12f}) {
    CheckOp([&](uint64_t seed) {
      State s = MakeState(50, 1, seed);
      for (float& g : s.grad) g *= magnitude;
      std::fill(s.param.begin(), s.param.end(), 0.f);
      return Case(kOptions, s);
    });
  }
}

// Ranks that own different shards compute the same bits for an element, wherever it lies.
TEST(AdamW, BitsDoNotDependOnTheShard) {
  const int64_t n = 101;
  reference::AdamWOptions o = kOptions;
  o.step = 3;
  const State s = MakeState(n, 3, 1);
  const std::vector<Floats> whole = RunOp(Case(o, s));
  for (int64_t cut : {1, 5, 37, 96}) {
    const auto part = [&](int64_t begin, int64_t end) {
      const auto slice = [&](const Floats& x) {
        return Floats(x.begin() + begin, x.begin() + end);
      };
      return RunOp(Case(o, {slice(s.param), slice(s.grad), slice(s.m), slice(s.v)}), 1);
    };
    const std::vector<Floats> low = part(0, cut);
    const std::vector<Floats> high = part(cut, n);
    for (int t = 0; t < 3; ++t) {
      Floats joined = low[t];
      joined.insert(joined.end(), high[t].begin(), high[t].end());
      EXPECT_EQ(joined, whole[t]) << "tensor " << t << ", cut at " << cut;
    }
  }
}

// Ten steps in float32 stay beside ten steps in float64.
TEST(AdamW, Trajectory) {
  const int64_t n = 40;
  State s = MakeState(n, 1, 1);
  Vec param = ToDouble(s.param);
  Vec m(n);
  Vec v(n);
  for (int64_t step = 1; step <= 10; ++step) {
    reference::AdamWOptions o = kOptions;
    o.step = step;
    s.grad = Random(100 + step).Normal(n);
    reference::AdamW(o, ToDouble(s.grad), &param, &m, &v);
    const std::vector<Floats> after = RunOp(Case(o, s));
    s.param = after[0];
    s.m = after[1];
    s.v = after[2];
  }
  for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(s.param[i], param[i], 2 * F32()) << i;
}

// Two steps by hand, from PyTorch's definition, without weight decay: with a constant gradient g
// both corrected moments are exact, and a step is learning_rate g / (|g| + eps).
TEST(AdamW, ReferenceByHand) {
  reference::AdamWOptions o{.learning_rate = 0.1, .eps = 0.5};
  Vec param = {1};
  Vec m = {0};
  Vec v = {0};
  reference::AdamW(o, {2}, &param, &m, &v);
  EXPECT_NEAR(param[0], 1 - 0.1 * 2 / 2.5, 1e-14);
  o.step = 2;
  reference::AdamW(o, {2}, &param, &m, &v);
  EXPECT_NEAR(param[0], 1 - 2 * 0.1 * 2 / 2.5, 1e-14);
}

}  // namespace
}  // namespace swinfleet::testing
