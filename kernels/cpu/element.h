// The floating types that activations and parameters come in, and their conversions one by one.
// kernels/cpu/vector-inl.h converts whole vectors, to the same bits.
#ifndef SWINFLEET_KERNELS_CPU_ELEMENT_H_
#define SWINFLEET_KERNELS_CPU_ELEMENT_H_

#include <glog/logging.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include <hwy/base.h>

#include "kernels/tensor.h"

namespace swinfleet {

// The dtype whose elements are T: float, hwy::bfloat16_t or hwy::float16_t.
template <typename T>
constexpr DType DTypeOf() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, hwy::bfloat16_t> ||
                std::is_same_v<T, hwy::float16_t>);
  if (std::is_same_v<T, float>) return DType::kF32;
  return std::is_same_v<T, hwy::bfloat16_t> ? DType::kBF16 : DType::kF16;
}

// The elements of a tensor that is known to have this type.
template <typename T>
T* Elements(const TensorView& view) {
  DCHECK(view.empty() || view.dtype == DTypeOf<T>()) << NameOf(view.dtype);
  return static_cast<T*>(view.data);
}

// Calls body(T()) with the element type of a floating dtype, as in
//   DispatchDType(x.dtype, [&](auto tag) { Kernel<decltype(tag)>(...); });
template <typename Body>
auto DispatchDType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float());
    case DType::kBF16:
      return body(hwy::bfloat16_t());
    case DType::kF16:
      return body(hwy::float16_t());
    case DType::kI32:
    case DType::kU16:
      break;
  }
  LOG(FATAL) << NameOf(dtype) << " where a floating type is needed";
}

inline float ToFloat(float x) { return x; }

inline float ToFloat(hwy::bfloat16_t x) {
  return std::bit_cast<float>(uint32_t{std::bit_cast<uint16_t>(x)} << 16);
}

inline float ToFloat(hwy::float16_t x) {
  const uint32_t bits = std::bit_cast<uint16_t>(x);
  const uint32_t sign = (bits & 0x8000) << 16;
  const uint32_t exponent = bits & 0x7c00;
  uint32_t magnitude = (bits & 0x7fff) << 13;
  if (exponent == 0) {
    // Subnormal: a multiple of 2^-24.
    return std::bit_cast<float>(
        std::bit_cast<uint32_t>(static_cast<float>(bits & 0x3ff) * 0x1p-24f) | sign);
  }
  // The biases differ by 112; infinities and NaN go from exponent 31 to 255.
  magnitude += (exponent == 0x7c00 ? 224u : 112u) << 23;
  return std::bit_cast<float>(magnitude | sign);
}

// The nearest T, to even in the middle. What is too large becomes infinite, NaN stays NaN.
template <typename T>
T FromFloat(float x);

template <>
inline float FromFloat<float>(float x) {
  return x;
}

template <>
inline hwy::bfloat16_t FromFloat<hwy::bfloat16_t>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  const uint32_t rounded = nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<hwy::bfloat16_t>(static_cast<uint16_t>(rounded >> 16));
}

template <>
inline hwy::float16_t FromFloat<hwy::float16_t>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | (magnitude >> 13 & 0x3ff);
  } else if (magnitude >= 0x47800000) {
    half = 0x7c00;  // 2^16 or more
  } else if (magnitude < 0x38800000) {
    // Below 2^-14: the last bit of 0.5 counts 2^-24, the unit of subnormal numbers, so that the
    // addition rounds.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) -
           std::bit_cast<uint32_t>(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  }
  return std::bit_cast<hwy::float16_t>(static_cast<uint16_t>(half | (bits >> 16 & 0x8000)));
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CPU_ELEMENT_H_
