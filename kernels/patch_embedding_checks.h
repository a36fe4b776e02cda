// What the patch embedding demands of its arguments, on every device.
#ifndef SWINFLEET_KERNELS_PATCH_EMBEDDING_CHECKS_H_
#define SWINFLEET_KERNELS_PATCH_EMBEDDING_CHECKS_H_

#include "kernels/checks.h"
#include "kernels/ops.h"

namespace swinfleet {

// `tokens` and `bias`, or their gradients, of an image by filters.
inline void CheckPatchEmbedding(const TensorView& image, const TensorView& weight,
                                const TensorView& tokens, const TensorView& bias) {
  CHECK(image.shape.rank() == 4 || image.shape.rank() == 5) << image.shape;
  CHECK(weight.shape.rank() == image.shape.rank() && weight.shape[1] == image.shape[1])
      << image.shape << " by filters of " << weight.shape;
  int64_t rows = image.shape[0];
  for (int i = 2; i < image.shape.rank(); ++i) {
    CHECK_GT(weight.shape[i], 0) << weight.shape;
    rows *= (image.shape[i] + weight.shape[i] - 1) / weight.shape[i];
  }
  CHECK(tokens.shape == Shape({rows, weight.shape[0]}))
      << tokens.shape << " of " << image.shape << " by filters of " << weight.shape;
  CHECK_EQ(bias.NumElements(), weight.shape[0]) << bias.shape;
  CheckDtype(DType::kF32, {image});
}

inline void CheckArgs(const PatchEmbeddingForwardArgs& args) {
  CheckPatchEmbedding(args.image, args.weight, args.y, args.bias);
  CheckFloating(args.y.dtype, {args.weight});
  if (args.bias.dtype != DType::kF32) CheckFloating(args.y.dtype, {args.bias});
}

inline void CheckArgs(const PatchEmbeddingBackwardArgs& args) {
  CheckPatchEmbedding(args.image, args.dweight, args.dy, args.dbias);
  CheckFloating(args.dy.dtype, {args.weight});
  CheckDtype(DType::kF32, {args.dweight, args.dbias, args.dimage});
  CHECK(args.weight.shape == args.dweight.shape)
      << args.weight.shape << " and " << args.dweight.shape;
  CHECK(args.dimage.empty() || args.dimage.shape == args.image.shape)
      << args.dimage.shape << " and " << args.image.shape;
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_PATCH_EMBEDDING_CHECKS_H_
