// Rows of any floating dtype, to and from float32, on the calling thread.
#ifndef SWINFLEET_KERNELS_CPU_ROWS_H_
#define SWINFLEET_KERNELS_CPU_ROWS_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace swinfleet::cpu {

// A block of a matrix: `rows` rows of `columns` elements, each `stride` elements after the last.
struct RowBlock {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
};

// to = from, n elements, rounded to the nearest number of its dtype, of two the even one.
void ConvertElements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n);
// to += from, n elements; the sum is rounded so.
void AddElements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n);

// to (rows, columns) = from.
void WidenRows(const RowBlock& from, float* to);
// to = from (rows, columns).
void NarrowRows(const float* from, const RowBlock& to);
// sums (columns) += the sum of the rows, which are added up one after the other, by themselves.
void AddRows(const RowBlock& rows, float* sums);

}  // namespace swinfleet::cpu

#endif  // SWINFLEET_KERNELS_CPU_ROWS_H_
