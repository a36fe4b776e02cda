// How many kernels the CUDA backend starts for a call of an operation: on a GPU each costs time of
// its own, however little it does. The dry run counts them; needs no CUDA.
#ifndef SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_
#define SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_

#include <cstdint>

#include "kernels/cuda/scratch.h"
#include "kernels/ops.h"

namespace swinfleet::cuda {

// Of a call that has something to do. A product of cuBLASLt and a convolution of cuDNN count as
// one kernel: they may be more where the library cuts a long sum into parts, or first brings
// tensors into another layout.
template <typename Args>
int64_t LaunchesOf(const Args& /*args*/) {
  return 1;
}

// The product; its bias may have to be copied first, its gradient is added to.
inline int64_t LaunchesOf(const LinearForwardArgs& args) {
  return args.bias.empty() || TakesBias(args) ? 1 : 2;
}
inline int64_t LaunchesOf(const LinearBackwardWeightArgs& args) {
  return args.dbias.empty() ? 1 : 2;
}

// Gradients of queries, of keys, and the former put in their place, or all by one kernel; of the
// biases, whose parts are added at the end; of the scale.
inline int64_t LaunchesOf(const WindowAttentionBackwardArgs& args) {
  const bool one = AttentionIsOneKernel(args.geometry, args.qkv.dtype);
  const int64_t of_bias = args.bias.empty() ? 0 : one ? 1 : 2;
  return (one ? 1 : 3) + of_bias + (args.logit_scale.empty() ? 0 : 1);
}

// A picture alone has no partner.
inline int64_t LaunchesOf(const MixPicturesArgs& args) { return args.image.shape[0] > 1 ? 1 : 0; }

// What the sigmoid is of is computed again.
inline int64_t LaunchesOf(const PositionTableBackwardArgs& /*args*/) { return 2; }

// How many times some pictures are taken.
template <typename Args>
int64_t PictureChunks(const Args& args) {
  const int64_t at_once = PicturesAtOnce(args);
  return (args.image.shape[0] + at_once - 1) / at_once;
}
// Filters are brought into the convolution's layout, and so are pictures; the bias is added.
inline int64_t LaunchesOf(const PatchEmbeddingForwardArgs& args) {
  return 1 + 3 * PictureChunks(args);
}
// Pictures and gradients of tokens are brought into the convolution's layout, and its result is
// added; gradients of pictures need the filters, the convolution and a way back. The bias's sums
// are made in parts.
inline int64_t LaunchesOf(const PatchEmbeddingBackwardArgs& args) {
  const bool of_pictures = !args.dimage.empty();
  return (of_pictures ? 1 : 0) + (of_pictures ? 6 : 4) * PictureChunks(args) + 2;
}

// Sums of blocks are added at the end; for gamma and for beta.
inline int64_t LaunchesOf(const BiasScatterArgs& /*args*/) { return 2; }
inline int64_t LaunchesOf(const MaskTokensBackwardArgs& /*args*/) { return 2; }
inline int64_t LaunchesOf(const LayerNormBackwardArgs& /*args*/) { return 3; }
inline int64_t LaunchesOf(const GeluBackwardArgs& args) { return args.dbias.empty() ? 1 : 2; }

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_
