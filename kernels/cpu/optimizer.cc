// AdamW and SGD, one streaming pass each, and the master weights of 16 bits.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cc"
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vector-inl.h"

#ifndef SWINFLEET_KERNELS_CPU_OPTIMIZER_FACTORS_
#define SWINFLEET_KERNELS_CPU_OPTIMIZER_FACTORS_
namespace swinfleet::cpu {

// What a step of AdamW multiplies with, rounded once from float64.
struct AdamWFactors {
  float decay, one_minus_beta1, beta2, one_minus_beta2, eps, step_size, inverse_root, grad_scale;
};

struct SgdFactors {
  float learning_rate, momentum, weight_decay, grad_scale;
};

// Blocks of random numbers that are drawn at a time, at most: one a lane of two vectors.
inline constexpr int64_t kMostLanes = 8;
inline constexpr int64_t kMostDrawn = 2 * kMostLanes;

}  // namespace swinfleet::cpu
#endif

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// The float32 weights behind each kind of parameter, as AdamWArgs says.
struct Float32Weights {
  float* param;

  HWY_INLINE V Load(int64_t i, int64_t count) const { return LoadPart(param + i, count); }
  HWY_INLINE void Store(V weight, int64_t i, int64_t count) const {
    StorePart(weight, param + i, count);
  }
};

struct Bfloat16Weights {
  uint16_t* param;
  uint16_t* remainder;

  // kernels/bf16_master.h's.
  HWY_INLINE V Load(int64_t i, int64_t count) const {
    const DU du;
    const auto low = hn::PromoteTo(du, LoadHalves(remainder + i, count));
    const auto high = hn::ShiftLeft<16>(hn::PromoteTo(du, LoadHalves(param + i, count)));
    const auto rounded_up = hn::ShiftLeft<1>(hn::And(low, hn::Set(du, 0x8000)));
    return hn::BitCast(D(), hn::Sub(hn::Or(high, low), rounded_up));
  }
  HWY_INLINE void Store(V weight, int64_t i, int64_t count) const {
    const DU du;
    const auto bits = hn::BitCast(du, weight);
    StoreHalves(Halves(hn::ShiftRight<16>(hn::Add(bits, hn::Set(du, 0x8000)))), param + i, count);
    StoreHalves(Halves(hn::And(bits, hn::Set(du, 0xffff))), remainder + i, count);
  }
};

// Every product and sum is written as the instruction that it is, so that weights of all kinds go
// through the same roundings, which are those of kernels/cuda/optimizer.cu.
template <typename Weights>
HWY_NOINLINE void AdamWStep(const Weights& weights, const float* grad, float* m, float* v,
                            int64_t n, const AdamWFactors& f) {
  const D d;
  const V decay = hn::Set(d, f.decay), step_size = hn::Set(d, f.step_size);
  const V one_minus_beta1 = hn::Set(d, f.one_minus_beta1), beta2 = hn::Set(d, f.beta2);
  const V one_minus_beta2 = hn::Set(d, f.one_minus_beta2), eps = hn::Set(d, f.eps);
  const V inverse_root = hn::Set(d, f.inverse_root), grad_scale = hn::Set(d, f.grad_scale);
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const V g = hn::Mul(LoadPart(grad + i, count), grad_scale);
    const V before = LoadPart(m + i, count);
    const V mean = hn::MulAdd(hn::Sub(g, before), one_minus_beta1, before);
    const V square =
        hn::MulAdd(hn::Mul(g, g), one_minus_beta2, hn::Mul(LoadPart(v + i, count), beta2));
    StorePart(mean, m + i, count);
    StorePart(square, v + i, count);
    const V denominator = hn::MulAdd(hn::Sqrt(square), inverse_root, eps);
    const V decayed = hn::Mul(weights.Load(i, count), decay);
    weights.Store(hn::NegMulAdd(step_size, hn::Div(mean, denominator), decayed), i, count);
  });
}

template <typename Weights>
HWY_NOINLINE void SgdStep(const Weights& weights, const float* grad, float* momentum, int64_t n,
                          const SgdFactors& f) {
  const D d;
  const V learning_rate = hn::Set(d, f.learning_rate), factor = hn::Set(d, f.momentum);
  const V weight_decay = hn::Set(d, f.weight_decay), grad_scale = hn::Set(d, f.grad_scale);
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const V weight = weights.Load(i, count);
    const V g = hn::MulAdd(weight_decay, weight, hn::Mul(LoadPart(grad + i, count), grad_scale));
    const V sum = hn::MulAdd(factor, LoadPart(momentum + i, count), g);
    StorePart(sum, momentum + i, count);
    weights.Store(hn::NegMulAdd(learning_rate, hn::MulAdd(factor, sum, g), weight), i, count);
  });
}

void AdamWFloat32(float* param, const float* grad, float* m, float* v, int64_t n,
                  const AdamWFactors& f) {
  AdamWStep(Float32Weights{param}, grad, m, v, n, f);
}
void AdamWBfloat16(uint16_t* param, uint16_t* remainder, const float* grad, float* m, float* v,
                   int64_t n, const AdamWFactors& f) {
  AdamWStep(Bfloat16Weights{param, remainder}, grad, m, v, n, f);
}
void SgdFloat32(float* param, const float* grad, float* momentum, int64_t n, const SgdFactors& f) {
  SgdStep(Float32Weights{param}, grad, momentum, n, f);
}
void SgdBfloat16(uint16_t* param, uint16_t* remainder, const float* grad, float* momentum,
                 int64_t n, const SgdFactors& f) {
  SgdStep(Bfloat16Weights{param, remainder}, grad, momentum, n, f);
}

// numbers = the blocks [first, first + blocks) of a stream, 4 numbers each, and up to kMostDrawn -
// 1 blocks more.
#if HWY_TARGET == HWY_SCALAR
void DrawBlocks(const RandomStream& stream, uint32_t first, int64_t blocks,
                uint32_t* HWY_RESTRICT numbers) {
  for (int64_t block = 0; block < blocks; ++block) {
    const auto drawn = Philox4x32({first + static_cast<uint32_t>(block), stream.counter[0],
                                   stream.counter[1], stream.counter[2]},
                                  stream.key);
    std::copy(drawn.begin(), drawn.end(), numbers + 4 * block);
  }
}
#else
void DrawBlocks(const RandomStream& stream, uint32_t first, int64_t blocks,
                uint32_t* HWY_RESTRICT numbers) {
  // A block a lane. Of each lane the lower half counts; products take no notice of the upper one.
  const hn::CappedTag<uint64_t, kMostLanes> d;
  const hn::RepartitionToNarrow<decltype(d)> halves;
  const hn::Rebind<uint32_t, decltype(d)> words;
  const auto multiplier0 = hn::BitCast(halves, hn::Set(d, Philox::kMultiplier0));
  const auto multiplier1 = hn::BitCast(halves, hn::Set(d, Philox::kMultiplier1));
  const auto weyl0 = hn::Set(d, Philox::kWeyl0);
  const auto weyl1 = hn::Set(d, Philox::kWeyl1);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto advance = [&](auto& c0, auto& c1, auto& c2, auto& c3, auto key0, auto key1) {
    const auto product0 = hn::MulEven(hn::BitCast(halves, c0), multiplier0);
    const auto product1 = hn::MulEven(hn::BitCast(halves, c2), multiplier1);
    c0 = hn::Xor3(hn::ShiftRight<32>(product1), c1, key0);
    c2 = hn::Xor3(hn::ShiftRight<32>(product0), c3, key1);
    c1 = product1;
    c3 = product0;
  };
  // Two vectors, so that the products of one don't wait for those of the other.
  for (int64_t block = 0; block < blocks; block += 2 * lanes) {
    auto a0 = hn::Iota(d, first + static_cast<uint64_t>(block));
    auto b0 = hn::Iota(d, first + static_cast<uint64_t>(block + lanes));
    auto a1 = hn::Set(d, stream.counter[0]), b1 = a1;
    auto a2 = hn::Set(d, stream.counter[1]), b2 = a2;
    auto a3 = hn::Set(d, stream.counter[2]), b3 = a3;
    auto key0 = hn::Set(d, stream.key[0]), key1 = hn::Set(d, stream.key[1]);
    for (int round = 0; round < Philox::kRounds; ++round) {
      advance(a0, a1, a2, a3, key0, key1);
      advance(b0, b1, b2, b3, key0, key1);
      key0 = hn::Add(key0, weyl0);
      key1 = hn::Add(key1, weyl1);
    }
    const auto store = [&](auto c0, auto c1, auto c2, auto c3, int64_t at) {
      hn::StoreInterleaved4(hn::TruncateTo(words, c0), hn::TruncateTo(words, c1),
                            hn::TruncateTo(words, c2), hn::TruncateTo(words, c3), words,
                            numbers + 4 * at);
    };
    store(a0, a1, a2, a3, block);
    store(b0, b1, b2, b3, block + lanes);
  }
}
#endif

// kept = moments, rounded by the 16 bits from bit `shift` on of as many numbers.
void RoundMoments(const float* HWY_RESTRICT moments, const uint32_t* HWY_RESTRICT numbers,
                  int shift, uint16_t* HWY_RESTRICT kept, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(moments[i]);
    const uint32_t up = bits + (numbers[i] >> shift & 0xffff);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    kept[i] = static_cast<uint16_t>((nan ? bits | 0x400000 : up) >> 16);
  }
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(AdamWFloat32);
HWY_EXPORT(AdamWBfloat16);
HWY_EXPORT(SgdFloat32);
HWY_EXPORT(SgdBfloat16);
HWY_EXPORT(DrawBlocks);
HWY_EXPORT(RoundMoments);

constexpr int64_t kGrain = 2048;
// Weights whose float32 gradients or moments are on the stack, or that are rounded at once.
constexpr int64_t kAtOnce = 1024;

void CheckWeights(const TensorView& param, const TensorView& master) {
  CheckFloating(param.dtype, {});
  CHECK(master.empty() == (param.dtype == DType::kF32) &&
        (master.empty() || master.NumElements() == param.NumElements()))
      << "a master " << master.shape << " of " << NameOf(param.dtype) << param.shape;
  CheckDtype(param.dtype == DType::kBF16 ? DType::kU16 : DType::kF32, {master});
}

// Calls step(first, count) over weights [begin, end). Those in float16 are rounded from their
// masters after each call.
template <typename Step>
void UpdateWeights(const TensorView& param, const TensorView& master, int64_t begin, int64_t end,
                   const Step& step) {
  if (param.dtype != DType::kF16) return step(begin, end - begin);
  for (int64_t i = begin; i < end; i += kAtOnce) {
    const int64_t n = std::min(kAtOnce, end - i);
    step(i, n);
    ConvertElements(master.f32() + i, DType::kF32, param.u16() + i, DType::kF16, n);
  }
}

void CheckMoments(std::span<const TensorView> moments, const StochasticRounding& rounding,
                  int64_t n) {
  for (const TensorView& moment : moments) {
    CHECK(moment.NumElements() == n && moment.dtype == moments[0].dtype &&
          (moment.dtype == DType::kF32 || moment.dtype == DType::kBF16))
        << "a moment " << NameOf(moment.dtype) << moment.shape << " of " << n << " weights";
  }
  CHECK(rounding.first >= 0 && rounding.first + n <= int64_t{1} << 34) << rounding.first;
}

// Calls step(float32 gradients, first, count) over gradients [begin, end).
template <typename Step>
void UpdateByGradients(const TensorView& grad, int64_t begin, int64_t end, const Step& step) {
  if (grad.dtype == DType::kF32) return step(grad.f32() + begin, begin, end - begin);
  for (int64_t i = begin; i < end; i += kAtOnce) {
    const int64_t n = std::min(kAtOnce, end - i);
    float wide[kAtOnce];
    ConvertElements(grad.u16() + i, DType::kBF16, wide, DType::kF32, n);
    step(wide, i, n);
  }
}

void CheckGradient(const TensorView& grad, int64_t n) {
  CHECK(grad.NumElements() == n && (grad.dtype == DType::kF32 || grad.dtype == DType::kBF16))
      << "a gradient " << NameOf(grad.dtype) << grad.shape << " of " << n << " weights";
}

// Calls step(float32 moments, first, count) over moments [begin, begin + n), and rounds what it
// makes of them where they are kept in bfloat16.
template <size_t N, typename Step>
void UpdateMoments(const std::array<TensorView, N>& moments, const StochasticRounding& rounding,
                   int64_t begin, int64_t n, const Step& step) {
  std::array<float*, N> wide;
  if (moments[0].dtype == DType::kF32) {
    for (size_t k = 0; k < N; ++k) wide[k] = moments[k].f32() + begin;
    return step(wide, begin, n);
  }
  float memory[N][kAtOnce];
  // A block before the first whole one, and what DrawBlocks may make too many.
  uint32_t numbers[kAtOnce + 4 * (1 + kMostDrawn)];
  for (int64_t i = begin; i < begin + n; i += kAtOnce) {
    const int64_t count = std::min(kAtOnce, begin + n - i);
    for (size_t k = 0; k < N; ++k) {
      wide[k] = memory[k];
      ConvertElements(moments[k].u16() + i, DType::kBF16, wide[k], DType::kF32, count);
    }
    step(wide, i, count);
    const int64_t number = rounding.first + i;
    const int64_t before = number % 4;
    HWY_DYNAMIC_DISPATCH(DrawBlocks)
    (rounding.stream, static_cast<uint32_t>(number / 4), (before + count + 3) / 4, numbers);
    for (size_t k = 0; k < N; ++k) {
      HWY_DYNAMIC_DISPATCH(RoundMoments)
      (wide[k], numbers + before, static_cast<int>(16 * k), moments[k].u16() + i, count);
    }
  }
}

// The weights in float32, or the masters of those in float16; null where 16 more bits make a
// master.
float* Float32WeightsOf(const TensorView& param, const TensorView& master) {
  if (param.dtype == DType::kBF16) return nullptr;
  return (param.dtype == DType::kF32 ? param : master).f32();
}

// Calls step(first, count, float32 gradients, float32 moments), which updates these weights and
// moments, until all are updated.
template <size_t N, typename Step>
void ForEachUpdate(const TensorView& param, const TensorView& master, const TensorView& grad,
                   const std::array<TensorView, N>& moments, const StochasticRounding& rounding,
                   const Context& context, const Step& step) {
  ParallelFor(context.threads, param.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    UpdateByGradients(grad, begin, end, [&](const float* wide, int64_t first, int64_t number) {
      UpdateWeights(param, master, first, first + number, [&](int64_t i, int64_t count) {
        UpdateMoments(moments, rounding, i, count, [&](const auto& at, int64_t j, int64_t size) {
          step(j, size, wide + (j - first), at);
        });
      });
    });
  });
}

}  // namespace

void AdamW(const AdamWArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK_GE(args.step, 1);
  CheckGradient(args.grad, n);
  CheckWeights(args.param, args.master);
  const std::array moments = {args.m, args.v};
  CheckMoments(moments, args.rounding, n);
  const double correction1 = 1 - std::pow(args.beta1, args.step);
  const double correction2 = 1 - std::pow(args.beta2, args.step);
  const AdamWFactors factors = {
      .decay = static_cast<float>(1 - args.learning_rate * args.weight_decay),
      .one_minus_beta1 = static_cast<float>(1 - args.beta1),
      .beta2 = static_cast<float>(args.beta2),
      .one_minus_beta2 = static_cast<float>(1 - args.beta2),
      .eps = static_cast<float>(args.eps),
      .step_size = static_cast<float>(args.learning_rate / correction1),
      .inverse_root = static_cast<float>(1 / std::sqrt(correction2)),
      .grad_scale = args.grad_scale,
  };
  float* weights = Float32WeightsOf(args.param, args.master);
  ForEachUpdate(args.param, args.master, args.grad, moments, args.rounding, context,
                [&](int64_t i, int64_t count, const float* grad, const auto& moments) {
                  if (weights == nullptr) {
                    HWY_DYNAMIC_DISPATCH(AdamWBfloat16)
                    (args.param.u16() + i, args.master.u16() + i, grad, moments[0], moments[1],
                     count, factors);
                  } else {
                    HWY_DYNAMIC_DISPATCH(AdamWFloat32)
                    (weights + i, grad, moments[0], moments[1], count, factors);
                  }
                });
}

void Sgd(const SgdArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CheckGradient(args.grad, n);
  CheckWeights(args.param, args.master);
  const std::array moments = {args.momentum};
  CheckMoments(moments, args.rounding, n);
  const SgdFactors factors = {
      .learning_rate = static_cast<float>(args.learning_rate),
      .momentum = static_cast<float>(args.momentum_factor),
      .weight_decay = static_cast<float>(args.weight_decay),
      .grad_scale = args.grad_scale,
  };
  float* weights = Float32WeightsOf(args.param, args.master);
  ForEachUpdate(args.param, args.master, args.grad, moments, args.rounding, context,
                [&](int64_t i, int64_t count, const float* grad, const auto& moments) {
                  if (weights == nullptr) {
                    HWY_DYNAMIC_DISPATCH(SgdBfloat16)
                    (args.param.u16() + i, args.master.u16() + i, grad, moments[0], count, factors);
                  } else {
                    HWY_DYNAMIC_DISPATCH(SgdFloat32)(weights + i, grad, moments[0], count, factors);
                  }
                });
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
