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

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(Convert);
HWY_EXPORT(AddTo);

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

void AddRows(const RowBlock& rows, float* sums) {
  for (int64_t row = 0; row < rows.rows; ++row) {
    AddElements(Row(rows, row), rows.dtype, sums, DType::kF32, rows.columns);
  }
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
