#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t pictures, rows, c;  // rows of each picture

  int64_t M() const { return pictures * rows; }
};

const std::vector<Size> kSizes = {{1, 1, 8},    {1, 3, 5},   {2, 8, 96},   {3, 2, 33},
                                  {4, 16, 192}, {2, 5, 768}, {1, 4, 3072}, {2, 1, 17},
                                  {10, 10, 31}, {1, 2, 4},   {1, 300, 16}};

struct Options {
  bool residual = false;
  bool scale = false;
  bool in_place = false;
  // Of backward: dx takes the memory of x instead.
  bool over_x = false;
  float eps = 1e-5f;
  bool accumulate = false;
  DType dtype = DType::kF32;
};

std::string Name(const Size& s, const Options& o) {
  return std::to_string(s.M()) + "x" + std::to_string(s.c) + (o.residual ? ", residual" : "") +
         (o.scale ? ", scale" : "") + (o.in_place ? ", in place" : "") +
         (o.over_x ? ", over x" : "") + " " + NameOf(o.dtype);
}

struct Data {
  Floats x, gamma, beta, residual, scale, dy;
};

Data MakeData(const Size& s, const Options& o, uint64_t seed) {
  Random random(seed);
  Data data;
  data.x = Rounded(random.Normal(s.M() * s.c, 0.3, 1.5), o.dtype);
  data.gamma = Rounded(random.Normal(s.c, 1, 0.3), o.dtype);
  data.beta = Rounded(random.Normal(s.c, 0, 0.3), o.dtype);
  if (o.residual) data.residual = Rounded(random.Normal(s.M() * s.c), o.dtype);
  if (o.scale) {
    // Dropped paths and survivors.
    data.scale = random.Uniform(s.pictures, 0.5, 2);
    data.scale[s.pictures - 1] = s.pictures > 1 ? 0 : 1.25f;
  }
  data.dy = Rounded(random.Normal(s.M() * s.c), o.dtype);
  return data;
}

reference::LayerNormResult Reference(const Size& s, const Options& o, const Data& data) {
  return reference::LayerNormForward(s.M(), s.c, ToDouble(data.x), ToDouble(data.gamma),
                                     ToDouble(data.beta), ToDouble(data.residual),
                                     ToDouble(data.scale), o.eps);
}

// The mean is off by some roundings of itself, which the division by the deviation makes larger. In
// constant rows, where the deviation is 0, there is nothing to round.
double Amplification(const reference::LayerNormResult& r) {
  double worst = 0;
  for (size_t i = 0; i < r.mean.size(); ++i) {
    if (r.rstd[i] < 100) worst = std::max(worst, std::abs(r.mean[i]) * r.rstd[i]);
  }
  return 1 + worst / 8;
}

OpCase Forward(const Size& s, const Options& o, const Data& data) {
  const auto r = Reference(s, o, data);
  const double amplification = Amplification(r);
  OpCase op;
  op.In("x", {s.M(), s.c}, data.x, o.dtype);
  op.In("gamma", {s.c}, data.gamma, o.dtype);
  op.In("beta", {s.c}, data.beta, o.dtype);
  op.In("residual", {s.M(), s.c}, data.residual, o.dtype);
  op.In("scale", {s.pictures}, data.scale);
  op.Out("y", {s.M(), s.c}, r.y, Tolerance(o.dtype, s.c, amplification), OutputMode::kOverwrite,
         o.dtype)
      .alias = o.in_place ? 3 : -1;
  op.Out("mean", {s.M()}, r.mean, F32(s.c));
  op.Out("rstd", {s.M()}, r.rstd, F32(s.c, amplification));
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.layer_norm_forward({.x = in[0],
                            .gamma = in[1],
                            .beta = in[2],
                            .residual = in[3],
                            .scale = in[4],
                            .y = out[0],
                            .mean = out[1],
                            .rstd = out[2],
                            .eps = o.eps},
                           context);
  };
  return op;
}

OpCase Backward(const Size& s, const Options& o, const Data& data) {
  const auto r = Reference(s, o, data);
  const auto g = reference::LayerNormBackward(s.M(), s.c, ToDouble(data.x), ToDouble(data.gamma),
                                              ToDouble(data.scale), ToDouble(data.dy), o.eps);
  const double amplification = Amplification(r);
  OpCase op;
  op.In("x", {s.M(), s.c}, data.x, o.dtype);
  op.In("gamma", {s.c}, data.gamma, o.dtype);
  op.In("mean", {s.M()}, ToFloat(r.mean));
  op.In("rstd", {s.M()}, ToFloat(r.rstd));
  op.In("scale", {s.pictures}, data.scale);
  op.In("dy", {s.M(), s.c}, data.dy, o.dtype);
  op.Out("dx", {s.M(), s.c}, g.dx, Tolerance(o.dtype, s.c, amplification),
         o.accumulate ? OutputMode::kAccumulate : OutputMode::kOverwrite, o.dtype)
      .alias = o.over_x ? 0 : (o.in_place ? 5 : -1);
  op.Out("dgamma", {s.c}, g.dgamma, F32(s.M(), amplification), OutputMode::kAccumulate);
  op.Out("dbeta", {s.c}, g.dbeta, F32(s.M()), OutputMode::kAccumulate);
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.layer_norm_backward({.x = in[0],
                             .gamma = in[1],
                             .mean = in[2],
                             .rstd = in[3],
                             .scale = in[4],
                             .dy = in[5],
                             .dx = out[0],
                             .dgamma = out[1],
                             .dbeta = out[2],
                             .accumulate = o.accumulate},
                            context);
  };
  return op;
}

using MakeCase = OpCase (*)(const Size&, const Options&, const Data&);

void CheckSizes(MakeCase make, Options o) {
  for (DType dtype : kFloating) {
    o.dtype = dtype;
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, o));
      CheckOp([&](uint64_t seed) { return make(s, o, MakeData(s, o, seed)); });
    }
  }
}

TEST(LayerNorm, Forward) { CheckSizes(Forward, {}); }
TEST(LayerNorm, ForwardResidual) { CheckSizes(Forward, {.residual = true}); }
TEST(LayerNorm, ForwardScale) { CheckSizes(Forward, {.scale = true}); }
TEST(LayerNorm, ForwardResidualScale) { CheckSizes(Forward, {.residual = true, .scale = true}); }
TEST(LayerNorm, ForwardInPlace) {
  CheckSizes(Forward, {.residual = true, .scale = true, .in_place = true});
}
TEST(LayerNorm, ForwardOtherEps) { CheckSizes(Forward, {.eps = 1e-2f}); }
TEST(LayerNorm, Backward) { CheckSizes(Backward, {}); }
TEST(LayerNorm, BackwardScale) { CheckSizes(Backward, {.scale = true}); }
TEST(LayerNorm, BackwardAccumulates) { CheckSizes(Backward, {.scale = true, .accumulate = true}); }
TEST(LayerNorm, BackwardInPlace) { CheckSizes(Backward, {.scale = true, .in_place = true}); }
TEST(LayerNorm, BackwardOverX) { CheckSizes(Backward, {.scale = true, .over_x = true}); }

// A variance as the difference of two means would be wrong in its second digit here.
TEST(LayerNorm, MeanFarFromZero) {
  const Size s{1, 6, 50};
  const auto data = [&](uint64_t seed) {
    Data made = MakeData(s, {}, seed);
    for (float& x : made.x) x += 1000;
    return made;
  };
  CheckOp([&](uint64_t seed) { return Forward(s, {}, data(seed)); });
  CheckOp([&](uint64_t seed) { return Backward(s, {}, data(seed)); });
}

TEST(LayerNorm, ConstantRows) {
  const Size s{1, 5, 24};
  const auto data = [&](uint64_t seed) {
    Data made = MakeData(s, {}, seed);
    std::fill_n(made.x.begin(), s.c, 0.f);
    std::fill_n(made.x.begin() + s.c, s.c, 3.3f);
    std::fill_n(made.x.begin() + 3 * s.c, s.c, -0.5f);
    return made;
  };
  CheckOp([&](uint64_t seed) { return Forward(s, {}, data(seed)); });
  CheckOp([&](uint64_t seed) { return Backward(s, {}, data(seed)); });
}

TEST(LayerNorm, LargeMagnitude) {
  const Size s{1, 5, 40};
  const auto data = [&](uint64_t seed) {
    Data made = MakeData(s, {}, seed);
    for (float& x : made.x) x *= 1e12f;
    return made;
  };
  CheckOp([&](uint64_t seed) { return Forward(s, {}, data(seed)); });
  CheckOp([&](uint64_t seed) { return Backward(s, {}, data(seed)); });
}

TEST(LayerNorm, ReferenceGradients) {
  const Size s{2, 3, 7};
  const Options o{.residual = true, .scale = true};
  const Data data = MakeData(s, o, 1);
  const Vec dy = ToDouble(data.dy);
  const Vec residual = ToDouble(data.residual);
  const Vec scale = ToDouble(data.scale);
  const Vec x = ToDouble(data.x);
  const Vec gamma = ToDouble(data.gamma);
  const auto g = reference::LayerNormBackward(s.M(), s.c, x, gamma, scale, dy, 1e-5);
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(
            dy,
            reference::LayerNormForward(s.M(), s.c, in[0], in[1], in[2], residual, scale, 1e-5).y);
      },
      {x, gamma, ToDouble(data.beta)}, {g.dx, g.dgamma, g.dbeta});
}

}  // namespace
}  // namespace swinfleet::testing
