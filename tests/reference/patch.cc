#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

int64_t Ceil(int64_t size, int64_t patch) { return (size + patch - 1) / patch; }

int64_t Elements(const Picture& p, int64_t patch_h, int64_t patch_w, int64_t patch_t) {
  return p.batch * Ceil(p.frames, patch_t) * Ceil(p.height, patch_h) * Ceil(p.width, patch_w) *
         p.channels * patch_t * patch_h * patch_w;
}

// The pixel of an element of the rows, or -1 in the padding.
int64_t PixelOf(const Picture& p, int64_t patch_h, int64_t patch_w, int64_t patch_t,
                int64_t element) {
  // Element = ((((((b, i), j), k), c), t, y), x), the last one fastest.
  const auto take = [&element](int64_t size) {
    const int64_t digit = element % size;
    element /= size;
    return digit;
  };
  const int64_t x = take(patch_w), y = take(patch_h), t = take(patch_t), c = take(p.channels);
  const int64_t k = take(Ceil(p.width, patch_w)), j = take(Ceil(p.height, patch_h));
  const int64_t i = take(Ceil(p.frames, patch_t)), b = element;
  const int64_t frame = i * patch_t + t, row = j * patch_h + y, column = k * patch_w + x;
  if (frame >= p.frames || row >= p.height || column >= p.width) return -1;
  return (((b * p.channels + c) * p.frames + frame) * p.height + row) * p.width + column;
}

}  // namespace

Vec PatchGather(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& image,
                int64_t patch_t) {
  Vec rows(Elements(p, patch_h, patch_w, patch_t));
  for (size_t e = 0; e < rows.size(); ++e) {
    const int64_t pixel = PixelOf(p, patch_h, patch_w, patch_t, e);
    if (pixel >= 0) rows[e] = image.at(pixel);
  }
  return rows;
}

Vec PatchScatter(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& rows,
                 int64_t patch_t) {
  Vec image(p.batch * p.channels * p.frames * p.height * p.width);
  for (size_t e = 0; e < rows.size(); ++e) {
    const int64_t pixel = PixelOf(p, patch_h, patch_w, patch_t, e);
    if (pixel >= 0) image.at(pixel) = rows[e];
  }
  return image;
}

}  // namespace swinfleet::reference
