// Tokens in chunks that stay in the caches.
#ifndef SWINFLEET_KERNELS_CHUNKS_H_
#define SWINFLEET_KERNELS_CHUNKS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/tensor.h"

namespace swinfleet {

// Rows of a temporary of `width` elements that are worked on at once. On the CPU about 2 MiB of
// floats, which the second-level caches of a few cores hold together with what the row needs beside
// it, and 512 rows at least: a product of fewer waits for the weights of wide layers. Of 16 bits
// twice the bytes: the products of a chunk take half the time, what they do once a chunk does not.
// A GPU's cache holds more, and it takes the starts of kernels ill: 32 MiB.
inline int64_t ChunkRows(int64_t width, DType dtype, Device device) {
  if (device == Device::kCuda) {
    constexpr int64_t kBytes = 32 << 20;
    return std::max<int64_t>(kBytes / static_cast<int64_t>(SizeOf(dtype)) / width, 256);
  }
  const int64_t elements = (dtype == DType::kF32 ? 512 : 2048) * int64_t{1024};
  return std::clamp<int64_t>(elements / width, 512, 4096);
}

// Rows of a chunk: whole multiples of what products work on at once. Fewer rows never make a larger
// chunk: the last batch of an evaluation fits where the others do.
inline int64_t WholeChunk(int64_t chunk) {
  constexpr int64_t kMultiple = 64;
  return std::max(kMultiple, chunk / kMultiple * kMultiple);
}

// Calls body(first_row, rows) over `total` rows, up to `chunk` at a time, with a shorter one at the
// end.
template <typename Body>
void ForEachChunk(int64_t total, int64_t chunk, const Body& body) {
  const int64_t size = WholeChunk(chunk);
  for (int64_t row = 0; row < total; row += size) body(row, std::min(size, total - row));
}

// The same chunks, the last one first. Products fetch rows ahead, also those after the last row of
// a chunk: a thread whose rows these are then has to take them out of another one's cache, which is
// slow where the two have no cache in common. From the end on, the rows after a chunk are done
// with.
template <typename Body>
void ForEachChunkFromEnd(int64_t total, int64_t chunk, const Body& body) {
  const int64_t size = WholeChunk(chunk);
  for (int64_t end = total; end > 0;) {
    const int64_t row = (end - 1) / size * size;
    body(row, end - row);
    end = row;
  }
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CHUNKS_H_
