// Vectors of floats that may be incomplete: the part of a row beyond the last whole vector goes
// through a buffer of zeros, so that no byte outside of the row is touched. Included once for each
// target.
#if defined(SWINFLEET_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#undef SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#else
#define SWINFLEET_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <cstring>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V LoadPart(const float* p, int64_t count) {
  const D d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, p);
  HWY_ALIGN float buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, p, count * sizeof(float));
  return hn::Load(d, buffer);
}

HWY_INLINE void StorePart(V v, float* p, int64_t count) {
  const D d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, p);
    return;
  }
  HWY_ALIGN float buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, count * sizeof(float));
}

HWY_INLINE float Total(V v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
