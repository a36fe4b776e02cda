// Checks that several operations make of their arguments.
#ifndef SWINFLEET_KERNELS_CHECKS_H_
#define SWINFLEET_KERNELS_CHECKS_H_

#include <initializer_list>

#include "kernels/ops.h"
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

inline void CheckMix(const MixPicturesArgs& args) {
  const Shape& shape = args.image.shape;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(args.weight.shape == Shape({shape[0], 2}) && args.box.shape == Shape({shape[0], 4}))
      << args.weight.shape << " and " << args.box.shape << " for " << shape;
  CheckDtype(DType::kF32, {args.image, args.weight});
  CheckDtype(DType::kI32, {args.box});
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CHECKS_H_
