// The convolution that makes tokens of patches. The library takes tensors whose channels lie side
// by side: pictures and filters are brought into that layout, and gradients back out of it.
// Pictures are filled up with zeros to whole patches on the way. In backward all is float32, of
// numbers that the call's dtype has: gradients of filters are sums over all tokens.
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/window_map.h"
#include "kernels/patch_embedding_checks.h"

namespace swinfleet::cuda {
namespace {

// Pictures (B, channels, image) and the same as (B, whole, channels).
struct PictureLayout {
  uint32_t channels;
  Extent image, whole;

  // The element of the pictures that stands there; -1 where the picture has ended.
  __device__ int64_t PixelOf(uint32_t element) const {
    const uint32_t channel = element % channels;
    element /= channels;
    const uint32_t x = element % whole.width;
    element /= whole.width;
    const uint32_t y = element % whole.height;
    element /= whole.height;
    const uint32_t t = element % whole.depth, b = element / whole.depth;
    if (x >= image.width || y >= image.height || t >= image.depth) return -1;
    return ((static_cast<int64_t>(b * channels + channel) * image.depth + t) * image.height + y) *
               image.width +
           x;
  }
};

// Rounded to Call on the way.
template <typename Call, typename To>
struct LayPictures {
  PictureLayout layout;
  const float* image;
  To* to;

  __device__ void operator()(int64_t i) const {
    const int64_t pixel = layout.PixelOf(static_cast<uint32_t>(i));
    to[i] = FromFloat<To>(pixel < 0 ? 0.0f : ToFloat(FromFloat<Call>(image[pixel])));
  }
};

struct TakePictures {
  PictureLayout layout;
  const float* from;
  float* image;

  __device__ void operator()(int64_t i) const {
    const int64_t pixel = layout.PixelOf(static_cast<uint32_t>(i));
    if (pixel >= 0) image[pixel] = from[i];
  }
};

// (C, channels, patch) and (C, patch, channels).
struct FilterLayout {
  uint32_t channels, patch;

  // The element of the former that stands there in the latter.
  __device__ int64_t operator()(uint32_t element) const {
    const uint32_t channel = element % channels, place = element / channels;
    return static_cast<int64_t>(place / patch * channels + channel) * patch + place % patch;
  }
};

template <typename From, typename To>
struct LayFilters {
  FilterLayout layout;
  const From* weight;
  To* to;

  __device__ void operator()(int64_t i) const {
    to[i] = FromFloat<To>(ToFloat(weight[layout(static_cast<uint32_t>(i))]));
  }
};

struct AddFilters {
  FilterLayout layout;
  const float* from;
  float* dweight;

  __device__ void operator()(int64_t i) const {
    dweight[layout(static_cast<uint32_t>(i))] += from[i];
  }
};

template <typename T, typename Bias>
struct AddBias {
  const T* from;
  const Bias* bias;
  T* y;
  uint32_t c;

  __device__ void operator()(int64_t i) const {
    y[i] = FromFloat<T>(ToFloat(from[i]) + ToFloat(bias[static_cast<uint32_t>(i) % c]));
  }
};

// Column sums of a part of the rows, as many one after the other as a part has.
template <typename T>
struct SumPartOfRows {
  const T* dy;  // (rows, c)
  int64_t rows, parts, c;
  float* sums;  // (parts, c)

  __device__ void operator()(int64_t i) const {
    const int64_t part = i / c, column = i % c;
    float sum = 0;
    for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
      sum += ToFloat(dy[row * c + column]);
    }
    sums[i] = sum;
  }
};

// What forward and backward share.
struct Embedding {
  Convolution convolution;  // of the pictures that are taken at once
  PictureLayout pictures;
  FilterLayout filters;
  int64_t batch, at_once;
  int64_t tokens = 1;  // of a picture

  int64_t Weights() const { return convolution.filters * filters.patch * filters.channels; }
  // Of a picture in the convolution's layout.
  int64_t Pixels() const { return tokens * filters.patch * filters.channels; }
  Convolution Of(int64_t count) const {
    Convolution c = convolution;
    c.batch = count;
    return c;
  }
};

Embedding EmbeddingOf(const TensorView& image, const TensorView& weight, DType dtype, bool tf32,
                      int64_t at_once) {
  Embedding e = {.convolution = {.dtype = dtype,
                                 .tf32 = tf32,
                                 .spatial = image.shape.rank() - 2,
                                 .batch = at_once,
                                 .channels = image.shape[1],
                                 .filters = weight.shape[0]},
                 .pictures = {},
                 .filters = {},
                 .batch = image.shape[0],
                 .at_once = at_once};
  uint32_t size[3] = {1, 1, 1}, whole[3] = {1, 1, 1};
  int64_t patch = 1;
  for (int i = 0; i < e.convolution.spatial; ++i) {
    const int64_t pixels = image.shape[2 + i], kernel = weight.shape[2 + i];
    const int64_t count = (pixels + kernel - 1) / kernel;
    e.convolution.kernel[i] = kernel;
    e.convolution.map[i] = count * kernel;
    const int axis = 3 - e.convolution.spatial + i;
    size[axis] = Narrow(pixels);
    whole[axis] = Narrow(count * kernel);
    e.tokens *= count;
    patch *= kernel;
  }
  const uint32_t channels = Narrow(image.shape[1]);
  e.pictures = {channels, {size[0], size[1], size[2]}, {whole[0], whole[1], whole[2]}};
  e.filters = {channels, Narrow(patch)};
  Narrow(e.Weights());
  Narrow(at_once * std::max(e.Pixels(), e.tokens * weight.shape[0]));
  return e;
}

// Calls body(first, count) for the pictures that are taken at once.
template <typename Body>
void ForEachChunk(const Embedding& e, const Body& body) {
  for (int64_t first = 0; first < e.batch; first += e.at_once) {
    body(first, std::min(e.at_once, e.batch - first));
  }
}

template <typename Call, typename To>
void RunLayPictures(const Embedding& e, const TensorView& image, int64_t first, int64_t count,
                    void* to, const Context& context) {
  ForEach(count * e.Pixels(),
          LayPictures<Call, To>{e.pictures, Elements<float>(image.Rows(first, count)),
                                static_cast<To*>(to)},
          context);
}

template <typename From, typename To>
void RunLayFilters(const Embedding& e, const TensorView& weight, void* to, const Context& context) {
  ForEach(e.Weights(),
          LayFilters<From, To>{e.filters, Elements<From>(weight), static_cast<To*>(to)}, context);
}

template <typename T>
void RunAddBias(const TensorView& bias, const void* from, const TensorView& y,
                const Context& context) {
  const auto add = [&](auto tag) {
    using Bias = decltype(tag);
    ForEach(y.NumElements(),
            AddBias<T, Bias>{static_cast<const T*>(from), Elements<Bias>(bias), Elements<T>(y),
                             Narrow(bias.NumElements())},
            context);
  };
  if (bias.dtype == DType::kF32) return add(float());
  add(T());
}

void BiasGradient(const PatchEmbeddingBackwardArgs& args, float* sums, const Context& context) {
  const int64_t rows = args.dy.shape[0], c = args.dy.shape[1], parts = RowParts(rows);
  DispatchDType(args.dy.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(parts * c, SumPartOfRows<T>{Elements<T>(args.dy), rows, parts, c, sums}, context);
  });
  AddParts({sums, parts, c, c}, Elements<float>(args.dbias), context);
}

}  // namespace

void PatchEmbeddingForward(const PatchEmbeddingForwardArgs& args, Context& context) {
  CheckArgs(args);
  const Embedding e =
      EmbeddingOf(args.image, args.weight, args.y.dtype, context.tf32, PicturesAtOnce(args));
  ArenaScope scope(context.workspace);
  const PatchEmbeddingScratch scratch = TakeScratch(args, context);
  if (e.batch == 0) return;
  DispatchDType(args.y.dtype, [&](auto tag) {
    using T = decltype(tag);
    RunLayFilters<T, T>(e, args.weight, scratch.filters, context);
    ForEachChunk(e, [&](int64_t first, int64_t count) {
      RunLayPictures<T, T>(e, args.image, first, count, scratch.pictures, context);
      ConvolutionForward(e.Of(count), scratch.pictures, scratch.filters, scratch.tokens,
                         {scratch.workspace, scratch.workspace_bytes}, context);
      RunAddBias<T>(args.bias, scratch.tokens, args.y.Rows(first * e.tokens, count * e.tokens),
                    context);
    });
  });
}

void PatchEmbeddingBackward(const PatchEmbeddingBackwardArgs& args, Context& context) {
  CheckArgs(args);
  // Numbers of 16 bits are none that TF32 would round.
  const bool tf32 = context.tf32 || args.dy.dtype != DType::kF32;
  const Embedding e =
      EmbeddingOf(args.image, args.dweight, DType::kF32, tf32, PicturesAtOnce(args));
  ArenaScope scope(context.workspace);
  const PatchEmbeddingScratch scratch = TakeScratch(args, context);
  const ConvolutionWorkspace workspace = {scratch.workspace, scratch.workspace_bytes};
  if (e.batch == 0) return;
  DispatchDType(args.dy.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (!args.dimage.empty()) RunLayFilters<T, float>(e, args.weight, scratch.filters, context);
    ForEachChunk(e, [&](int64_t first, int64_t count) {
      const TensorView dy = args.dy.Rows(first * e.tokens, count * e.tokens);
      RunLayPictures<T, float>(e, args.image, first, count, scratch.pictures, context);
      Cast({dy, {scratch.tokens, dy.shape, DType::kF32, Device::kCuda}}, context);
      ConvolutionBackwardFilters(e.Of(count), scratch.pictures, scratch.tokens, scratch.dfilters,
                                 workspace, context);
      ForEach(e.Weights(), AddFilters{e.filters, scratch.dfilters, Elements<float>(args.dweight)},
              context);
      if (args.dimage.empty()) return;
      ConvolutionBackwardInput(e.Of(count), scratch.tokens, scratch.filters, scratch.dpictures,
                               workspace, context);
      ForEach(count * e.Pixels(),
              TakePictures{e.pictures, scratch.dpictures,
                           Elements<float>(args.dimage.Rows(first, count))},
              context);
    });
  });
  BiasGradient(args, scratch.bias_parts, context);
}

}  // namespace swinfleet::cuda
