#include "kernels/all_finite.h"

#include <atomic>
#include <bit>
#include <cstdint>

#include "kernels/checks.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet {
namespace {

// Values that a thread looks through, at least.
constexpr int64_t kGrain = 2048;

// Whether no value has all the bits of `exponent`, as what is infinite or NaN does. There is no way
// out of the loop and no bool to carry, since both would keep the compiler from using vectors.
template <typename Bits, typename Value>
bool NoneHas(const Value* values, int64_t n, Bits exponent) {
  Bits found = 0;
  for (int64_t i = 0; i < n; ++i) {
    found |= static_cast<Bits>((std::bit_cast<Bits>(values[i]) & exponent) == exponent);
  }
  return found == 0;
}

bool PartIsFinite(const TensorView& values, int64_t begin, int64_t n) {
  if (values.dtype == DType::kF32) return NoneHas<uint32_t>(values.f32() + begin, n, 0x7f800000);
  return NoneHas<uint16_t>(values.u16() + begin, n, values.dtype == DType::kBF16 ? 0x7f80 : 0x7c00);
}

}  // namespace

bool CpuAllFinite(const TensorView& values, int threads) {
  CheckFloating(values.dtype, {});
  std::atomic<bool> finite = true;
  ParallelFor(threads, values.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    if (!PartIsFinite(values, begin, end - begin)) finite.store(false, std::memory_order_relaxed);
  });
  return finite;
}

}  // namespace swinfleet
