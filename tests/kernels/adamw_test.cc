#include <gtest/gtest.h>

#include <bit>
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
          .grad_scale = static_cast<float>(o.grad_scale),
          .master = {}};
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

// Weights of 16 bits: the float32 weights, and what the operation holds of them.
struct Weights {
  Floats param, master;  // of the dtype, and u16 or f32
};

Weights WeightsOf(const Floats& weights, DType dtype) {
  if (dtype == DType::kF16) return {Rounded(weights, dtype), weights};
  Weights w;
  for (float weight : weights) {
    const uint32_t bits = std::bit_cast<uint32_t>(weight);
    w.param.push_back(std::bit_cast<float>((bits + 0x8000) >> 16 << 16));
    w.master.push_back(static_cast<float>(bits & 0xffff));
  }
  return w;
}

// As Case, but with weights of 16 bits; what is expected is the float32 operation's very result.
OpCase CaseOf16Bits(const reference::AdamWOptions& o, const State& s, DType dtype) {
  const int64_t n = static_cast<int64_t>(s.param.size());
  const std::vector<Floats> plain = RunOp(Case(o, s));
  const Weights before = WeightsOf(s.param, dtype);
  const Weights after = WeightsOf(plain[0], dtype);
  OpCase op;
  op.In("grad", {n}, s.grad);
  op.Out("param", {n}, ToDouble(after.param), 0, OutputMode::kUpdate, dtype).initial = before.param;
  op.Out("m", {n}, ToDouble(plain[1]), 0, OutputMode::kUpdate).initial = s.m;
  op.Out("v", {n}, ToDouble(plain[2]), 0, OutputMode::kUpdate).initial = s.v;
  op.Out("master", {n}, ToDouble(after.master), 0, OutputMode::kUpdate,
         dtype == DType::kBF16 ? DType::kU16 : DType::kF32)
      .initial = before.master;
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    AdamWArgs args = ArgsOf(o, in[0], out);
    args.master = out[3];
    ops.adamw(args, context);
  };
  return op;
}

TEST(AdamW, StepsOf16BitsAreThoseOfFloat32) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (int64_t n : {1, 7, 64, 1023, 1025, 40003}) {
      SCOPED_TRACE(std::to_string(n) + " of " + NameOf(dtype));
      reference::AdamWOptions o = kOptions;
      o.step = 3;
      const auto make = [&](uint64_t seed) {
        return CaseOf16Bits(o, MakeState(n, o.step, seed), dtype);
      };
      // One instruction set at a time: they round differently.
      for (int64_t target : InstructionSets()) {
        UseInstructionSet use(target);
        for (int threads : {1, 2, 3}) {
          const OpCase op = make(1);
          const std::vector<Floats> got = RunOp(op, threads);
          for (size_t t = 0; t < got.size(); ++t) {
            ASSERT_EQ(ToDouble(got[t]), op.outputs[t].expected)
                << op.outputs[t].name << ", " << threads << " threads, " << CpuInstructionSet();
          }
        }
      }
    }
  }
}

// The memory around the tensors, and a repetition, with the best instruction set alone.
TEST(AdamW, Guards16Bits) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    CheckOp([&](uint64_t seed) {
      OpCase op = CaseOf16Bits(kOptions, MakeState(1025, 1, seed), dtype);
      // Sets of instructions differ by roundings, which turn some bits of a remainder.
      for (OpOutput& output : op.outputs) output.tolerance = Tolerance(output.dtype);
      if (dtype == DType::kBF16) op.outputs[3].tolerance = 1;
      return op;
    });
  }
}

// Over many steps the master weight is the float32 weight to the bit, and the parameter its
// rounding.
TEST(AdamW, TrajectoryOf16BitsIsThatOfFloat32) {
  const int64_t n = 1500;
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    State plain = MakeState(n, 1, 1);
    Weights weights = WeightsOf(plain.param, dtype);
    Floats m = plain.m, v = plain.v;
    for (int64_t step = 1; step <= 20; ++step) {
      reference::AdamWOptions o = kOptions;
      o.step = step;
      plain.grad = Random(100 + step).Normal(n);
      OpCase op = CaseOf16Bits(o, plain, dtype);
      op.outputs[0].initial = weights.param;
      op.outputs[1].initial = m;
      op.outputs[2].initial = v;
      op.outputs[3].initial = weights.master;
      const std::vector<Floats> after = RunOp(op);
      const std::vector<Floats> expected = RunOp(Case(o, plain));
      const Weights wanted = WeightsOf(expected[0], dtype);
      ASSERT_EQ(after[0], wanted.param) << "step " << step;
      ASSERT_EQ(after[3], wanted.master) << "step " << step;
      plain = {expected[0], plain.grad, expected[1], expected[2]};
      weights = {after[0], after[3]};
      m = after[1];
      v = after[2];
    }
  }
}

// What rounding `moment` draws as number `number` of the stream makes of it, bit `shift` of the
// number being the lowest of 16.
float Drawn(float moment, const RandomStream& stream, int64_t number, int shift) {
  const auto block = Philox4x32(
      {static_cast<uint32_t>(number / 4), stream.counter[0], stream.counter[1], stream.counter[2]},
      stream.key);
  const uint32_t draw = block[number % 4] >> shift & 0xffff;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(moment) + draw) >> 16 << 16);
}

// As Case, but with moments in bfloat16; what is expected is the float32 operation's very result,
// rounded as the definition says.
OpCase CaseOfBf16Moments(const reference::AdamWOptions& o, State s, const RandomStream& stream,
                         int64_t first) {
  const int64_t n = static_cast<int64_t>(s.param.size());
  s.m = Rounded(s.m, DType::kBF16);
  s.v = Rounded(s.v, DType::kBF16);
  const std::vector<Floats> plain = RunOp(Case(o, s));
  Floats m(n), v(n);
  for (int64_t i = 0; i < n; ++i) {
    m[i] = Drawn(plain[1][i], stream, first + i, 0);
    v[i] = Drawn(plain[2][i], stream, first + i, 16);
  }
  OpCase op;
  op.In("grad", {n}, s.grad);
  op.Out("param", {n}, ToDouble(plain[0]), 0, OutputMode::kUpdate).initial = s.param;
  op.Out("m", {n}, ToDouble(m), 0, OutputMode::kUpdate, DType::kBF16).initial = s.m;
  op.Out("v", {n}, ToDouble(v), 0, OutputMode::kUpdate, DType::kBF16).initial = s.v;
  op.call = [o, stream, first](const OpTable& ops, const Views& in, const Views& out,
                               Context& context) {
    AdamWArgs args = ArgsOf(o, in[0], out);
    args.rounding = {.stream = stream, .first = first};
    ops.adamw(args, context);
  };
  return op;
}

constexpr RandomStream kStream = {.key = {0x89abcdef, 7}, .counter = {9, 0xfedcba98, 0x01234567}};

TEST(AdamW, MomentsInBf16AreDrawnAsTheDefinitionSays) {
  for (int64_t target : InstructionSets()) {
    UseInstructionSet use(target);
    for (int64_t n : {1, 7, 1023, 1025, 40003}) {
      // The last of them ends where the stream does.
      for (int64_t first : {int64_t{0}, int64_t{3}, (int64_t{1} << 34) - n}) {
        for (int threads : {1, 3}) {
          reference::AdamWOptions o = kOptions;
          o.step = 3;
          const OpCase op = CaseOfBf16Moments(o, MakeState(n, o.step, 1), kStream, first);
          const std::vector<Floats> got = RunOp(op, threads);
          for (size_t t = 0; t < got.size(); ++t) {
            ASSERT_EQ(ToDouble(got[t]), op.outputs[t].expected)
                << op.outputs[t].name << " of " << n << " from " << first << ", " << threads
                << " threads, " << CpuInstructionSet();
          }
        }
      }
    }
  }
}

TEST(AdamW, GuardsBf16Moments) {
  CheckOp([&](uint64_t seed) {
    OpCase op = CaseOfBf16Moments(kOptions, MakeState(1025, 1, seed), kStream, 2);
    // Sets of instructions differ by roundings, which turn some draws.
    for (OpOutput& output : op.outputs) output.tolerance = 2 * Tolerance(output.dtype);
    return op;
  });
}

TEST(AdamW, InfiniteMomentsStayInfiniteInBf16) {
  State s = MakeState(8, 1, 1);
  s.grad.assign(8, 3e38f);
  const auto after = RunOp([&] {
    OpCase op = CaseOfBf16Moments(kOptions, s, kStream, 0);
    return op;
  }());
  for (float v : after[2]) EXPECT_TRUE(std::isinf(v));
}

// Bfloat16 gradients give the bits of the same numbers in float32, whatever else is in 16 bits.
TEST(AdamW, GradientsInBf16) {
  const int64_t n = 2500;
  for (const bool moments : {false, true}) {
    State s = MakeState(n, 3, 1);
    s.grad = Rounded(s.grad, DType::kBF16);
    reference::AdamWOptions o = kOptions;
    o.step = 3;
    const auto run = [&](DType dtype) {
      OpCase op = moments ? CaseOfBf16Moments(o, s, kStream, 2) : Case(o, s);
      op.inputs[0].dtype = dtype;
      return RunOp(op, 2);
    };
    EXPECT_EQ(run(DType::kBF16), run(DType::kF32)) << moments;
  }
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
