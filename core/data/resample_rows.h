// The two loops of resampling, on vectors: sums of pixels with weights in units of 2^-22, rounded
// to 8 bits. Exact integers, so that every instruction set gives the same bits.
#ifndef SWINFLEET_CORE_DATA_RESAMPLE_ROWS_H_
#define SWINFLEET_CORE_DATA_RESAMPLE_ROWS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace swinfleet {

struct ResampleWeights;

// Rows of 8 bit pixels that lie `stride` bytes apart.
struct PixelRows {
  const uint8_t* first = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
};

// Each row resampled along itself: `out` has the rows one behind the other, of
// weights.first.size() pixels. 1 to 4 channels. Nothing but the pixels that have weights is read.
// Reuses the vector.
void ResampleAlongRows(const PixelRows& in, int64_t channels, const ResampleWeights& weights,
                       std::vector<uint8_t>* packed, uint8_t* out);

// One row of `bytes`: the sum over the rows of `in`, the k-th times weight[k] (one a row).
void SumRows(const PixelRows& in, std::span<const int32_t> weight, int64_t bytes, uint8_t* out);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_RESAMPLE_ROWS_H_
