// Convolutions that cuDNN makes, of channels-last tensors.
#ifndef SWINFLEET_KERNELS_CUDA_CONVOLUTION_H_
#define SWINFLEET_KERNELS_CUDA_CONVOLUTION_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

namespace swinfleet::cuda {

// A convolution whose stride is its kernel, without padding, over maps of whole kernels. Sums are
// float32. Letters: B pictures, C channels and K filters.
struct Convolution {
  DType dtype = DType::kF32;  // of all its tensors
  // Float32: whether tensor cores may multiply, which see 10 bits after the point.
  bool tf32 = false;
  int spatial = 2;  // dimensions: 2, or 3 for clips; what follows begins with the depth of clips
  std::array<int64_t, 3> map = {}, kernel = {};
  int64_t batch = 0, channels = 0, filters = 0;

  auto operator<=>(const Convolution&) const = default;
};

// What cuDNN may take beside the tensors.
struct ConvolutionWorkspace {
  void* data = nullptr;
  size_t bytes = 0;
};

// y (B, map / kernel, K) from x (B, map, C) and w (K, kernel, C). Overwrites y; x, w and y start at
// multiples of 16 bytes, here and below. All three take the fastest algorithm of the library's
// whose bits are the same in every run and that the workspace suffices for; where there is none,
// Error says for which convolution. The library is asked once for each convolution and size of the
// workspace.
void ConvolutionForward(const Convolution& c, const void* x, const void* w, void* y,
                        const ConvolutionWorkspace& workspace, const Context& context);
// dw from x and dy.
void ConvolutionBackwardFilters(const Convolution& c, const void* x, const void* dy, void* dw,
                                const ConvolutionWorkspace& workspace, const Context& context);
// dx from dy and w.
void ConvolutionBackwardInput(const Convolution& c, const void* dy, const void* w, void* dx,
                              const ConvolutionWorkspace& workspace, const Context& context);

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_CONVOLUTION_H_
