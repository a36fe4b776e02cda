#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t b, l, c, n;
  bool shared = false;   // one row of indices for all pictures
  bool padding = false;  // some indices are negative
};

const std::vector<Size> kSizes = {{1, 1, 1, 1},
                                  {2, 9, 5, 4},
                                  {3, 16, 33, 16},
                                  {2, 9, 5, 4, true},
                                  {2, 9, 5, 6, false, true},
                                  {3, 50, 17, 40, true, true},
                                  {2, 196, 96, 49}};

std::string Name(const Size& s, DType dtype) {
  return Shape({s.b, s.l, s.c, s.n}).ToString() + (s.shared ? ", shared" : "") +
         (s.padding ? ", padding" : "") + " " + NameOf(dtype);
}

// Different tokens in each row, out of order.
std::vector<int64_t> MakeIndex(const Size& s, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int64_t> index;
  for (int64_t row = 0; row < (s.shared ? 1 : s.b); ++row) {
    std::vector<int64_t> tokens(s.l);
    std::iota(tokens.begin(), tokens.end(), 0);
    // The engine's bits alone: the same on every machine.
    for (int64_t i = s.l - 1; i > 0; --i) std::swap(tokens[i], tokens[engine() % (i + 1)]);
    for (int64_t i = 0; i < s.n; ++i) {
      index.push_back(s.padding && i % 3 == 1 ? -1 : tokens[i]);
    }
  }
  return index;
}

void InIndex(const Size& s, const std::vector<int64_t>& index, OpCase* op) {
  op->In("index", {s.shared ? 1 : s.b, s.n}, Floats(index.begin(), index.end()), DType::kI32);
}

OpCase Gather(const Size& s, DType dtype, uint64_t seed) {
  const Floats x = Rounded(Random(seed).Normal(s.b * s.l * s.c), dtype);
  const std::vector<int64_t> index = MakeIndex(s, seed);
  OpCase op;
  op.In("x", {s.b, s.l, s.c}, x, dtype);
  InIndex(s, index, &op);
  op.Out("y", {s.b, s.n, s.c}, reference::TokenGather(s.b, s.l, s.c, ToDouble(x), index, s.n), 0,
         OutputMode::kOverwrite, dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.token_gather({.x = in[0], .index = in[1], .y = out[0]}, context);
  };
  return op;
}

// Tokens without an index stay what they were.
OpCase Scatter(const Size& s, DType dtype, bool accumulate, uint64_t seed) {
  Random random(seed);
  const Floats y = Rounded(random.Normal(s.b * s.n * s.c), dtype);
  const Floats before = Rounded(random.Normal(s.b * s.l * s.c), dtype);
  const std::vector<int64_t> index = MakeIndex(s, seed);
  Vec after = reference::TokenScatter(s.b, s.l, s.c, ToDouble(y), index, s.n);
  const Vec written = reference::TokenScatter(s.b, s.l, s.c, Vec(y.size(), 1), index, s.n);
  for (size_t i = 0; i < after.size(); ++i) {
    if (accumulate || written[i] == 0) after[i] += before[i];
  }
  OpCase op;
  op.In("y", {s.b, s.n, s.c}, y, dtype);
  InIndex(s, index, &op);
  op.Out("x", {s.b, s.l, s.c}, after, accumulate ? Tolerance(dtype) : 0, OutputMode::kUpdate, dtype)
      .initial = before;
  op.call = [accumulate](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.token_scatter({.y = in[0], .index = in[1], .x = out[0], .accumulate = accumulate}, context);
  };
  return op;
}

template <typename Make>
void CheckSizes(const Make& make) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, dtype));
      CheckOp([&](uint64_t seed) { return make(s, dtype, seed); });
    }
  }
}

TEST(TokenGather, Gathers) { CheckSizes(Gather); }

TEST(TokenScatter, Writes) {
  CheckSizes(
      [](const Size& s, DType dtype, uint64_t seed) { return Scatter(s, dtype, false, seed); });
}

TEST(TokenScatter, Adds) {
  CheckSizes(
      [](const Size& s, DType dtype, uint64_t seed) { return Scatter(s, dtype, true, seed); });
}

// Scattering is the gradient of gathering.
TEST(TokenGather, ReferenceGradients) {
  const Size s{2, 6, 3, 4, false, true};
  const std::vector<int64_t> index = MakeIndex(s, 1);
  Random random(1);
  const Vec x = ToDouble(random.Normal(s.b * s.l * s.c));
  const Vec dy = ToDouble(random.Normal(s.b * s.n * s.c));
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::TokenGather(s.b, s.l, s.c, in[0], index, s.n));
      },
      {x}, {reference::TokenScatter(s.b, s.l, s.c, dy, index, s.n)});
}

}  // namespace
}  // namespace swinfleet::testing
