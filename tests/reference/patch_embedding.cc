#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

int64_t Ceil(int64_t size, int64_t patch) { return (size + patch - 1) / patch; }

// Calls body(y, weight, pixel) for all that is multiplied and added: y += weight pixel.
template <typename Body>
void ForEachProduct(const Picture& p, const PatchSize& patch, int64_t filters, const Body& body) {
  const int64_t grid_t = Ceil(p.frames, patch.t), grid_h = Ceil(p.height, patch.h);
  const int64_t grid_w = Ceil(p.width, patch.w);
  int64_t y = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < grid_t; ++i) {
      for (int64_t j = 0; j < grid_h; ++j) {
        for (int64_t k = 0; k < grid_w; ++k) {
          for (int64_t f = 0; f < filters; ++f, ++y) {
            int64_t weight = f * p.channels * patch.t * patch.h * patch.w;
            for (int64_t c = 0; c < p.channels; ++c) {
              for (int64_t t = i * patch.t; t < (i + 1) * patch.t; ++t) {
                for (int64_t h = j * patch.h; h < (j + 1) * patch.h; ++h) {
                  for (int64_t w = k * patch.w; w < (k + 1) * patch.w; ++w, ++weight) {
                    if (t >= p.frames || h >= p.height || w >= p.width) continue;
                    body(y, weight,
                         (((b * p.channels + c) * p.frames + t) * p.height + h) * p.width + w);
                  }
                }
              }
            }
          }
        }
      }
    }
  }
}

int64_t Tokens(const Picture& p, const PatchSize& patch) {
  return p.batch * Ceil(p.frames, patch.t) * Ceil(p.height, patch.h) * Ceil(p.width, patch.w);
}

}  // namespace

Vec PatchEmbeddingForward(const Picture& p, const PatchSize& patch, int64_t filters,
                          const Vec& image, const Vec& weight, const Vec& bias) {
  Vec y(Tokens(p, patch) * filters);
  for (size_t i = 0; i < y.size(); ++i) y[i] = bias.at(i % filters);
  ForEachProduct(p, patch, filters, [&](int64_t to, int64_t w, int64_t pixel) {
    y[to] += weight.at(w) * image.at(pixel);
  });
  return y;
}

PatchEmbeddingGradients PatchEmbeddingBackward(const Picture& p, const PatchSize& patch,
                                               int64_t filters, const Vec& image, const Vec& weight,
                                               const Vec& dy) {
  PatchEmbeddingGradients g{Vec(weight.size()), Vec(filters), Vec(image.size())};
  for (size_t i = 0; i < dy.size(); ++i) g.dbias[i % filters] += dy[i];
  ForEachProduct(p, patch, filters, [&](int64_t from, int64_t w, int64_t pixel) {
    g.dweight[w] += dy.at(from) * image.at(pixel);
    g.dimage[pixel] += dy.at(from) * weight.at(w);
  });
  return g;
}

}  // namespace swinfleet::reference
