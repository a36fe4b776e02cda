// Operations that move rows: patches, neighbours of a merging, padding, tokens by index, windows;
// and mask tokens and position biases. Indices are 32 bits wide, for the device divides those
// faster.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/window_map.h"

namespace swinfleet::cuda {
namespace {

// What is moved at once: 16 bytes where rows and tensors allow it, else an element.
template <typename Run>
void DispatchUnit(DType dtype, int64_t row_elements, std::initializer_list<TensorView> tensors,
                  const Run& run) {
  const int64_t bytes = row_elements * static_cast<int64_t>(SizeOf(dtype));
  if (bytes % 16 == 0 && AreAligned(16, tensors)) return run(uint4(), Narrow(bytes / 16));
  if (SizeOf(dtype) == 4) return run(uint32_t(), Narrow(row_elements));
  run(uint16_t(), Narrow(row_elements));
}

template <typename Unit>
__device__ Unit Zero() {
  if constexpr (sizeof(Unit) == 16) {
    return uint4{0, 0, 0, 0};
  } else {
    return 0;
  }
}

// Calls map's (row, element of the row) pairs: Map says which place of the far tensor a row has, -1
// for none. kToRows copies from there to the rows and writes zeros where there is none; else from
// the rows.
template <typename Unit, typename Map, bool kToRows>
struct MoveRows {
  Map map;
  Unit* far;
  Unit* rows;
  uint32_t units;  // of a row

  __device__ void operator()(int64_t i) const {
    const uint32_t row = static_cast<uint32_t>(i) / units, unit = static_cast<uint32_t>(i) % units;
    const int32_t place = map(row);
    if constexpr (kToRows) {
      rows[i] = place < 0 ? Zero<Unit>() : far[static_cast<int64_t>(place) * units + unit];
    } else {
      if (place >= 0) far[static_cast<int64_t>(place) * units + unit] = rows[i];
    }
  }
};

// Copies rows of `c` elements between `far` and `rows`.
template <bool kToRows, typename Map>
void Move(const Map& map, const TensorView& far, const TensorView& rows, int64_t count, int64_t c,
          const Context& context) {
  DispatchUnit(far.dtype, c, {far, rows}, [&](auto tag, uint32_t units) {
    using Unit = decltype(tag);
    ForEach(Narrow(count * units),
            MoveRows<Unit, Map, kToRows>{map, Elements<Unit>(far), Elements<Unit>(rows), units},
            context);
  });
}

// far += rows, element by element.
template <typename T, typename Map>
struct AddRows {
  Map map;
  T* far;
  const T* rows;
  uint32_t c;

  __device__ void operator()(int64_t i) const {
    const int32_t place = map(static_cast<uint32_t>(i) / c);
    if (place < 0) return;
    T* to = far + static_cast<int64_t>(place) * c + static_cast<uint32_t>(i) % c;
    *to = FromFloat<T>(ToFloat(*to) + ToFloat(rows[i]));
  }
};

template <typename Map>
void AddTo(const Map& map, const TensorView& far, const TensorView& rows, int64_t count, int64_t c,
           const Context& context) {
  DispatchDType(far.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(Narrow(count * c), AddRows<T, Map>{map, Elements<T>(far), Elements<T>(rows), Narrow(c)},
            context);
  });
}

// ---- Merging ----

// Neighbour n of row r, as row 4 r + n of c elements.
struct MergeMap {
  uint32_t first_row, height, width;

  __device__ int32_t operator()(uint32_t at) const {
    const uint32_t row = first_row + at / 4, n = at % 4;
    const uint32_t half_h = (height + 1) / 2, half_w = (width + 1) / 2;
    const uint32_t b = row / (half_h * half_w), i = row / half_w % half_h, j = row % half_w;
    const uint32_t h = 2 * i + n % 2, w = 2 * j + n / 2;
    return h < height && w < width ? static_cast<int32_t>((b * height + h) * width + w) : -1;
  }
};

MergeMap MergeMapOf(const TensorView& x, const TensorView& rows, int64_t first_row) {
  CHECK_EQ(x.shape.rank(), 4);
  const int64_t half_h = (x.shape[1] + 1) / 2, half_w = (x.shape[2] + 1) / 2;
  CHECK(rows.shape.rank() == 2 && rows.shape[1] == 4 * x.shape[3]) << rows.shape;
  CHECK(first_row >= 0 && first_row + rows.shape[0] <= x.shape[0] * half_h * half_w)
      << first_row << "+" << rows.shape[0] << " of " << x.shape;
  CheckFloating(x.dtype, {rows});
  return {Narrow(first_row), Narrow(x.shape[1]), Narrow(x.shape[2])};
}

// ---- Padding ----

// Token of y -> token of x.
struct PadMap {
  Extent from, to;

  __device__ int32_t operator()(uint32_t at) const {
    const uint32_t w = at % to.width, h = at / to.width % to.height;
    const uint32_t d = at / (to.width * to.height) % to.depth;
    const uint32_t b = at / (to.width * to.height * to.depth);
    if (d >= from.depth || h >= from.height || w >= from.width) return -1;
    return static_cast<int32_t>(((b * from.depth + d) * from.height + h) * from.width + w);
  }
};

// ---- Tokens by index ----

struct TokenMap {
  const int32_t* index;
  uint32_t n, tokens;
  bool shared;  // one row of indices for all pictures

  __device__ int32_t operator()(uint32_t at) const {
    const int32_t token = index[shared ? at % n : at];
    return token < 0 ? -1 : static_cast<int32_t>(at / n * tokens) + token;
  }
};

TokenMap TokenMapOf(const TensorView& all, const TensorView& index, const TensorView& some) {
  const int64_t batch = all.shape[0], n = some.shape[1];
  CHECK(all.shape.rank() == 3 && some.shape == Shape({batch, n, all.shape[2]}))
      << all.shape << some.shape;
  CHECK(index.shape == Shape({batch, n}) || index.shape == Shape({1, n}))
      << index.shape << " of " << all.shape;
  CheckFloating(all.dtype, {some});
  CheckDtype(DType::kI32, {index});
  return {Elements<int32_t>(index), Narrow(n), Narrow(all.shape[1]), index.shape[0] == 1};
}

// ---- Windows ----

template <typename Args>
WindowMap WindowMapOf(const Args& args) {
  const WindowGeometry& g = args.geometry;
  const int64_t channels = args.rows.shape[args.rows.shape.rank() - 1];
  CHECK(args.x.shape == Shape({g.batch, g.depth, g.height, g.width, channels}) ||
        (g.depth == 1 && args.x.shape == Shape({g.batch, g.height, g.width, channels})))
      << args.x.shape << " for a map of " << g.depth << "x" << g.height << "x" << g.width;
  const int64_t windows = args.range.count > 0 ? args.range.count : g.Windows();
  CHECK(args.range.first >= 0 && args.range.first + windows <= g.Windows())
      << args.range.first << "+" << windows << " of " << g.Windows() << " windows";
  CHECK(args.rows.shape == Shape({windows, g.WindowTokens(), channels})) << args.rows.shape;
  CheckFloating(args.x.dtype, {args.rows});
  return MapOf(g, args.range);
}

// ---- Patches ----

struct PatchGrid {
  uint32_t channels, first_row;
  Extent image, patch, grid;
};

template <typename Args>
PatchGrid GridOf(const Args& args) {
  const Shape& image = args.image.shape;
  const int rank = image.rank();
  CHECK(rank == 4 || rank == 5) << image;
  CHECK(args.patch_t > 0 && args.patch_h > 0 && args.patch_w > 0 &&
        (rank == 5 || args.patch_t == 1))
      << args.patch_t << " x " << args.patch_h << " x " << args.patch_w << " of " << image;
  const int64_t frames = rank == 5 ? image[2] : 1, height = image[rank - 2],
                width = image[rank - 1];
  const int64_t grid_t = (frames + args.patch_t - 1) / args.patch_t;
  const int64_t grid_h = (height + args.patch_h - 1) / args.patch_h;
  const int64_t grid_w = (width + args.patch_w - 1) / args.patch_w;
  const int64_t rows = args.rows.shape[0];
  CHECK(args.rows.shape == Shape({rows, image[1] * args.patch_t * args.patch_h * args.patch_w}))
      << args.rows.shape << " of " << image;
  CHECK(args.first_row >= 0 && args.first_row + rows <= image[0] * grid_t * grid_h * grid_w)
      << args.first_row << "+" << rows << " of " << image;
  CHECK(IsFloating(args.rows.dtype) &&
        (args.image.dtype == DType::kF32 || args.image.dtype == args.rows.dtype))
      << NameOf(args.image.dtype) << " and " << NameOf(args.rows.dtype);
  Narrow(args.image.NumElements());
  return {Narrow(image[1]),
          Narrow(args.first_row),
          {Narrow(frames), Narrow(height), Narrow(width)},
          {Narrow(args.patch_t), Narrow(args.patch_h), Narrow(args.patch_w)},
          {Narrow(grid_t), Narrow(grid_h), Narrow(grid_w)}};
}

// The pixel of an element of the rows; -1 beyond the picture.
__device__ inline int64_t PixelOf(const PatchGrid& g, uint32_t element) {
  uint32_t rest = element;
  const uint32_t column = rest % g.patch.width;
  rest /= g.patch.width;
  const uint32_t row = rest % g.patch.height;
  rest /= g.patch.height;
  const uint32_t frame = rest % g.patch.depth;
  rest /= g.patch.depth;
  const uint32_t channel = rest % g.channels, at = g.first_row + rest / g.channels;
  const uint32_t x = at % g.grid.width * g.patch.width + column;
  const uint32_t y = at / g.grid.width % g.grid.height * g.patch.height + row;
  const uint32_t t = at / (g.grid.width * g.grid.height) % g.grid.depth * g.patch.depth + frame;
  const uint32_t b = at / (g.grid.width * g.grid.height * g.grid.depth);
  if (x >= g.image.width || y >= g.image.height || t >= g.image.depth) return -1;
  return ((static_cast<int64_t>(b * g.channels + channel) * g.image.depth + t) * g.image.height +
          y) *
             g.image.width +
         x;
}

template <typename Image, typename Rows, bool kToRows>
struct MovePatches {
  PatchGrid g;
  Image* image;
  Rows* rows;

  __device__ void operator()(int64_t i) const {
    const int64_t pixel = PixelOf(g, static_cast<uint32_t>(i));
    if constexpr (kToRows) {
      rows[i] = FromFloat<Rows>(pixel < 0 ? 0.0f : ToFloat(image[pixel]));
    } else {
      if (pixel >= 0) image[pixel] = FromFloat<Image>(ToFloat(rows[i]));
    }
  }
};

template <bool kToRows, typename Args>
void RunPatches(const Args& args, const Context& context) {
  const PatchGrid grid = GridOf(args);
  const int64_t n = Narrow(args.rows.NumElements());
  DispatchDType(args.rows.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (args.image.dtype == DType::kF32) {
      ForEach(
          n,
          MovePatches<float, T, kToRows>{grid, Elements<float>(args.image), Elements<T>(args.rows)},
          context);
    } else {
      ForEach(n, MovePatches<T, T, kToRows>{grid, Elements<T>(args.image), Elements<T>(args.rows)},
              context);
    }
  });
}

// ---- Mask tokens ----

struct Masked {
  const int32_t* mask;
  uint32_t period;

  __device__ bool operator()(uint32_t row) const { return mask[row % period] != 0; }
};

Masked MaskedOf(const TensorView& mask, const TensorView& x) {
  CHECK_EQ(x.shape.rank(), 3) << x.shape;
  CHECK(mask.shape == Shape({x.shape[0], x.shape[1]}) || mask.shape == Shape({1, x.shape[1]}))
      << mask.shape << " for " << x.shape;
  CheckDtype(DType::kI32, {mask});
  return {Elements<int32_t>(mask), Narrow(mask.NumElements())};
}

template <typename T>
struct PutToken {
  Masked masked;
  const T* token;
  T* x;
  uint32_t c;

  __device__ void operator()(int64_t i) const {
    if (masked(static_cast<uint32_t>(i) / c)) x[i] = token[static_cast<uint32_t>(i) % c];
  }
};

// A thread a channel of a part of the rows.
template <typename T>
struct TakeToken {
  Masked masked;
  T* dx;
  int64_t rows, parts, c;
  float* sums;  // (parts, c)

  __device__ void operator()(int64_t i) const {
    const int64_t part = i / c, channel = i % c;
    float sum = 0;
    for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
      if (!masked(static_cast<uint32_t>(row))) continue;
      T* at = dx + row * c + channel;
      sum += ToFloat(*at);
      *at = FromFloat<T>(0.0f);
    }
    sums[i] = sum;
  }
};

// ---- Position biases ----

void CheckBias(const Shape& table, const TensorView& index, const TensorView& bias) {
  CHECK_EQ(table.rank(), 2) << table;
  CHECK(index.shape.rank() == 3 && index.shape[1] == index.shape[2]) << index.shape;
  CHECK(bias.shape == Shape({index.shape[0], table[1], index.shape[1], index.shape[1]}))
      << bias.shape << " from a table of " << table << " and indices of " << index.shape;
  CheckDtype(DType::kI32, {index});
  CheckDtype(DType::kF32, {bias});
}

template <typename T>
struct GatherBias {
  const T* table;
  const int32_t* index;
  const float* mask;  // or null
  float* bias;
  uint32_t heads, pairs;  // N N

  __device__ void operator()(int64_t i) const {
    const uint32_t at = static_cast<uint32_t>(i);
    const uint32_t pair = at % pairs, head = at / pairs % heads, group = at / pairs / heads;
    const int32_t entry = index[group * pairs + pair];
    if (entry < 0) {
      bias[i] = kExcludedScore;
    } else {
      bias[i] = ToFloat(table[static_cast<uint32_t>(entry) * heads + head]) +
                (mask == nullptr ? 0.0f : mask[group * pairs + pair]);
    }
  }
};

// Of a block, in shared memory.
constexpr uint32_t kScatterEntries = 4096;
constexpr size_t kScatterBytes = kScatterEntries * (sizeof(float) + sizeof(int32_t)) + 16;

// The first row of a part of all rows.
__device__ inline uint32_t RowOfPart(uint32_t rows, uint32_t part, uint32_t parts) {
  return static_cast<uint32_t>(static_cast<uint64_t>(rows) * part / parts);
}

struct ScatterArrays {
  const float* dbias;
  const int32_t* index;
  float* sums;  // (parts, T, heads)
  uint32_t entries, heads, groups, tokens;
};

// A block's range of entries.
struct EntryRange {
  uint32_t first, count;
  float* sums;
  // Pairs of the present piece that have the entry.
  int32_t* uses;
  // The last piece in which pairs shared an entry.
  int32_t* shared;

  // Its number in the range, or -1.
  __device__ int32_t operator()(int32_t entry) const {
    const uint32_t at = static_cast<uint32_t>(entry) - first;
    return entry >= 0 && at < count ? static_cast<int32_t>(at) : -1;
  }
};

// Adds a piece of a row of pairs, one a thread: all at once where no two have one entry, as along
// the rows of windows, else one after the other. `number` counts pieces from 1.
__device__ inline void AddPairs(const EntryRange& range, const int32_t* index, const float* from,
                                uint32_t pairs, int32_t number) {
  const int32_t entry = threadIdx.x < pairs ? range(index[threadIdx.x]) : -1;
  if (entry >= 0) atomicAdd(&range.uses[entry], 1);
  __syncthreads();
  if (entry >= 0 && range.uses[entry] > 1) atomicMax(range.shared, number);
  __syncthreads();
  const bool in_turn = *range.shared == number;
  if (!in_turn && entry >= 0) {
    range.sums[entry] += from[threadIdx.x];
    range.uses[entry] = 0;
  }
  for (uint32_t i = 0; in_turn && threadIdx.x == 0 && i < pairs; ++i) {
    const int32_t one = range(index[i]);
    if (one < 0) continue;
    range.sums[one] += from[i];
    range.uses[one] = 0;
  }
  __syncthreads();
}

// A block a head (x), a part of the rows of pairs of all groups (y) and a range of entries (z). Row
// after row, so that the bits do not depend on what runs when.
__global__ void ScatterBiasKernel(ScatterArrays a) {
  SharedCarver carver;
  const uint32_t first = blockIdx.z * kScatterEntries, head = blockIdx.x;
  const uint32_t count = min(kScatterEntries, a.entries - first);
  const EntryRange range = {first, count, carver.Take<float>(kScatterEntries),
                            carver.Take<int32_t>(kScatterEntries), carver.Take<int32_t>(1)};
  if (threadIdx.x == 0) *range.shared = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    range.sums[i] = 0;
    range.uses[i] = 0;
  }
  __syncthreads();
  const uint32_t rows = a.groups * a.tokens;
  const uint32_t begin = RowOfPart(rows, blockIdx.y, gridDim.y);
  const uint32_t end = RowOfPart(rows, blockIdx.y + 1, gridDim.y);
  int32_t number = 0;
  for (uint32_t row = begin; row < end; ++row) {
    const uint32_t group = row / a.tokens, i = row % a.tokens;
    const int64_t at = (static_cast<int64_t>(group * a.heads + head) * a.tokens + i) * a.tokens;
    for (uint32_t j = 0; j < a.tokens; j += kThreads) {
      AddPairs(range, a.index + static_cast<int64_t>(row) * a.tokens + j, a.dbias + at + j,
               min(a.tokens - j, static_cast<uint32_t>(kThreads)), ++number);
    }
  }
  float* to = a.sums + (static_cast<int64_t>(blockIdx.y) * a.entries + first) * a.heads + head;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) to[i * a.heads] = range.sums[i];
}

}  // namespace

void MergeGather(const MergeGatherArgs& args, Context& context) {
  const MergeMap map = MergeMapOf(args.x, args.rows, args.first_row);
  Move<true>(map, args.x, args.rows, 4 * args.rows.shape[0], args.x.shape[3], context);
}

void MergeScatter(const MergeScatterArgs& args, Context& context) {
  const MergeMap map = MergeMapOf(args.x, args.rows, args.first_row);
  Move<false>(map, args.x, args.rows, 4 * args.rows.shape[0], args.x.shape[3], context);
}

void Pad(const PadArgs& args, Context& context) {
  const Shape& from = args.x.shape;
  const Shape& to = args.y.shape;
  CHECK(from.rank() == 5 && to.rank() == 5 && from[0] == to[0] && from[4] == to[4])
      << from << " to " << to;
  CheckFloating(args.x.dtype, {args.y});
  const PadMap map = {{Narrow(from[1]), Narrow(from[2]), Narrow(from[3])},
                      {Narrow(to[1]), Narrow(to[2]), Narrow(to[3])}};
  Move<true>(map, args.x, args.y, to[0] * to[1] * to[2] * to[3], to[4], context);
}

void TokenGather(const TokenGatherArgs& args, Context& context) {
  const TokenMap map = TokenMapOf(args.x, args.index, args.y);
  Move<true>(map, args.x, args.y, args.y.shape[0] * args.y.shape[1], args.y.shape[2], context);
}

void TokenScatter(const TokenScatterArgs& args, Context& context) {
  const TokenMap map = TokenMapOf(args.x, args.index, args.y);
  const int64_t rows = args.y.shape[0] * args.y.shape[1], c = args.y.shape[2];
  if (args.accumulate) {
    AddTo(map, args.x, args.y, rows, c, context);
  } else {
    Move<false>(map, args.x, args.y, rows, c, context);
  }
}

void WindowGather(const WindowGatherArgs& args, Context& context) {
  const WindowMap map = WindowMapOf(args);
  Move<true>(map, args.x, args.rows, args.rows.shape[0] * args.rows.shape[1], args.rows.shape[2],
             context);
}

void WindowScatter(const WindowScatterArgs& args, Context& context) {
  const WindowMap map = WindowMapOf(args);
  const int64_t rows = args.rows.shape[0] * args.rows.shape[1], c = args.rows.shape[2];
  if (args.accumulate) {
    AddTo(map, args.x, args.rows, rows, c, context);
  } else {
    Move<false>(map, args.x, args.rows, rows, c, context);
  }
}

void PatchGather(const PatchGatherArgs& args, Context& context) { RunPatches<true>(args, context); }

void PatchScatter(const PatchScatterArgs& args, Context& context) {
  RunPatches<false>(args, context);
}

void MaskTokensForward(const MaskTokensForwardArgs& args, Context& context) {
  const Masked masked = MaskedOf(args.mask, args.x);
  const int64_t c = args.x.shape[2];
  CHECK_EQ(args.token.NumElements(), c);
  CheckFloating(args.x.dtype, {args.token});
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(Narrow(args.x.NumElements()),
            PutToken<T>{masked, Elements<T>(args.token), Elements<T>(args.x), Narrow(c)}, context);
  });
}

void MaskTokensBackward(const MaskTokensBackwardArgs& args, Context& context) {
  const Masked masked = MaskedOf(args.mask, args.dx);
  const int64_t c = args.dx.shape[2];
  CHECK_EQ(args.dtoken.NumElements(), c);
  CheckFloating(args.dx.dtype, {});
  CheckDtype(DType::kF32, {args.dtoken});
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  const int64_t rows = Narrow(args.dx.shape[0] * args.dx.shape[1]), parts = RowParts(rows);
  DispatchDType(args.dx.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(parts * c, TakeToken<T>{masked, Elements<T>(args.dx), rows, parts, c, sums}, context);
  });
  AddParts({sums, parts, c, c}, Elements<float>(args.dtoken), context);
}

void BiasGather(const BiasGatherArgs& args, Context& context) {
  CheckBias(args.table.shape, args.index, args.bias);
  CHECK(args.mask.empty() ||
        (args.mask.shape == args.index.shape && args.mask.dtype == DType::kF32))
      << args.mask.shape << " for indices of " << args.index.shape;
  const int64_t tokens = args.index.shape[1];
  DispatchDType(args.table.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(Narrow(args.bias.NumElements()),
            GatherBias<T>{Elements<T>(args.table), Elements<int32_t>(args.index),
                          Elements<float>(args.mask), Elements<float>(args.bias),
                          Narrow(args.table.shape[1]), Narrow(tokens * tokens)},
            context);
  });
}

void BiasScatter(const BiasScatterArgs& args, Context& context) {
  CheckBias(args.dtable.shape, args.index, args.dbias);
  CheckDtype(DType::kF32, {args.dtable});
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  const int64_t entries = args.dtable.shape[0], heads = args.dtable.shape[1];
  const int64_t tokens = args.index.shape[1], parts = BiasParts(args);
  if (entries * heads == 0) return;
  const ScatterArrays arrays = {Elements<float>(args.dbias),
                                Elements<int32_t>(args.index),
                                sums,
                                Narrow(entries),
                                Narrow(heads),
                                Narrow(args.index.shape[0]),
                                Narrow(tokens)};
  Narrow(args.index.NumElements());
  const dim3 grid(Narrow(heads), Narrow(parts),
                  Narrow((entries + kScatterEntries - 1) / kScatterEntries));
  GpuLaunch(ScatterBiasKernel, grid, kThreads, kScatterBytes, StreamOf(context), arrays);
  AddParts({sums, parts, entries * heads, entries * heads}, Elements<float>(args.dtable), context);
}

}  // namespace swinfleet::cuda
