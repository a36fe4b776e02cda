#include "distributed/master_weights.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/bf16_master.h"
#include "kernels/cpu/element.h"

namespace swinfleet {
namespace {

uint16_t Bf16Of(float master) { return Bf16OfMaster(std::bit_cast<uint32_t>(master)); }

float Bf16ToFloat(uint16_t bits) { return ToFloat(std::bit_cast<hwy::bfloat16_t>(bits)); }
float F16ToFloat(uint16_t bits) { return ToFloat(std::bit_cast<hwy::float16_t>(bits)); }

void CheckSize(const TensorView& view, size_t size) {
  CHECK_EQ(static_cast<size_t>(view.NumElements()), size);
}

// values[i] = round(masters[i]); false if one of them overflowed.
template <typename Round, typename Widen>
bool RoundAll(std::span<const float> masters, uint16_t* values, const Round& round,
              const Widen& widen) {
  bool fits = true;
  for (size_t i = 0; i < masters.size(); ++i) {
    values[i] = round(masters[i]);
    fits &= std::isfinite(widen(values[i])) || !std::isfinite(masters[i]);
  }
  return fits;
}

}  // namespace

DType MasterDType(DType weights) {
  CHECK(weights == DType::kBF16 || weights == DType::kF16) << NameOf(weights);
  return weights == DType::kBF16 ? DType::kU16 : DType::kF32;
}

bool RoundWeights(std::span<const float> masters, const TensorView& values) {
  CheckSize(values, masters.size());
  if (values.dtype == DType::kF32) {
    std::ranges::copy(masters, values.f32());
    return true;
  }
  if (values.dtype == DType::kBF16) return RoundAll(masters, values.u16(), Bf16Of, Bf16ToFloat);
  CHECK(values.dtype == DType::kF16) << NameOf(values.dtype);
  const auto round = [](float master) {
    return std::bit_cast<uint16_t>(FromFloat<hwy::float16_t>(master));
  };
  return RoundAll(masters, values.u16(), round, F16ToFloat);
}

void KeepMasters(std::span<const float> masters, const TensorView& kept) {
  CheckSize(kept, masters.size());
  if (kept.dtype == DType::kF32) {
    std::ranges::copy(masters, kept.f32());
    return;
  }
  uint16_t* remainders = kept.u16();
  for (size_t i = 0; i < masters.size(); ++i) {
    remainders[i] = RemainderOfMaster(std::bit_cast<uint32_t>(masters[i]));
  }
}

void RestoreMasters(const TensorView& values, const TensorView& kept, std::span<float> masters) {
  CheckSize(values, masters.size());
  CheckSize(kept, masters.size());
  if (kept.dtype == DType::kF32) {
    std::copy_n(kept.f32(), masters.size(), masters.begin());
    return;
  }
  const uint16_t* bf16 = values.u16();
  const uint16_t* remainders = kept.u16();
  for (size_t i = 0; i < masters.size(); ++i) {
    masters[i] = std::bit_cast<float>(JoinMaster(bf16[i], remainders[i]));
  }
}

void WidenWeights(const TensorView& values, std::span<float> out) {
  CheckSize(values, out.size());
  if (values.dtype == DType::kF32) {
    std::copy_n(values.f32(), out.size(), out.begin());
    return;
  }
  const auto widen = values.dtype == DType::kBF16 ? Bf16ToFloat : F16ToFloat;
  std::transform(values.u16(), values.u16() + out.size(), out.begin(), widen);
}

}  // namespace swinfleet
