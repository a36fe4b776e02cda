// Checks that several operations make of their arguments.
#ifndef SWINFLEET_KERNELS_CHECKS_H_
#define SWINFLEET_KERNELS_CHECKS_H_

#include <initializer_list>

#include "kernels/tensor.h"

namespace swinfleet {

// Every tensor that is not absent has this dtype.
inline void CheckDtype(DType dtype, std::initializer_list<TensorView> tensors) {
  for (const TensorView& tensor : tensors) {
    CHECK(tensor.empty() || tensor.dtype == dtype)
        << NameOf(tensor.dtype) << tensor.shape << " where " << NameOf(dtype) << " is needed";
  }
}

inline bool IsFloating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// Every tensor that is not absent has this dtype, and it is a floating one.
inline void CheckFloating(DType dtype, std::initializer_list<TensorView> tensors) {
  CHECK(IsFloating(dtype)) << NameOf(dtype) << " where a floating dtype is needed";
  CheckDtype(dtype, tensors);
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CHECKS_H_
