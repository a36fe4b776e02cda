// Patches of a picture or clip, gathered into rows and scattered back.
#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// A picture is a clip of one frame.
struct PatchGrid {
  int64_t channels, frames, height, width;
  int64_t patch_t, patch_h, patch_w;
  int64_t grid_t, grid_h, grid_w;
  int64_t first_row, rows;
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
  CHECK(args.rows.shape == Shape({g.rows, g.channels * g.patch_t * g.patch_h * g.patch_w}))
      << args.rows.shape << " of " << image;
  CHECK(g.first_row >= 0 && g.first_row + g.rows <= image[0] * g.grid_t * g.grid_h * g.grid_w)
      << g.first_row << "+" << g.rows << " of " << image;
  CHECK(IsFloating(args.rows.dtype) &&
        (args.image.dtype == DType::kF32 || args.image.dtype == args.rows.dtype))
      << NameOf(args.image.dtype) << " and " << NameOf(args.rows.dtype);
  return g;
}

// Calls move(element of the rows, pixel, pixels) for each line of each patch: patch_w elements, of
// which so many are in the image. Goes along the axes, for divisions would take longer than a line.
template <typename Move>
void ForEachLine(const PatchGrid& g, int threads, const Move& move) {
  ParallelFor(threads, g.rows, 16, [&](int64_t begin, int64_t end, int) {
    int64_t element = begin * g.channels * g.patch_t * g.patch_h * g.patch_w;
    const int64_t first = g.first_row + begin;
    int64_t at_w = first % g.grid_w, at_h = first / g.grid_w % g.grid_h;
    int64_t at_t = first / (g.grid_w * g.grid_h) % g.grid_t;
    int64_t b = first / (g.grid_w * g.grid_h * g.grid_t);
    for (int64_t patch = begin; patch < end; ++patch) {
      const int64_t column = at_w * g.patch_w, top = at_h * g.patch_h, start = at_t * g.patch_t;
      const int64_t inside = std::min(g.patch_w, g.width - column);
      for (int64_t channel = b * g.channels; channel < (b + 1) * g.channels; ++channel) {
        for (int64_t frame = start; frame < start + g.patch_t; ++frame) {
          for (int64_t row = top; row < top + g.patch_h; ++row, element += g.patch_w) {
            const int64_t pixel =
                ((channel * g.frames + frame) * g.height + row) * g.width + column;
            move(element, pixel, row < g.height && frame < g.frames ? inside : 0);
          }
        }
      }
      if (++at_w < g.grid_w) continue;
      at_w = 0;
      if (++at_h < g.grid_h) continue;
      at_h = 0;
      if (++at_t < g.grid_t) continue;
      at_t = 0;
      ++b;
    }
  });
}

// The usual sizes by themselves: a loop of a known length becomes a few vectors.
template <typename From, typename To>
void CopyLine(const From* from, To* to, int64_t n) {
  const auto copy = [&](int64_t i) { to[i] = FromFloat<To>(ToFloat(from[i])); };
  if (n == 4) {
    for (int64_t i = 0; i < 4; ++i) copy(i);
  } else if (n == 2) {
    for (int64_t i = 0; i < 2; ++i) copy(i);
  } else {
    for (int64_t i = 0; i < n; ++i) copy(i);
  }
}

}  // namespace

void PatchGather(const PatchGatherArgs& args, Context& context) {
  const PatchGrid g = GridOf(args);
  DispatchDType(args.image.dtype, [&](auto image_tag) {
    DispatchDType(args.rows.dtype, [&](auto rows_tag) {
      const auto* image = Elements<decltype(image_tag)>(args.image);
      auto* rows = Elements<decltype(rows_tag)>(args.rows);
      ForEachLine(g, context.threads, [&](int64_t element, int64_t pixel, int64_t n) {
        CopyLine(image + pixel, rows + element, n);
        std::fill(rows + element + n, rows + element + g.patch_w,
                  FromFloat<decltype(rows_tag)>(0.0f));
      });
    });
  });
}

void PatchScatter(const PatchScatterArgs& args, Context& context) {
  const PatchGrid g = GridOf(args);
  DispatchDType(args.image.dtype, [&](auto image_tag) {
    DispatchDType(args.rows.dtype, [&](auto rows_tag) {
      auto* image = Elements<decltype(image_tag)>(args.image);
      const auto* rows = Elements<decltype(rows_tag)>(args.rows);
      ForEachLine(g, context.threads, [&](int64_t element, int64_t pixel, int64_t n) {
        CopyLine(rows + element, image + pixel, n);
      });
    });
  });
}

}  // namespace swinfleet::cpu
