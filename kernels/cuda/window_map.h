// Where the tokens of windows lie, on the device and in 32 bits: WindowGeometry (kernels/ops.h) has
// the definitions.
#ifndef SWINFLEET_KERNELS_CUDA_WINDOW_MAP_H_
#define SWINFLEET_KERNELS_CUDA_WINDOW_MAP_H_

#include <cstdint>

#include "kernels/cuda/launch.h"

namespace swinfleet::cuda {

// Of a map, a window, ...
struct Extent {
  uint32_t depth, height, width;
};

// The places of a run of windows are counted window by window, from the run's first.
struct WindowMap {
  uint32_t first_window;
  Extent map, window, shift, windows;

  // The token, over the batch, at a place; -1 in the padding.
  __device__ int32_t operator()(uint32_t at) const {
    const Extent e = Place(at);
    const uint32_t d = (e.depth + shift.depth) % (windows.depth * window.depth);
    const uint32_t h = (e.height + shift.height) % (windows.height * window.height);
    const uint32_t w = (e.width + shift.width) % (windows.width * window.width);
    if (d >= map.depth || h >= map.height || w >= map.width) return -1;
    const uint32_t picture = (first_window + at / Tokens()) / PerPicture();
    return static_cast<int32_t>(((picture * map.depth + d) * map.height + h) * map.width + w);
  }
  // As WindowGeometry::RegionAt.
  __device__ int32_t Region(uint32_t at) const {
    const Extent e = Place(at);
    return 9 * Band(e.depth, windows.depth, window.depth, shift.depth) +
           3 * Band(e.height, windows.height, window.height, shift.height) +
           Band(e.width, windows.width, window.width, shift.width);
  }
  __device__ uint32_t Tokens() const { return window.depth * window.height * window.width; }
  __device__ uint32_t PerPicture() const { return windows.depth * windows.height * windows.width; }
  // The window's number in its picture.
  __device__ uint32_t NumberInPicture(uint32_t index) const {
    return (first_window + index) % PerPicture();
  }

 private:
  // Coordinates in the shifted, padded map.
  __device__ Extent Place(uint32_t at) const {
    const uint32_t place = at % Tokens(), w = NumberInPicture(at / Tokens());
    return {
        w / (windows.height * windows.width) * window.depth +
            place / (window.height * window.width),
        w / windows.width % windows.height * window.height + place / window.width % window.height,
        w % windows.width * window.width + place % window.width};
  }
  __device__ static int32_t Band(uint32_t at, uint32_t count, uint32_t size, uint32_t by) {
    if (by == 0 || at < (count - 1) * size) return 0;
    return at < count * size - by ? 1 : 2;
  }
};

inline WindowMap MapOf(const WindowGeometry& g, const WindowRange& range) {
  Narrow(g.Windows() * g.WindowTokens());
  return {Narrow(range.first),
          {Narrow(g.depth), Narrow(g.height), Narrow(g.width)},
          {Narrow(g.window_d), Narrow(g.window_h), Narrow(g.window_w)},
          {Narrow(g.shift_d), Narrow(g.shift_h), Narrow(g.shift_w)},
          {Narrow(g.WindowsD()), Narrow(g.WindowsH()), Narrow(g.WindowsW())}};
}

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_WINDOW_MAP_H_
