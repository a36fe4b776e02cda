// Patches of a picture, gathered into rows and scattered back.
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// Calls move(pointer into rows, pointer into image, floats) for each line of each patch.
template <typename Move>
void ForEachLine(const TensorView& image, const TensorView& rows, int64_t patch_h, int64_t patch_w,
                 int64_t first_row, int threads, const Move& move) {
  const int64_t channels = image.shape[1], height = image.shape[2], width = image.shape[3];
  CHECK(height % patch_h == 0 && width % patch_w == 0) << image.shape;
  const int64_t grid_h = height / patch_h, grid_w = width / patch_w;
  const int64_t row_size = channels * patch_h * patch_w;
  CHECK(rows.shape.rank() == 2 && rows.shape[1] == row_size) << rows.shape;
  CHECK_LE(first_row + rows.shape[0], image.shape[0] * grid_h * grid_w);
  ParallelFor(threads, rows.shape[0], 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = first_row + r;
      const int64_t b = at / (grid_h * grid_w), i = at / grid_w % grid_h, j = at % grid_w;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < patch_h; ++y) {
          const int64_t line = (b * channels + c) * height + i * patch_h + y;
          move(rows.f32() + r * row_size + (c * patch_h + y) * patch_w,
               image.f32() + line * width + j * patch_w, patch_w);
        }
      }
    }
  });
}

}  // namespace

void PatchGather(const PatchGatherArgs& args, Context& context) {
  ForEachLine(args.image, args.rows, args.patch_h, args.patch_w, args.first_row, context.threads,
              [](float* row, const float* image, int64_t n) {
                std::memcpy(row, image, n * sizeof(float));
              });
}

void PatchScatter(const PatchScatterArgs& args, Context& context) {
  ForEachLine(args.image, args.rows, args.patch_h, args.patch_w, args.first_row, context.threads,
              [](const float* row, float* image, int64_t n) {
                std::memcpy(image, row, n * sizeof(float));
              });
}

}  // namespace swinfleet::cpu
