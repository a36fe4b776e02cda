// Attention within windows: what both ways of computing it (window_attention.h) begin and end with.
#include "kernels/cuda/window_attention.h"

#include "kernels/cuda/cuda_kernels.h"

namespace swinfleet::cuda {
namespace {

// dlogit_scale += the sum of the blocks' parts, of heads whose scale is not clamped. A block a
// head.
template <typename T>
__global__ void ScaleGradientsKernel(const double* parts, uint32_t sums, uint32_t tiles,
                                     const T* logit_scale, float* dlogit_scale) {
  SharedCarver carver;
  double* totals = carver.Take<double>(kMaxWarps);
  const uint32_t heads = gridDim.x, head = blockIdx.x;
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < sums * tiles; i += blockDim.x) {
    sum += parts[(static_cast<int64_t>(i / tiles) * heads + head) * tiles + i % tiles];
  }
  sum = BlockTotal<false>(sum, totals);
  if (threadIdx.x == 0 && ToFloat(logit_scale[head]) < kMaxLogitScale) {
    dlogit_scale[head] += static_cast<float>(sum);
  }
}

// The gradients of queries to their place, when no block needs the queries any more.
template <typename T, int kWidth>
struct PlaceQueryGradients {
  const T* dq;  // (rows, C)
  T* dqkv;      // (rows, 3, C)
  int64_t packs_per_row;

  __device__ void operator()(int64_t pack) const {
    const int64_t to = pack / packs_per_row * 3 * packs_per_row + pack % packs_per_row;
    reinterpret_cast<Pack<T, kWidth>*>(dqkv)[to] =
        reinterpret_cast<const Pack<T, kWidth>*>(dq)[pack];
  }
};

template <typename Args>
int64_t WindowsOf(const Args& args) {
  return args.range.count > 0 ? args.range.count : args.geometry.Windows();
}

// `out` is the output of forward, or its gradient.
template <typename Args>
void CheckArgs(const Args& args, const TensorView& out) {
  const WindowGeometry& g = args.geometry;
  const int64_t channels = args.qkv.shape[args.qkv.shape.rank() - 1] / 3;
  CHECK(args.heads > 0 && channels % args.heads == 0 && channels / args.heads <= kMaxDim)
      << args.qkv.shape << " in " << args.heads << " heads";
  CHECK(args.range.first >= 0 && args.range.first + WindowsOf(args) <= g.Windows())
      << args.range.first << "+" << WindowsOf(args) << " of " << g.Windows() << " windows";
  CHECK(args.exclude_padding || args.range.count > 0) << "a map has no rows of padding";
  const int64_t rows =
      args.range.count > 0 ? args.range.count * g.WindowTokens() : g.batch * g.Tokens();
  CHECK_EQ(args.qkv.NumElements(), rows * 3 * channels) << args.qkv.shape;
  CHECK_EQ(out.NumElements(), rows * channels) << out.shape;
  CHECK_EQ(args.lse.NumElements(), rows * args.heads) << args.lse.shape;
  const int64_t n = g.WindowTokens();
  CHECK(args.bias.empty() || args.bias.shape == Shape({args.heads, n, n}) ||
        (args.bias.shape.rank() == 4 &&
         args.bias.shape == Shape({args.bias.shape[0], args.heads, n, n})))
      << args.bias.shape;
  CHECK(args.logit_scale.empty() || args.logit_scale.NumElements() == args.heads)
      << args.logit_scale.shape;
  CheckFloating(args.qkv.dtype, {args.logit_scale, out});
  CheckDtype(DType::kF32, {args.bias, args.lse});
}

template <typename T, typename Args>
AttentionInputs<T> InputsOf(const Args& args, bool aligned) {
  const int64_t dim = args.qkv.shape[args.qkv.shape.rank() - 1] / 3 / args.heads;
  const float scale = args.score_scale != 0
                          ? args.score_scale
                          : static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  const uint32_t tokens = Narrow(args.geometry.WindowTokens());
  // Biases of a head are counted in 32 bits.
  if (!args.bias.empty()) Narrow(static_cast<int64_t>(tokens) * tokens);
  return {{MapOf(args.geometry, args.range), Narrow(args.heads), Narrow(dim), tokens,
           Narrow(AttentionGroups(args.bias)), scale, args.range.count > 0, args.exclude_padding,
           aligned && dim * sizeof(T) % 16 == 0},
          Elements<T>(args.qkv),
          Elements<T>(args.logit_scale),
          Elements<float>(args.bias)};
}

template <typename Args>
AttentionLaunch LaunchOf(const Args& args, const Context& context) {
  return {Narrow(WindowsOf(args)),
          Narrow(args.heads),
          Narrow(AttentionTile(args.geometry, args.qkv.dtype)),
          Narrow(AttentionTiles(args.geometry, args.qkv.dtype)),
          1,
          StreamOf(context)};
}

template <typename T>
void StoreQueryGradients(const WindowAttentionBackwardArgs& args, const T* dq,
                         const Context& context) {
  const int64_t c = args.qkv.shape[args.qkv.shape.rank() - 1] / 3;
  DispatchRowWidth(c, args.dqkv.dtype, {args.dqkv}, [&](auto width) {
    constexpr int kWidth = width;
    ForEach(args.dqkv.NumElements() / (3 * kWidth),
            PlaceQueryGradients<T, kWidth>{dq, Elements<T>(args.dqkv), c / kWidth}, context);
  });
}

}  // namespace

void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context) {
  CheckArgs(args, args.out);
  const AttentionLaunch launch = LaunchOf(args, context);
  if (launch.windows == 0) return;
  const bool aligned = AreAligned(16, {args.qkv, args.out});
  DispatchDType(args.qkv.dtype, [&](auto tag) {
    using T = decltype(tag);
    const AttentionInputs<T> inputs = InputsOf<T>(args, aligned);
    const ForwardOutputs<T> outputs = {Elements<T>(args.out), Elements<float>(args.lse)};
    if constexpr (std::is_same_v<T, float>) {
      PlainForward(inputs, outputs, launch);
    } else {
      MmaForward(inputs, outputs, launch);
    }
  });
}

void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context) {
  CheckArgs(args, args.dout);
  CHECK(args.dqkv.shape == args.qkv.shape && args.dqkv.dtype == args.qkv.dtype)
      << args.dqkv.shape << " for " << args.qkv.shape;
  CHECK(args.dbias.empty() == args.bias.empty() && args.dbias.shape == args.bias.shape)
      << args.dbias.shape << " for " << args.bias.shape;
  CHECK(args.dlogit_scale.empty() == args.logit_scale.empty() &&
        (args.dlogit_scale.empty() || args.dlogit_scale.NumElements() == args.heads));
  CheckDtype(DType::kF32, {args.dbias, args.dlogit_scale});
  ArenaScope scope(context.workspace);
  const AttentionScratch scratch = TakeScratch(args, context);
  AttentionLaunch launch = LaunchOf(args, context);
  launch.parts = Narrow(scratch.parts);
  if (launch.windows == 0) return;
  const bool aligned = AreAligned(16, {args.qkv, args.dout, args.dqkv});
  DispatchDType(args.qkv.dtype, [&](auto tag) {
    using T = decltype(tag);
    const AttentionInputs<T> inputs = InputsOf<T>(args, aligned);
    const BackwardArrays<T> arrays = {Elements<float>(args.lse),
                                      Elements<T>(args.dout),
                                      Elements<T>(args.dqkv),
                                      static_cast<T*>(scratch.dq),
                                      scratch.delta,
                                      scratch.dscale,
                                      scratch.dbias};
    if constexpr (std::is_same_v<T, float>) {
      PlainBackward(inputs, arrays, launch);
    } else {
      MmaBackward(inputs, arrays, launch);
    }
    if (arrays.dq != nullptr) StoreQueryGradients<T>(args, arrays.dq, context);
    if (inputs.logit_scale != nullptr) {
      GpuLaunch(ScaleGradientsKernel<T>, launch.heads, kThreads, kTotalBytes, launch.stream,
                scratch.dscale, Narrow(scratch.scale_sums), launch.tiles, inputs.logit_scale,
                Elements<float>(args.dlogit_scale));
    }
  });
  if (args.dbias.empty()) return;
  const int64_t n = args.dbias.NumElements();
  AddParts({scratch.dbias, scratch.parts, n, n}, Elements<float>(args.dbias), context);
}

}  // namespace swinfleet::cuda
