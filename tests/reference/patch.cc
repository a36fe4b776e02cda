#include "tests/reference/reference.h"

namespace swinfleet::reference {

// Visits (pixel of the image, element of the rows) of every patch.
template <typename Visit>
static void ForEachPatchElement(const Picture& p, int64_t patch_h, int64_t patch_w,
                                const Visit& visit) {
  int64_t at = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < p.height / patch_h; ++i) {
      for (int64_t j = 0; j < p.width / patch_w; ++j) {
        for (int64_t c = 0; c < p.channels; ++c) {
          for (int64_t y = 0; y < patch_h; ++y) {
            for (int64_t x = 0; x < patch_w; ++x) {
              const int64_t row = i * patch_h + y;
              const int64_t column = j * patch_w + x;
              visit(((b * p.channels + c) * p.height + row) * p.width + column, at++);
            }
          }
        }
      }
    }
  }
}

Vec PatchGather(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& image) {
  Vec rows(image.size());
  ForEachPatchElement(p, patch_h, patch_w,
                      [&](int64_t pixel, int64_t element) { rows.at(element) = image.at(pixel); });
  return rows;
}

Vec PatchScatter(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& rows) {
  Vec image(rows.size());
  ForEachPatchElement(p, patch_h, patch_w,
                      [&](int64_t pixel, int64_t element) { image.at(pixel) = rows.at(element); });
  return image;
}

}  // namespace swinfleet::reference
