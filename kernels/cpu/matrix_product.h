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
  // Memory holds the weights as PackWeights leaves them; their stride counts for nothing.
  bool weights_packed = false;
  // Elements from one row in memory to the next.
  int64_t src_stride = 0;
  int64_t weights_stride = 0;
  int64_t dst_stride = 0;
  bool accumulate = false;
  bool bias = false;
  DType bias_dtype = DType::kF32;

  auto Tie() const {
    return std::tie(rows, columns, inner, dtype, dst_dtype, src_transposed, weights_transposed,
                    weights_packed, src_stride, weights_stride, dst_stride, accumulate, bias,
                    bias_dtype);
  }
  bool operator<(const MatrixProduct& other) const { return Tie() < other.Tie(); }
};

struct MatrixOperands {
  const void* src = nullptr;
  const void* weights = nullptr;
  const void* bias = nullptr;  // null without one
  void* dst = nullptr;
};

// All weights (inner, columns) of a product, which plain memory holds as (columns, inner).
struct WeightsForm {
  int64_t columns = 0;
  int64_t inner = 0;
  DType dtype = DType::kF32;
};

// Bytes of these weights in the order that products read them fastest in, whatever their rows; 0
// where that is the plain one.
size_t PackedBytes(const WeightsForm& form);

// packed (PackedBytes, aligned to 64) = the plain weights in that order.
void PackWeights(const WeightsForm& form, const void* plain, void* packed);

// Bytes of scratch that RunProduct needs.
size_t ProductScratchBytes(const MatrixProduct& product);

// On the calling thread alone. `scratch` is aligned to 64 bytes.
void RunProduct(const MatrixProduct& product, const MatrixOperands& operands, void* scratch);

}  // namespace swinfleet::cpu

#endif  // SWINFLEET_KERNELS_CPU_MATRIX_PRODUCT_H_
