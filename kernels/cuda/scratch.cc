#include "kernels/cuda/scratch.h"

#include <algorithm>
#include <limits>

namespace swinfleet::cuda {
namespace {

constexpr int64_t kMaxParts = 256;
constexpr int kMaxWarps = 8;
// All devices have so much shared memory for a block, and two such blocks at once from A100 on.
constexpr size_t kMaxShared = 80 << 10;
// A warp moves up to 8 elements a lane.
constexpr int64_t kColumnsAtOnce = 32 * 8;

// The alignment that NVIDIA's libraries want at most.
constexpr size_t kLibraryAlignment = 256;
// What cuBLASLt may use to cut sums into parts.
constexpr size_t kMaxLinearWorkspace = size_t{32} << 20;
constexpr int64_t kPartsOfSum = 16;

// Memory that starts at a multiple of what NVIDIA's libraries want at most.
void* TakeAligned(int64_t bytes, Context& context) {
  const auto start = reinterpret_cast<uintptr_t>(
      context.workspace->AllocateBytes(bytes + static_cast<int64_t>(kLibraryAlignment)));
  return reinterpret_cast<void*>((start + kLibraryAlignment - 1) / kLibraryAlignment *
                                 kLibraryAlignment);
}

LinearScratch TakeLinear(const TensorView& result, size_t vector_bytes, Context& context) {
  LinearScratch scratch;
  const size_t parts = kPartsOfSum * result.NumElements() * sizeof(float);
  scratch.workspace_bytes = std::min(
      kMaxLinearWorkspace, (parts + kLibraryAlignment - 1) / kLibraryAlignment * kLibraryAlignment);
  scratch.workspace = TakeAligned(static_cast<int64_t>(scratch.workspace_bytes), context);
  if (vector_bytes > 0) scratch.vector = context.workspace->AllocateBytes(vector_bytes);
  return scratch;
}

}  // namespace

LinearScratch TakeScratch(const LinearForwardArgs& args, Context& context) {
  const bool copies = !args.bias.empty() && !TakesBias(args);
  const size_t bias = copies ? args.bias.NumElements() * SizeOf(args.y.dtype) : 0;
  return TakeLinear(args.y, bias, context);
}

LinearScratch TakeScratch(const LinearBackwardInputArgs& args, Context& context) {
  return TakeLinear(args.dx, 0, context);
}

LinearScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context) {
  return TakeLinear(args.dweight, args.dbias.empty() ? 0 : args.dbias.Bytes(), context);
}

LayerNormParts PartsOf(const LayerNormBackwardArgs& args) {
  const int64_t rows = args.x.shape[0], c = args.x.shape[1];
  LayerNormParts p;
  p.columns = (c + kColumnsAtOnce - 1) / kColumnsAtOnce * kColumnsAtOnce;
  p.warps = kMaxWarps;
  while (p.warps > 1 && p.SharedBytes() > kMaxShared) p.warps /= 2;
  CHECK_LE(p.SharedBytes(), kMaxShared) << "layer normalisation over " << c << " channels";
  p.parts = std::clamp((rows + p.warps - 1) / p.warps, int64_t{1}, kMaxParts);
  return p;
}

float* TakeScratch(const LayerNormBackwardArgs& args, Context& context) {
  return static_cast<float*>(context.workspace->AllocateBytes(
      PartsOf(args).parts * 2 * args.x.shape[1] * static_cast<int64_t>(sizeof(float))));
}

int64_t RowParts(int64_t rows) {
  constexpr int64_t kRowsOfPart = 64, kMostParts = 512;
  return std::clamp(rows / kRowsOfPart, int64_t{1}, kMostParts);
}

float* TakeScratch(const MaskTokensBackwardArgs& args, Context& context) {
  const int64_t rows = args.dx.shape[0] * args.dx.shape[1];
  return static_cast<float*>(context.workspace->AllocateBytes(
      RowParts(rows) * args.dtoken.NumElements() * static_cast<int64_t>(sizeof(float))));
}

int64_t GeluParts(int64_t rows) {
  // Fewer rows of a block are not worth the part that comes of them.
  constexpr int64_t kRowsOfBlock = 32;
  return std::clamp((rows + kRowsOfBlock - 1) / kRowsOfBlock, int64_t{1}, kMaxParts);
}

float* TakeScratch(const GeluBackwardArgs& args, Context& context) {
  if (args.dbias.empty()) return nullptr;
  return static_cast<float*>(context.workspace->AllocateBytes(
      GeluParts(args.x.shape[0]) * args.dbias.NumElements() * static_cast<int64_t>(sizeof(float))));
}

float* TakeScratch(const PositionTableBackwardArgs& args, Context& context) {
  return static_cast<float*>(context.workspace->AllocateBytes(args.dtable.Bytes()));
}

int64_t BiasParts(const BiasScatterArgs& args) {
  // A row takes about a microsecond, and many parts much memory.
  constexpr int64_t kRowsOfPart = 8, kMostParts = 32;
  const int64_t rows = args.index.shape[0] * args.index.shape[1];
  return std::clamp(rows / kRowsOfPart, int64_t{1}, kMostParts);
}

float* TakeScratch(const BiasScatterArgs& args, Context& context) {
  return static_cast<float*>(
      context.workspace->AllocateBytes(BiasParts(args) * args.dtable.Bytes()));
}

int64_t AttentionTile(const WindowGeometry& geometry, DType dtype) {
  if (dtype == DType::kF32) return kPlainTile;
  const int64_t n = geometry.WindowTokens(), tiles = (n + kMaxMmaTile - 1) / kMaxMmaTile;
  return ((n + tiles - 1) / tiles + 15) / 16 * 16;
}

int64_t AttentionTiles(const WindowGeometry& geometry, DType dtype) {
  const int64_t tile = AttentionTile(geometry, dtype);
  return (geometry.WindowTokens() + tile - 1) / tile;
}

std::string WhyNotAttention(int64_t tokens, int64_t heads, int64_t biases, DType dtype) {
  // Pairs of tiles are blocks of a grid's second dimension, pairs of tokens have indices of 32
  // bits.
  constexpr int64_t kMostBlocks = 65535, kMostIndices = std::numeric_limits<int32_t>::max();
  const WindowGeometry window = {.height = 1, .width = tokens, .window_h = 1, .window_w = tokens};
  const int64_t tiles = AttentionTiles(window, dtype);
  const std::string text = "windows of " + std::to_string(tokens) + " tokens";
  if (tiles * tiles > kMostBlocks) {
    return text + " are too large in " + NameOf(dtype) + ": use smaller windows";
  }
  if (biases * heads * tokens * tokens > kMostIndices) {
    return text + " have more position biases for " + std::to_string(heads) +
           " heads than 32 bits can number: use smaller windows or fewer heads";
  }
  return "";
}

bool AttentionIsOneKernel(const WindowGeometry& geometry, DType dtype) {
  return dtype != DType::kF32 && AttentionTiles(geometry, dtype) == 1;
}

int64_t AttentionGroups(const TensorView& bias) {
  return bias.empty() || bias.shape.rank() < 4 ? 1 : bias.shape[0];
}

AttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context) {
  const auto take = [&](int64_t bytes) { return context.workspace->AllocateBytes(bytes); };
  const int64_t windows = args.range.count > 0 ? args.range.count : args.geometry.Windows();
  const int64_t tiles = AttentionTiles(args.geometry, args.qkv.dtype);
  const int64_t groups = AttentionGroups(args.bias);
  const bool one_kernel = AttentionIsOneKernel(args.geometry, args.qkv.dtype);
  AttentionScratch scratch;
  // So many blocks keep any device busy, and fewer windows are not worth the part that comes of
  // them.
  constexpr int64_t kBlocks = 1024, kWindowsOfPart = 4;
  scratch.parts = std::max<int64_t>(1, std::min(kBlocks / (groups * args.heads * tiles * tiles),
                                                windows / (kWindowsOfPart * groups)));
  if (!args.bias.empty()) {
    scratch.dbias = static_cast<float*>(take(scratch.parts * args.bias.Bytes()));
  }
  if (!args.logit_scale.empty()) {
    scratch.scale_sums = one_kernel ? scratch.parts * groups : windows;
    scratch.dscale = static_cast<double*>(
        take(scratch.scale_sums * args.heads * tiles * static_cast<int64_t>(sizeof(double))));
  }
  if (one_kernel) return scratch;
  scratch.delta = static_cast<float*>(take(args.lse.Bytes()));
  scratch.dq = take(args.qkv.Bytes() / 3);
  return scratch;
}

namespace {

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The elements of a patch embedding's tensors.
struct PatchSizes {
  int64_t pixels = 1;  // of a picture, filled up to whole patches
  int64_t patches = 1;
  int64_t patch = 1;  // pixels of one
  int64_t channels, filters;

  PatchSizes(const TensorView& image, const TensorView& weight)
      : channels(weight.shape[1]), filters(weight.shape[0]) {
    for (int i = 2; i < image.shape.rank(); ++i) {
      const int64_t size = weight.shape[i], count = (image.shape[i] + size - 1) / size;
      patches *= count;
      patch *= size;
    }
    pixels = patches * patch;
  }
  int64_t Weights() const { return filters * patch * channels; }

  int64_t AtOnce(DType dtype, int64_t batch) const {
    const int64_t picture = (pixels * channels + patches * filters) * Bytes(dtype);
    return std::clamp(picture_bytes / picture, int64_t{1}, std::max(batch, int64_t{1}));
  }
  // What cuDNN may use: a copy of all that it reads and writes in another layout, channels filled
  // up to 16 bytes; and, for gradients of filters, parts of sums over the tokens, in whole tiles.
  int64_t WorkspaceBytes(DType dtype, int64_t pictures) const {
    constexpr int64_t kSmallThings = 1 << 20, kMostPartBytes = int64_t{64} << 20;
    constexpr int64_t kTokensOfPart = 32, kMostParts = 160, kTile = 128;
    const int64_t fill = 16 / Bytes(dtype);
    const int64_t filled = RoundUp(channels, fill), outputs = RoundUp(filters, fill);
    const int64_t copies =
        pictures * (pixels * filled + patches * outputs) + outputs * patch * filled;
    const int64_t parts = std::clamp(pictures * patches / kTokensOfPart, int64_t{1}, kMostParts);
    const int64_t tiles = RoundUp(filters, kTile) * RoundUp(patch * channels, kTile);
    return RoundUp(copies * Bytes(dtype), static_cast<int64_t>(kLibraryAlignment)) +
           std::min(parts * tiles * Bytes(DType::kF32), kMostPartBytes) + kSmallThings;
  }

  static int64_t Bytes(DType dtype) { return static_cast<int64_t>(SizeOf(dtype)); }
};

// The convolution's part of the scratch.
PatchEmbeddingScratch TakeConvolution(const PatchSizes& sizes, DType dtype, int64_t pictures,
                                      bool filters, Context& context) {
  const auto take = [&](int64_t elements) {
    return TakeAligned(elements * PatchSizes::Bytes(dtype), context);
  };
  PatchEmbeddingScratch scratch;
  scratch.pictures = take(pictures * sizes.pixels * sizes.channels);
  if (filters) scratch.filters = take(sizes.Weights());
  scratch.tokens = take(pictures * sizes.patches * sizes.filters);
  scratch.workspace_bytes = static_cast<size_t>(sizes.WorkspaceBytes(dtype, pictures));
  scratch.workspace = TakeAligned(static_cast<int64_t>(scratch.workspace_bytes), context);
  return scratch;
}

}  // namespace

int64_t PicturesAtOnce(const PatchEmbeddingForwardArgs& args) {
  return PatchSizes(args.image, args.weight).AtOnce(args.y.dtype, args.image.shape[0]);
}

int64_t PicturesAtOnce(const PatchEmbeddingBackwardArgs& args) {
  return PatchSizes(args.image, args.weight).AtOnce(DType::kF32, args.image.shape[0]);
}

PatchEmbeddingScratch TakeScratch(const PatchEmbeddingForwardArgs& args, Context& context) {
  return TakeConvolution(PatchSizes(args.image, args.weight), args.y.dtype, PicturesAtOnce(args),
                         /*filters=*/true, context);
}

PatchEmbeddingScratch TakeScratch(const PatchEmbeddingBackwardArgs& args, Context& context) {
  const PatchSizes sizes(args.image, args.weight);
  const int64_t pictures = PicturesAtOnce(args);
  const bool of_pictures = !args.dimage.empty();
  const auto take = [&](int64_t elements) {
    return static_cast<float*>(TakeAligned(elements * PatchSizes::Bytes(DType::kF32), context));
  };
  PatchEmbeddingScratch scratch =
      TakeConvolution(sizes, DType::kF32, pictures, of_pictures, context);
  scratch.dfilters = take(sizes.Weights());
  scratch.bias_parts = take(RowParts(args.dy.shape[0]) * sizes.filters);
  if (of_pictures) scratch.dpictures = take(pictures * sizes.pixels * sizes.channels);
  return scratch;
}

double* TakeScratch(const SumOfSquaresArgs& args, Context& context) {
  const int64_t chunks = (args.x.NumElements() + kNormChunk - 1) / kNormChunk;
  return static_cast<double*>(
      context.workspace->AllocateBytes(chunks * static_cast<int64_t>(sizeof(double))));
}

}  // namespace swinfleet::cuda
