// Mixup and cutmix: pairs of pictures, pixel by pixel.
#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// What a picture becomes, in a row of its pixels.
struct RowMix {
  RowMix(const MixPicturesArgs& args, int64_t picture, int64_t row)
      : own(args.weight.f32()[2 * picture]), partner(args.weight.f32()[2 * picture + 1]) {
    const auto* box = static_cast<const int32_t*>(args.box.data) + 4 * picture;
    if (row < box[0] || row >= box[1]) return;
    left = box[2];
    right = box[3];
  }
  float Of(int32_t column, float mine, float other) const {
    if (column >= left && column < right) return other;
    // Not even a zero changes its sign where nothing is mixed.
    return partner == 0 ? mine : mine * own + other * partner;
  }
  const float own, partner;
  int32_t left = 0, right = 0;
};

}  // namespace

void MixPictures(const MixPicturesArgs& args, Context& context) {
  CheckMix(args);
  const Shape& shape = args.image.shape;
  const int64_t batch = shape[0], height = shape[2], rows = shape[1] * height;
  const auto width = static_cast<int32_t>(shape[3]);
  ParallelFor(context.threads, batch / 2 * rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t first = at / rows, second = batch - 1 - first, row = at % rows;
      const RowMix of_first(args, first, row % height), of_second(args, second, row % height);
      float* one = args.image.f32() + (first * rows + row) * width;
      float* two = args.image.f32() + (second * rows + row) * width;
      for (int32_t x = 0; x < width; ++x) {
        const float a = one[x], b = two[x];
        one[x] = of_first.Of(x, a, b);
        two[x] = of_second.Of(x, b, a);
      }
    }
  });
}

}  // namespace swinfleet::cpu
