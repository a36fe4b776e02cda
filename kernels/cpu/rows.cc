#include "kernels/cpu/rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/element.h"
#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

template <bool kAdd, typename From, typename To>
void MoveVectors(const From* from, To* to, int64_t n) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(D()));
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = std::min(lanes, n - i);
    V value = LoadPart(from + i, count);
    if constexpr (kAdd) value = hn::Add(LoadPart(to + i, count), value);
    StorePart(value, to + i, count);
  }
}

template <bool kAdd>
void Move(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n) {
  DispatchDType(from_dtype, [&](auto from_tag) {
    DispatchDType(to_dtype, [&](auto to_tag) {
      MoveVectors<kAdd>(static_cast<const decltype(from_tag)*>(from),
                        static_cast<decltype(to_tag)*>(to), n);
    });
  });
}

void Convert(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n) {
  Move<false>(from, from_dtype, to, to_dtype, n);
}

void AddTo(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n) {
  Move<true>(from, from_dtype, to, to_dtype, n);
}

// Of kVectors vectors of columns; `lanes` of the last one count.
template <int kVectors, typename T>
HWY_INLINE void SumVectors(const T* from, int64_t rows, int64_t stride, int64_t lanes,
                           float* sums) {
  const D d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const auto part = [&](int v) { return v + 1 == kVectors ? lanes : kLanes; };
  V sum[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
  for (int64_t row = 0; row < rows; ++row, from += stride) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = hn::Add(sum[v], LoadPart(from + v * kLanes, part(v)));
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    float* to = sums + v * kLanes;
    StorePart(hn::Add(LoadPart(to, part(v)), sum[v]), to, part(v));
  }
}

void SumRows(const RowBlock& block, float* sums) {
  constexpr int64_t kLanes = hn::MaxLanes(D()), kWide = 4;
  DispatchDType(block.dtype, [&](auto tag) {
    const auto* from = static_cast<const decltype(tag)*>(block.data);
    int64_t at = 0;
    for (; at + kWide * kLanes <= block.columns; at += kWide * kLanes) {
      SumVectors<kWide>(from + at, block.rows, block.stride, kLanes, sums + at);
    }
    for (; at < block.columns; at += kLanes) {
      SumVectors<1>(from + at, block.rows, block.stride, std::min(kLanes, block.columns - at),
                    sums + at);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(Convert);
HWY_EXPORT(AddTo);
HWY_EXPORT(SumRows);

char* Row(const RowBlock& block, int64_t row) {
  return static_cast<char*>(block.data) +
         row * block.stride * static_cast<int64_t>(SizeOf(block.dtype));
}

}  // namespace

void ConvertElements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Convert)(from, from_dtype, to, to_dtype, n);
}

void AddElements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n) {
  HWY_DYNAMIC_DISPATCH(AddTo)(from, from_dtype, to, to_dtype, n);
}

void WidenRows(const RowBlock& from, float* to) {
  for (int64_t row = 0; row < from.rows; ++row) {
    ConvertElements(Row(from, row), from.dtype, to + row * from.columns, DType::kF32, from.columns);
  }
}

void NarrowRows(const float* from, const RowBlock& to) {
  for (int64_t row = 0; row < to.rows; ++row) {
    ConvertElements(from + row * to.columns, DType::kF32, Row(to, row), to.dtype, to.columns);
  }
}

void AddRows(const RowBlock& rows, float* sums) { HWY_DYNAMIC_DISPATCH(SumRows)(rows, sums); }

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
