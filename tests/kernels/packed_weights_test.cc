// Linear layers with copies of their weights.
#include "kernels/packed_weights.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <array>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t m, n, k;
};

// A single row; more than what a thread takes at once; blocks that are not whole.
const std::vector<Size> kSizes = {{1, 7, 5},     {16, 48, 16},   {33, 65, 17},    {64, 96, 96},
                                  {100, 40, 33}, {257, 48, 192}, {2100, 100, 70}, {49, 300, 1100}};

size_t BytesOf(const Size& s) { return (s.n + 64) * (s.k + 64) * sizeof(float); }

Arena ArenaFor(const Size& s, Device device) {
  return device == Device::kDryRun ? Arena::DryRun("copies") : Arena::OnHost("copies", BytesOf(s));
}

OpCase Forward(const Size& s, DType dtype, bool bias, uint64_t seed) {
  Random random(seed);
  const Floats x = Rounded(random.Normal(s.m * s.k), dtype);
  const Floats weight = Rounded(random.Normal(s.n * s.k, 0, 0.1), dtype);
  const Floats b = bias ? Rounded(random.Normal(s.n), dtype) : Floats{};
  OpCase op;
  op.In("x", {s.m, s.k}, x, dtype);
  op.In("weight", {s.n, s.k}, weight, dtype);
  op.In("bias", {s.n}, b, dtype);
  op.Out("y", {s.m, s.n},
         reference::LinearForward(s.m, s.n, s.k, ToDouble(x), ToDouble(weight), ToDouble(b)),
         Tolerance(dtype, s.k), OutputMode::kOverwrite, dtype);
  op.call = [s](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    Arena arena = ArenaFor(s, in[1].device);
    PackedWeights packed(std::array{in[1]}, &arena);
    Context with_copies = context;
    with_copies.packed_weights = &packed;
    // Once where the copy is made and once where it is there.
    for (int time = 0; time < 2; ++time) {
      ops.linear_forward({.x = in[0], .weight = in[1], .bias = in[2], .y = out[0]}, with_copies);
    }
  };
  return op;
}

TEST(PackedWeights, Forward) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      for (bool bias : {true, false}) {
        SCOPED_TRACE(std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) +
                     " " + NameOf(dtype));
        CheckOp([&](uint64_t seed) { return Forward(s, dtype, bias, seed); });
      }
    }
  }
}

TensorView Weight(const Size& s, std::vector<float>* memory, Device device = Device::kCpu) {
  memory->assign(s.n * s.k, 1.0f);
  return {memory->data(), {s.n, s.k}, DType::kF32, device};
}

// Products of AVX2 read plain weights, and need no copy.
bool ProductsReadCopies() { return (hwy::SupportedTargets() & HWY_AVX3) != 0; }

TEST(PackedWeights, CountWhatTheyTake) {
  for (const Size& s : kSizes) {
    std::vector<float> memory;
    Arena dry = Arena::DryRun("copies"), host = Arena::OnHost("copies", BytesOf(s));
    const TensorView counted = Weight(s, &memory, Device::kDryRun), weight = Weight(s, &memory);
    PackedWeights(std::array{counted}, &dry).Find(counted);
    PackedWeights packed(std::array{weight}, &host);
    const void* copy = packed.Find(weight);
    EXPECT_EQ(dry.used(), host.used());
    if (!ProductsReadCopies()) {
      EXPECT_EQ(copy, nullptr);
      EXPECT_EQ(host.used(), 0u);
    } else if (s.n >= 64 && s.k >= 64) {
      EXPECT_NE(copy, nullptr);
    }
    EXPECT_EQ(packed.Find(weight), copy);
    EXPECT_EQ(dry.used(), host.used()) << "a second copy";
  }
}

TEST(PackedWeights, LeaveAloneWhatMayChange) {
  const Size s = {0, 64, 64};
  std::vector<float> constant_memory, memory;
  const TensorView constant = Weight(s, &constant_memory), other = Weight(s, &memory);
  Arena arena = Arena::OnHost("copies", 2 * BytesOf(s));
  PackedWeights packed(std::array{constant}, &arena);
  EXPECT_EQ(packed.Find(other), nullptr);
  // Neither what only begins in a constant tensor.
  TensorView beyond = constant.Rows(32, 32);
  beyond.shape = {64, 64};
  EXPECT_EQ(packed.Find(beyond), nullptr);
  EXPECT_EQ(arena.used(), 0u);
  EXPECT_EQ(packed.Find(constant) != nullptr, ProductsReadCopies());
}

}  // namespace
}  // namespace swinfleet::testing
