#include <array>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

// A Python slice of a sequence of `size`: negative ends count from the end, and -0 is 0.
struct Slice {
  int64_t begin;
  int64_t end;
};

int64_t FromPython(int64_t index, int64_t size) { return index < 0 ? size + index : index; }

// (slice(0, -window), slice(-window, -shift), slice(-shift, None)).
std::array<Slice, 3> Slices(int64_t size, int64_t window, int64_t shift) {
  return {Slice{0, FromPython(-window, size)},
          Slice{FromPython(-window, size), FromPython(-shift, size)},
          Slice{FromPython(-shift, size), size}};
}

int64_t Modulo(int64_t value, int64_t size) { return ((value % size) + size) % size; }

}  // namespace

Vec Roll(const Windows& w, int64_t channels, const Vec& x, int64_t by_h, int64_t by_w) {
  Vec y(x.size());
  for (int64_t b = 0; b < w.batch; ++b) {
    for (int64_t i = 0; i < w.height; ++i) {
      for (int64_t j = 0; j < w.width; ++j) {
        const int64_t to_i = Modulo(i + by_h, w.height);
        const int64_t to_j = Modulo(j + by_w, w.width);
        for (int64_t c = 0; c < channels; ++c) {
          y.at(((b * w.height + to_i) * w.width + to_j) * channels + c) =
              x.at(((b * w.height + i) * w.width + j) * channels + c);
        }
      }
    }
  }
  return y;
}

// Visits the elements of the permutation (B, rows, window_h, columns, window_w, C) -> (B, rows,
// columns, window_h, window_w, C) in the order of the result.
template <typename Visit>
static void ForEachPermuted(const Windows& w, int64_t channels, const Visit& visit) {
  const int64_t rows = w.height / w.window_h;
  const int64_t columns = w.width / w.window_w;
  int64_t at = 0;
  for (int64_t b = 0; b < w.batch; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t col = 0; col < columns; ++col) {
        for (int64_t i = 0; i < w.window_h; ++i) {
          for (int64_t j = 0; j < w.window_w; ++j) {
            for (int64_t c = 0; c < channels; ++c) {
              const int64_t image_row = r * w.window_h + i;
              const int64_t image_column = col * w.window_w + j;
              visit(((b * w.height + image_row) * w.width + image_column) * channels + c, at++);
            }
          }
        }
      }
    }
  }
}

Vec WindowPartition(const Windows& w, int64_t channels, const Vec& x) {
  Vec windows(x.size());
  ForEachPermuted(w, channels,
                  [&](int64_t image, int64_t window) { windows.at(window) = x.at(image); });
  return windows;
}

Vec WindowReverse(const Windows& w, int64_t channels, const Vec& windows) {
  Vec x(windows.size());
  ForEachPermuted(w, channels,
                  [&](int64_t image, int64_t window) { x.at(image) = windows.at(window); });
  return x;
}

Vec AttentionMask(const Windows& w) {
  Windows one = w;
  one.batch = 1;
  Vec image(w.height * w.width);
  double count = 0;
  for (const Slice& h : Slices(w.height, w.window_h, w.shift_h)) {
    for (const Slice& v : Slices(w.width, w.window_w, w.shift_w)) {
      for (int64_t i = h.begin; i < h.end; ++i) {
        for (int64_t j = v.begin; j < v.end; ++j) image.at(i * w.width + j) = count;
      }
      count += 1;
    }
  }
  const Vec regions = WindowPartition(one, 1, image);
  const int64_t n = w.Tokens();
  Vec mask(w.PerPicture() * n * n);
  for (int64_t window = 0; window < w.PerPicture(); ++window) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const bool same = regions.at(window * n + i) == regions.at(window * n + j);
        mask[(window * n + i) * n + j] = same ? 0 : -100;
      }
    }
  }
  return mask;
}

}  // namespace swinfleet::reference
