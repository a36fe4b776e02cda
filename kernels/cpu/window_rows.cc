// Tokens of windows, gathered to be worked on apart from the map and written back.
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/window_map.h"

namespace swinfleet::cpu {
namespace {

int64_t WindowsOf(const WindowGeometry& geometry, const WindowRange& range) {
  return range.count > 0 ? range.count : geometry.Windows();
}

template <typename Args>
void CheckShapes(const Args& args) {
  const WindowGeometry& g = args.geometry;
  const int64_t channels = args.rows.shape[args.rows.shape.rank() - 1];
  CHECK(args.x.shape == Shape({g.batch, g.depth, g.height, g.width, channels}) ||
        (g.depth == 1 && args.x.shape == Shape({g.batch, g.height, g.width, channels})))
      << args.x.shape << " for a map of " << g.depth << "x" << g.height << "x" << g.width;
  const int64_t windows = WindowsOf(g, args.range);
  CHECK(args.range.first >= 0 && args.range.first + windows <= g.Windows())
      << args.range.first << "+" << windows << " of " << g.Windows() << " windows";
  CHECK(args.rows.shape == Shape({windows, g.WindowTokens(), channels})) << args.rows.shape;
  CHECK(args.rows.dtype == args.x.dtype)
      << NameOf(args.rows.dtype) << " for " << NameOf(args.x.dtype);
}

// Calls body(row, token) for all rows of the range; token counts over the batch and is -1 in the
// padding.
template <typename Body>
void ForEachRow(const WindowGeometry& g, const WindowRange& range, Context& context,
                const Body& body) {
  ParallelFor(context.threads, WindowsOf(g, range), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      ForEachPlace(g, range.first + i, [&](int64_t place, int64_t token, int32_t) {
        body(i * g.WindowTokens() + place, token);
      });
    }
  });
}

template <typename T>
void AddElements(const T* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = FromFloat<T>(ToFloat(to[i]) + ToFloat(from[i]));
}

}  // namespace

void WindowGather(const WindowGatherArgs& args, Context& context) {
  CheckShapes(args);
  const size_t bytes = args.rows.shape[2] * SizeOf(args.rows.dtype);
  const char* from = static_cast<const char*>(args.x.data);
  char* to = static_cast<char*>(args.rows.data);
  ForEachRow(args.geometry, args.range, context, [&](int64_t row, int64_t token) {
    if (token < 0) {
      std::memset(to + row * bytes, 0, bytes);
    } else {
      std::memcpy(to + row * bytes, from + token * bytes, bytes);
    }
  });
}

void WindowScatter(const WindowScatterArgs& args, Context& context) {
  CheckShapes(args);
  const int64_t channels = args.rows.shape[2];
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* from = Elements<T>(args.rows);
    T* to = Elements<T>(args.x);
    ForEachRow(args.geometry, args.range, context, [&](int64_t row, int64_t token) {
      if (token < 0) return;
      if (args.accumulate) {
        AddElements(from + row * channels, to + token * channels, channels);
      } else {
        std::memcpy(to + token * channels, from + row * channels, channels * sizeof(T));
      }
    });
  });
}

}  // namespace swinfleet::cpu
