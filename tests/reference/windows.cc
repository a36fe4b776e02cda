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

// Visits all places (b, d, h, w) of a batch of maps.
template <typename Visit>
void ForEachPlace(int64_t batch, int64_t depth, int64_t height, int64_t width, const Visit& visit) {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t d = 0; d < depth; ++d) {
      for (int64_t h = 0; h < height; ++h) {
        for (int64_t w = 0; w < width; ++w) visit(b, d, h, w);
      }
    }
  }
}

// The element of (B, D, H, W, C) at a place's first channel.
int64_t At(int64_t b, int64_t d, int64_t h, int64_t w, int64_t depth, int64_t height, int64_t width,
           int64_t channels) {
  return (((b * depth + d) * height + h) * width + w) * channels;
}

int64_t AtPadded(const Windows& m, int64_t b, int64_t d, int64_t h, int64_t w, int64_t channels) {
  return At(b, d, h, w, m.PaddedD(), m.PaddedH(), m.PaddedW(), channels);
}

}  // namespace

Vec Pad(const Windows& m, int64_t channels, const Vec& x) {
  Vec y(m.batch * m.PaddedD() * m.PaddedH() * m.PaddedW() * channels);
  ForEachPlace(m.batch, m.depth, m.height, m.width,
               [&](int64_t b, int64_t d, int64_t h, int64_t w) {
                 const int64_t from = At(b, d, h, w, m.depth, m.height, m.width, channels);
                 for (int64_t c = 0; c < channels; ++c) {
                   y.at(AtPadded(m, b, d, h, w, channels) + c) = x.at(from + c);
                 }
               });
  return y;
}

Vec Crop(const Windows& m, int64_t channels, const Vec& x) {
  Vec y(m.batch * m.depth * m.height * m.width * channels);
  ForEachPlace(m.batch, m.depth, m.height, m.width,
               [&](int64_t b, int64_t d, int64_t h, int64_t w) {
                 const int64_t to = At(b, d, h, w, m.depth, m.height, m.width, channels);
                 for (int64_t c = 0; c < channels; ++c) {
                   y.at(to + c) = x.at(AtPadded(m, b, d, h, w, channels) + c);
                 }
               });
  return y;
}

Vec Roll(const Windows& m, int64_t channels, const Vec& x, int64_t by_d, int64_t by_h,
         int64_t by_w) {
  Vec y(x.size());
  ForEachPlace(m.batch, m.PaddedD(), m.PaddedH(), m.PaddedW(),
               [&](int64_t b, int64_t d, int64_t h, int64_t w) {
                 const int64_t to =
                     AtPadded(m, b, Modulo(d + by_d, m.PaddedD()), Modulo(h + by_h, m.PaddedH()),
                              Modulo(w + by_w, m.PaddedW()), channels);
                 for (int64_t c = 0; c < channels; ++c) {
                   y.at(to + c) = x.at(AtPadded(m, b, d, h, w, channels) + c);
                 }
               });
  return y;
}

// Visits the elements of the permutation (B, windows_d, window_d, windows_h, window_h, windows_w,
// window_w, C) -> (B, windows_d, windows_h, windows_w, window_d, window_h, window_w, C) in the
// order of the result.
template <typename Visit>
static void ForEachPermuted(const Windows& m, int64_t channels, const Visit& visit) {
  int64_t at = 0;
  ForEachPlace(m.batch, m.PaddedD() / m.window_d, m.PaddedH() / m.window_h,
               m.PaddedW() / m.window_w, [&](int64_t b, int64_t wd, int64_t wh, int64_t ww) {
                 ForEachPlace(1, m.window_d, m.window_h, m.window_w,
                              [&](int64_t, int64_t d, int64_t h, int64_t w) {
                                const int64_t map =
                                    AtPadded(m, b, wd * m.window_d + d, wh * m.window_h + h,
                                             ww * m.window_w + w, channels);
                                for (int64_t c = 0; c < channels; ++c) visit(map + c, at++);
                              });
               });
}

Vec WindowPartition(const Windows& m, int64_t channels, const Vec& x) {
  Vec windows(x.size());
  ForEachPermuted(m, channels,
                  [&](int64_t map, int64_t window) { windows.at(window) = x.at(map); });
  return windows;
}

Vec WindowReverse(const Windows& m, int64_t channels, const Vec& windows) {
  Vec x(windows.size());
  ForEachPermuted(m, channels,
                  [&](int64_t map, int64_t window) { x.at(map) = windows.at(window); });
  return x;
}

Vec CutWindows(const Windows& m, int64_t channels, const Vec& x) {
  const Vec padded = Pad(m, channels, x);
  return WindowPartition(m, channels,
                         Roll(m, channels, padded, -m.shift_d, -m.shift_h, -m.shift_w));
}

Vec JoinWindows(const Windows& m, int64_t channels, const Vec& windows) {
  const Vec rolled = WindowReverse(m, channels, windows);
  return Crop(m, channels, Roll(m, channels, rolled, m.shift_d, m.shift_h, m.shift_w));
}

Vec AttentionMask(const Windows& m) {
  Windows one = m;
  one.batch = 1;
  Vec image(m.PaddedD() * m.PaddedH() * m.PaddedW());
  double count = 0;
  for (const Slice& sd : Slices(m.PaddedD(), m.window_d, m.shift_d)) {
    for (const Slice& sh : Slices(m.PaddedH(), m.window_h, m.shift_h)) {
      for (const Slice& sw : Slices(m.PaddedW(), m.window_w, m.shift_w)) {
        for (int64_t d = sd.begin; d < sd.end; ++d) {
          for (int64_t h = sh.begin; h < sh.end; ++h) {
            for (int64_t w = sw.begin; w < sw.end; ++w)
              image.at(AtPadded(m, 0, d, h, w, 1)) = count;
          }
        }
        count += 1;
      }
    }
  }
  const Vec regions = WindowPartition(one, 1, image);
  const int64_t n = m.Tokens();
  Vec mask(m.PerPicture() * n * n);
  for (int64_t window = 0; window < m.PerPicture(); ++window) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const bool same = regions.at(window * n + i) == regions.at(window * n + j);
        mask[(window * n + i) * n + j] = same ? 0 : -100;
      }
    }
  }
  return mask;
}

Vec PaddingOfWindows(const Windows& m) {
  Windows one = m;
  one.batch = 1;
  Vec padding = CutWindows(one, 1, Vec(m.depth * m.height * m.width, 1));
  for (double& p : padding) p = 1 - p;
  return padding;
}

}  // namespace swinfleet::reference
