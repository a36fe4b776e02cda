// Products of matrices in plain row-major memory, each made by one thread: oneDNN's, where it has
// instructions for the dtype, else in float32 on converted blocks.
#ifndef SWINFLEET_KERNELS_CPU_MATRIX_PRODUCT_H_
#define SWINFLEET_KERNELS_CPU_MATRIX_PRODUCT_H_

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "kernels/tensor.h"

namespace swinfleet::cpu {

// dst (rows, columns) = src (rows, inner) * weights (inner, columns) [+ bias (columns)] [+ dst].
struct MatrixProduct {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  // Of src and weights.
  DType dtype = DType::kF32;
  DType dst_dtype = DType::kF32;
  // Memory holds (inner, rows) and (columns, inner).
  bool src_transposed = false;
  bool weights_transposed = false;
  // Elements from one row in memory to the next.
  int64_t src_stride = 0;
  int64_t weights_stride = 0;
  int64_t dst_stride = 0;
  bool accumulate = false;
  bool bias = false;
  DType bias_dtype = DType::kF32;

  auto Tie() const {
    return std::tie(rows, columns, inner, dtype, dst_dtype, src_transposed, weights_transposed,
                    src_stride, weights_stride, dst_stride, accumulate, bias, bias_dtype);
  }
  bool operator<(const MatrixProduct& other) const { return Tie() < other.Tie(); }
};

struct MatrixOperands {
  const void* src = nullptr;
  const void* weights = nullptr;
  const void* bias = nullptr;  // null without one
  void* dst = nullptr;
};

// Bytes of scratch that RunProduct needs.
size_t ProductScratchBytes(const MatrixProduct& product);

// On the calling thread alone. `scratch` is aligned to 64 bytes.
void RunProduct(const MatrixProduct& product, const MatrixOperands& operands, void* scratch);

}  // namespace swinfleet::cpu

#endif  // SWINFLEET_KERNELS_CPU_MATRIX_PRODUCT_H_
