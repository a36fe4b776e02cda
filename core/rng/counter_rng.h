// Counter-based random numbers: each stream is a function of what it is for, so nothing depends on
// the number of ranks or threads, nor on what was drawn before.
#ifndef SWINFLEET_CORE_RNG_COUNTER_RNG_H_
#define SWINFLEET_CORE_RNG_COUNTER_RNG_H_

#include <array>
#include <cstdint>

#include "kernels/philox.h"

namespace swinfleet {

enum class RandomPurpose : uint32_t {
  kInitialWeights = 1,
  kDataOrder = 2,
  kAugmentation = 3,
  kDropPath = 4,
  kBenchmarkData = 5,
  kMixing = 6,
  kMask = 7,
  kClipStart = 8,
  kMomentRounding = 9,
};

// The x at which the standard normal distribution function is p, in (0, 1); relative error about
// 1e-15. Only additions, multiplications, divisions and square roots: IEEE arithmetic that gives
// the same bits with every C library.
double NormalQuantile(double p);

// A stream of Philox4x32-10 numbers. The seed, purpose, a, b and c select the stream, e.g. sample
// index, step and layer. Streams of one seed never overlap: block n of a stream is Philox of key
// and counter (n, purpose, h2, h3), where (key, h2, h3) is the Philox block of counter (a, b, c)
// under the seed, and both steps are bijections. A stream holds 2^34 numbers of 32 bits.
class CounterRng {
 public:
  CounterRng(uint64_t seed, RandomPurpose purpose, uint64_t a, uint32_t b = 0, uint32_t c = 0);

  uint32_t NextU32();
  uint64_t NextU64();
  // Uniform over [0, bound), without bias. bound > 0.
  uint64_t Below(uint64_t bound);
  // Uniform over [0, 1).
  double Uniform();
  // Standard normal. Uses 64 bits of the stream.
  double Normal();

  // All of it, for operations that draw many numbers at a time.
  RandomStream stream() const { return {key_, {counter_[1], counter_[2], counter_[3]}}; }

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_;
  int used_ = 4;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_RNG_COUNTER_RNG_H_
