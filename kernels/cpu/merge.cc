// Patch merging's neighbours, gathered into rows and scattered back.
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// Calls move(place in rows, place in x, bytes) for each of the four neighbours of each row; the
// place in x is null outside of the map.
template <typename Move>
void ForEachNeighbour(const TensorView& x, const TensorView& rows, int64_t first_row, int threads,
                      const Move& move) {
  CHECK_EQ(x.shape.rank(), 4);
  const int64_t height = x.shape[1], width = x.shape[2], channels = x.shape[3];
  const int64_t half_h = (height + 1) / 2, half_w = (width + 1) / 2;
  CHECK(rows.shape.rank() == 2 && rows.shape[1] == 4 * channels) << rows.shape;
  CHECK(first_row >= 0 && first_row + rows.shape[0] <= x.shape[0] * half_h * half_w)
      << first_row << "+" << rows.shape[0] << " of " << x.shape;
  CheckFloating(x.dtype, {rows});
  const int64_t bytes = channels * static_cast<int64_t>(SizeOf(x.dtype));
  ParallelFor(threads, rows.shape[0], 16, [&](int64_t begin, int64_t end, int) {
    const int64_t first = first_row + begin;
    int64_t b = first / (half_h * half_w), i = first / half_w % half_h, j = first % half_w;
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t n = 0; n < 4; ++n) {
        const int64_t row = 2 * i + n % 2, column = 2 * j + n / 2;
        const bool inside = row < height && column < width;
        char* place = static_cast<char*>(x.data) + ((b * height + row) * width + column) * bytes;
        move(static_cast<char*>(rows.data) + (r * 4 + n) * bytes, inside ? place : nullptr, bytes);
      }
      if (++j < half_w) continue;
      j = 0;
      if (++i < half_h) continue;
      i = 0;
      ++b;
    }
  });
}

}  // namespace

void MergeGather(const MergeGatherArgs& args, Context& context) {
  ForEachNeighbour(args.x, args.rows, args.first_row, context.threads,
                   [](char* row, const char* x, int64_t bytes) {
                     if (x != nullptr) {
                       std::memcpy(row, x, bytes);
                     } else {
                       std::memset(row, 0, bytes);
                     }
                   });
}

void MergeScatter(const MergeScatterArgs& args, Context& context) {
  ForEachNeighbour(args.x, args.rows, args.first_row, context.threads,
                   [](const char* row, char* x, int64_t bytes) {
                     if (x != nullptr) std::memcpy(x, row, bytes);
                   });
}

}  // namespace swinfleet::cpu
