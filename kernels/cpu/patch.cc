// Patches of a picture or clip, gathered into rows and scattered back.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

// A picture is a clip of one frame.
struct PatchGrid {
  int64_t channels, frames, height, width;
  int64_t patch_t, patch_h, patch_w;
  int64_t grid_t, grid_h, grid_w;
  int64_t first_row, rows;

  // Of one patch.
  int64_t RowElements() const { return channels * patch_t * patch_h * patch_w; }
};

template <typename Args>
PatchGrid GridOf(const Args& args) {
  const Shape& image = args.image.shape;
  const int rank = image.rank();
  CHECK(rank == 4 || rank == 5) << image;
  PatchGrid g = {.channels = image[1],
                 .frames = rank == 5 ? image[2] : 1,
                 .height = image[rank - 2],
                 .width = image[rank - 1],
                 .patch_t = args.patch_t,
                 .patch_h = args.patch_h,
                 .patch_w = args.patch_w,
                 .grid_t = 0,
                 .grid_h = 0,
                 .grid_w = 0,
                 .first_row = args.first_row,
                 .rows = args.rows.shape[0]};
  CHECK(g.patch_t > 0 && g.patch_h > 0 && g.patch_w > 0 && (rank == 5 || g.patch_t == 1))
      << g.patch_t << " x " << g.patch_h << " x " << g.patch_w << " of " << image;
  g.grid_t = (g.frames + g.patch_t - 1) / g.patch_t;
  g.grid_h = (g.height + g.patch_h - 1) / g.patch_h;
  g.grid_w = (g.width + g.patch_w - 1) / g.patch_w;
  CHECK(args.rows.shape == Shape({g.rows, g.RowElements()})) << args.rows.shape << " of " << image;
  CHECK(g.first_row >= 0 && g.first_row + g.rows <= image[0] * g.grid_t * g.grid_h * g.grid_w)
      << g.first_row << "+" << g.rows << " of " << image;
  CHECK(IsFloating(args.rows.dtype) &&
        (args.image.dtype == DType::kF32 || args.image.dtype == args.rows.dtype))
      << NameOf(args.image.dtype) << " and " << NameOf(args.rows.dtype);
  return g;
}

// Pixels of a strip: they are converted together, which is faster than a patch's few by themselves.
constexpr int64_t kStripPixels = 1024;

// A line of pixels through patches that are neighbours.
struct Strip {
  int64_t patches;
  // Of the rows, where the first patch has its part of the line. A patch has patch_w elements.
  int64_t element;
  // Of the image, where the line begins, and how much of it is there.
  int64_t pixel, pixels;
};

// Calls move(strip) for each line of all patches. Goes along the axes, for divisions would take
// longer than a line.
template <typename Move>
void ForEachStrip(const PatchGrid& g, int threads, const Move& move) {
  const int64_t most = std::max<int64_t>(kStripPixels / g.patch_w, 1);
  ParallelFor(threads, g.rows, 16, [&](int64_t begin, int64_t end, int) {
    const int64_t first = g.first_row + begin;
    int64_t at_w = first % g.grid_w, at_h = first / g.grid_w % g.grid_h;
    int64_t at_t = first / (g.grid_w * g.grid_h) % g.grid_t;
    int64_t b = first / (g.grid_w * g.grid_h * g.grid_t);
    for (int64_t patch = begin; patch < end;) {
      const int64_t patches = std::min({most, end - patch, g.grid_w - at_w});
      const int64_t column = at_w * g.patch_w, top = at_h * g.patch_h, start = at_t * g.patch_t;
      const int64_t inside = std::min(patches * g.patch_w, g.width - column);
      int64_t element = patch * g.RowElements();
      for (int64_t channel = b * g.channels; channel < (b + 1) * g.channels; ++channel) {
        for (int64_t frame = start; frame < start + g.patch_t; ++frame) {
          for (int64_t row = top; row < top + g.patch_h; ++row, element += g.patch_w) {
            const bool there = row < g.height && frame < g.frames;
            move({.patches = patches,
                  .element = element,
                  .pixel = ((channel * g.frames + frame) * g.height + row) * g.width + column,
                  .pixels = there ? inside : 0});
          }
        }
      }
      patch += patches;
      at_w += patches;
      if (at_w < g.grid_w) continue;
      at_w = 0;
      if (++at_h < g.grid_h) continue;
      at_h = 0;
      if (++at_t < g.grid_t) continue;
      at_t = 0;
      ++b;
    }
  });
}

// The usual sizes by themselves: a copy of a known length is an instruction or two.
void CopyBytes(const std::byte* from, std::byte* to, size_t bytes) {
  if (bytes == 8) {
    std::memcpy(to, from, 8);
  } else if (bytes == 16) {
    std::memcpy(to, from, 16);
  } else {
    std::memcpy(to, from, bytes);
  }
}

std::byte* ElementAt(const TensorView& tensor, int64_t element) {
  return static_cast<std::byte*>(tensor.data) + element * SizeOf(tensor.dtype);
}

}  // namespace

void PatchGather(const PatchGatherArgs& args, Context& context) {
  const PatchGrid g = GridOf(args);
  const size_t size = SizeOf(args.rows.dtype);
  ForEachStrip(g, context.threads, [&](const Strip& strip) {
    std::byte* to = ElementAt(args.rows, strip.element);
    const std::byte* from = ElementAt(args.image, strip.pixel);
    const size_t line = g.patch_w * size, step = g.RowElements() * size;
    if (g.patch_w > kStripPixels) {
      ConvertElements(from, args.image.dtype, to, args.rows.dtype, strip.pixels);
      std::fill(to + strip.pixels * size, to + line, std::byte{0});
      return;
    }
    // All bits of a zero are zero.
    alignas(64) std::byte pixels[kStripPixels * sizeof(float)];
    ConvertElements(from, args.image.dtype, pixels, args.rows.dtype, strip.pixels);
    std::fill(pixels + strip.pixels * size, pixels + strip.patches * line, std::byte{0});
    for (int64_t patch = 0; patch < strip.patches; ++patch) {
      CopyBytes(pixels + patch * line, to + patch * step, line);
    }
  });
}

void PatchScatter(const PatchScatterArgs& args, Context& context) {
  const PatchGrid g = GridOf(args);
  const size_t size = SizeOf(args.rows.dtype);
  ForEachStrip(g, context.threads, [&](const Strip& strip) {
    const std::byte* from = ElementAt(args.rows, strip.element);
    std::byte* to = ElementAt(args.image, strip.pixel);
    const size_t line = g.patch_w * size, step = g.RowElements() * size;
    if (g.patch_w > kStripPixels) {
      ConvertElements(from, args.rows.dtype, to, args.image.dtype, strip.pixels);
      return;
    }
    alignas(64) std::byte pixels[kStripPixels * sizeof(float)];
    for (int64_t patch = 0; patch < strip.patches; ++patch) {
      CopyBytes(from + patch * step, pixels + patch * line, line);
    }
    ConvertElements(pixels, args.rows.dtype, to, args.image.dtype, strip.pixels);
  });
}

}  // namespace swinfleet::cpu
