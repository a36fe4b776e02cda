// How many kernels the CUDA backend starts for a call of an operation: on a GPU each costs time of
// its own, however little it does. The dry run counts them; needs no CUDA.
#ifndef SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_
#define SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_

#include <cstdint>

#include "kernels/cuda/scratch.h"
#include "kernels/ops.h"

namespace swinfleet::cuda {

// Of a call that has something to do. A product of cuBLASLt counts as one kernel: it may be two
// where the library cuts a long sum into parts.
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

// Sums of blocks are added at the end; for gamma and for beta.
inline int64_t LaunchesOf(const BiasScatterArgs& /*args*/) { return 2; }
inline int64_t LaunchesOf(const LayerNormBackwardArgs& /*args*/) { return 3; }
inline int64_t LaunchesOf(const GeluBackwardArgs& args) { return args.dbias.empty() ? 1 : 2; }

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_LAUNCH_COUNTS_H_
