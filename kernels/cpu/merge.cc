// Patch merging's neighbours, gathered into rows and scattered back.
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// Calls move(pointer into rows, pointer into x, floats) for each of the four neighbours of each
// row.
template <typename Move>
void ForEachNeighbour(const TensorView& x, const TensorView& rows, int64_t first_row, int threads,
                      const Move& move) {
  const int64_t height = x.shape[1], width = x.shape[2], channels = x.shape[3];
  CHECK(height % 2 == 0 && width % 2 == 0) << x.shape;
  CHECK(rows.shape.rank() == 2 && rows.shape[1] == 4 * channels) << rows.shape;
  CHECK_LE((first_row + rows.shape[0]) * 4, x.shape[0] * height * width);
  const int64_t half_h = height / 2, half_w = width / 2;
  ParallelFor(threads, rows.shape[0], 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = first_row + r;
      const int64_t b = at / (half_h * half_w), i = at / half_w % half_h, j = at % half_w;
      for (int64_t n = 0; n < 4; ++n) {
        const int64_t row = 2 * i + n % 2, column = 2 * j + n / 2;
        move(rows.f32() + (r * 4 + n) * channels,
             x.f32() + ((b * height + row) * width + column) * channels, channels);
      }
    }
  });
}

}  // namespace

void MergeGather(const MergeGatherArgs& args, Context& context) {
  ForEachNeighbour(
      args.x, args.rows, args.first_row, context.threads,
      [](float* row, const float* x, int64_t n) { std::memcpy(row, x, n * sizeof(float)); });
}

void MergeScatter(const MergeScatterArgs& args, Context& context) {
  ForEachNeighbour(
      args.x, args.rows, args.first_row, context.threads,
      [](const float* row, float* x, int64_t n) { std::memcpy(x, row, n * sizeof(float)); });
}

}  // namespace swinfleet::cpu
