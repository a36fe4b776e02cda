// Tokens in chunks that stay in the caches.
#ifndef SWINFLEET_CORE_NN_CHUNKS_H_
#define SWINFLEET_CORE_NN_CHUNKS_H_

#include <algorithm>
#include <cstdint>

namespace swinfleet {

// Rows of a temporary of `width` floats that are worked on at once: about 2 MiB of it, which the
// second-level caches of a few cores hold together with what the row needs beside it.
inline int64_t ChunkRows(int64_t width) {
  constexpr int64_t kFloats = 512 * 1024;
  return std::clamp<int64_t>(kFloats / width, 256, 4096);
}

// Calls body(first_row, rows) over `total` rows, `chunk` at a time.
template <typename Body>
void ForEachChunk(int64_t total, int64_t chunk, const Body& body) {
  for (int64_t row = 0; row < total; row += chunk) body(row, std::min(chunk, total - row));
}

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_CHUNKS_H_
