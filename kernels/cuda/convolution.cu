// Convolutions, by cuDNN's own functions for them. Descriptors count (B, C, map) and (K, C, kernel)
// whatever the layout, which strides give, or for filters the format.
#include <cudnn.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/plan_cache.h"

namespace swinfleet::cuda {
namespace {

void CheckDnn(cudnnStatus_t status, const std::string& what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char reason[256] = "";
  cudnnGetLastErrorString(reason, sizeof(reason));
  throw Error("cuDNN: " + what + " failed: " + cudnnGetErrorString(status) +
              (reason[0] == 0 ? "" : std::string(" (") + reason + ")"));
}

// Of the device that is current at the first call, for the process's life.
cudnnHandle_t TheHandle(const Context& context) {
  static const cudnnHandle_t handle = [] {
    cudnnHandle_t made = nullptr;
    CheckDnn(cudnnCreate(&made), "its beginning");
    return made;
  }();
  CheckDnn(cudnnSetStream(handle, StreamOf(context)), "taking a stream");
  return handle;
}

cudnnDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDNN_DATA_BFLOAT16;
    case DType::kF16:
      return CUDNN_DATA_HALF;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

// What may multiply: float32 numbers are rounded to TF32 only where that is allowed.
cudnnMathType_t MathOf(const Convolution& c) {
  if (c.dtype != DType::kF32) return CUDNN_TENSOR_OP_MATH;
  return c.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

template <typename T, auto kCreate, auto kDestroy>
class Descriptor {
 public:
  Descriptor() { CheckDnn(kCreate(&made_), "a descriptor"); }
  ~Descriptor() { kDestroy(made_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator T() const { return made_; }

 private:
  T made_ = nullptr;
};
using TensorDescriptor =
    Descriptor<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using FilterDescriptor =
    Descriptor<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
using ConvolutionDescriptor =
    Descriptor<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor,
               cudnnDestroyConvolutionDescriptor>;

constexpr int kMaxRank = 5;

// (B, map, channels), told as (B, channels, map).
void Describe(const Convolution& c, int64_t channels, const std::array<int64_t, 3>& map,
              const TensorDescriptor& descriptor) {
  int size[kMaxRank] = {static_cast<int>(Narrow(c.batch)), static_cast<int>(Narrow(channels))};
  int stride[kMaxRank] = {0, 1};
  int64_t next = channels;
  for (int i = c.spatial - 1; i >= 0; --i) {
    size[2 + i] = static_cast<int>(Narrow(map[i]));
    stride[2 + i] = static_cast<int>(Narrow(next));
    next *= map[i];
  }
  stride[0] = static_cast<int>(Narrow(next));
  Narrow(next * c.batch);
  CheckDnn(cudnnSetTensorNdDescriptor(descriptor, TypeOf(c.dtype), 2 + c.spatial, size, stride),
           "the description of a tensor");
}

struct Descriptors {
  TensorDescriptor x, y;
  FilterDescriptor w;
  ConvolutionDescriptor convolution;

  explicit Descriptors(const Convolution& c) {
    std::array<int64_t, 3> tokens = {};
    int filter[kMaxRank] = {static_cast<int>(Narrow(c.filters)),
                            static_cast<int>(Narrow(c.channels))};
    int stride[3], padding[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};
    for (int i = 0; i < c.spatial; ++i) {
      CHECK(c.kernel[i] > 0 && c.map[i] % c.kernel[i] == 0) << c.map[i] << " by " << c.kernel[i];
      tokens[i] = c.map[i] / c.kernel[i];
      filter[2 + i] = stride[i] = static_cast<int>(Narrow(c.kernel[i]));
    }
    Describe(c, c.channels, c.map, x);
    Describe(c, c.filters, tokens, y);
    CheckDnn(
        cudnnSetFilterNdDescriptor(w, TypeOf(c.dtype), CUDNN_TENSOR_NHWC, 2 + c.spatial, filter),
        "the description of filters");
    CheckDnn(cudnnSetConvolutionNdDescriptor(convolution, c.spatial, padding, stride, dilation,
                                             CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
             "the description of a convolution");
    CheckDnn(cudnnSetConvolutionMathType(convolution, MathOf(c)), "the choice of arithmetic");
  }
};

std::string NameOf(const Convolution& c, const char* what) {
  std::ostringstream name;
  name << what << " of " << c.batch << " x " << c.channels;
  for (int i = 0; i < c.spatial; ++i) name << " x " << c.map[i];
  name << " " << NameOf(c.dtype) << " by " << c.filters << " filters of " << c.kernel[0];
  for (int i = 1; i < c.spatial; ++i) name << " x " << c.kernel[i];
  return name.str();
}

// The first algorithm of `found`, the fastest first, that is among `allowed`, has the same bits in
// every run, and that the workspace suffices for.
template <typename Found, typename Algorithm>
Found Choose(const std::vector<Found>& found, std::initializer_list<Algorithm> allowed,
             const Convolution& c, const char* what, const ConvolutionWorkspace& workspace) {
  size_t least = 0;
  for (const Found& one : found) {
    if (one.status != CUDNN_STATUS_SUCCESS || one.determinism != CUDNN_DETERMINISTIC ||
        std::find(allowed.begin(), allowed.end(), one.algo) == allowed.end()) {
      continue;
    }
    if (one.memory <= workspace.bytes) return one;
    least = least == 0 ? one.memory : std::min(least, one.memory);
  }
  std::string text =
      "cuDNN " + std::to_string(cudnnGetVersion()) + " has no algorithm for the " + NameOf(c, what);
  if (least > 0) {
    text += " that takes no more than " + std::to_string(workspace.bytes) + " bytes: it asks for " +
            std::to_string(least);
  }
  throw Error(text + ". Train on the CPU (--device cpu), or with another version of cuDNN");
}

// What the library is told of a convolution, and what it has chosen; Found is its answer's type.
template <typename Found>
struct ConvolutionPlan {
  Descriptors d;
  Found chosen;

  // ask(descriptors, most, count, to) calls one of cudnnGetConvolution*Algorithm_v7.
  template <typename Ask, typename Algorithm>
  ConvolutionPlan(const Convolution& c, const char* what, const ConvolutionWorkspace& workspace,
                  const std::initializer_list<Algorithm>& allowed, const Ask& ask)
      : d(c) {
    // More than there are, twice: with tensor cores and without.
    constexpr int kMost = 2 * CUDNN_CONVOLUTION_FWD_ALGO_COUNT;
    std::vector<Found> found(kMost);
    int count = 0;
    CheckDnn(ask(d, kMost, &count, found.data()),
             "looking for an algorithm for the " + NameOf(c, what));
    found.resize(count);
    chosen = Choose(found, allowed, c, what, workspace);
    // An algorithm is found for a kind of arithmetic, which is to be said again with it; but it
    // never widens what may round.
    if (MathOf(c) == CUDNN_FMA_MATH) return;
    CheckDnn(cudnnSetConvolutionMathType(d.convolution, chosen.mathType),
             "the choice of arithmetic");
  }
};

// The plan for these sizes and for so much workspace; one kind of convolution has one type Found.
template <typename Found, typename Algorithm, typename Ask>
const ConvolutionPlan<Found>& PlanOf(const Convolution& c, const char* what,
                                     const ConvolutionWorkspace& workspace,
                                     const std::initializer_list<Algorithm>& allowed,
                                     const Ask& ask) {
  // Of the one thread that computes.
  static PlanCache<std::pair<Convolution, size_t>, ConvolutionPlan<Found>> plans;
  return plans.Get({c, workspace.bytes}, c, what, workspace, allowed, ask);
}

constexpr float kOne = 1, kZero = 0;

}  // namespace

void ConvolutionForward(const Convolution& c, const void* x, const void* w, void* y,
                        const ConvolutionWorkspace& workspace, const Context& context) {
  using Found = cudnnConvolutionFwdAlgoPerf_t;
  constexpr char kWhat[] = "convolution";
  const cudnnHandle_t handle = TheHandle(context);
  const auto& [d, chosen] =
      PlanOf<Found>(c, kWhat, workspace,
                    std::initializer_list<cudnnConvolutionFwdAlgo_t>{
                        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
                        CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM},
                    [handle](const Descriptors& of, int most, int* count, Found* to) {
                      return cudnnGetConvolutionForwardAlgorithm_v7(
                          handle, of.x, of.w, of.convolution, of.y, most, count, to);
                    });
  CheckDnn(cudnnConvolutionForward(handle, &kOne, d.x, x, d.w, w, d.convolution, chosen.algo,
                                   workspace.data, workspace.bytes, &kZero, d.y, y),
           "the " + NameOf(c, kWhat));
}

void ConvolutionBackwardFilters(const Convolution& c, const void* x, const void* dy, void* dw,
                                const ConvolutionWorkspace& workspace, const Context& context) {
  using Found = cudnnConvolutionBwdFilterAlgoPerf_t;
  constexpr char kWhat[] = "filters' gradient of the convolution";
  const cudnnHandle_t handle = TheHandle(context);
  const auto& [d, chosen] = PlanOf<Found>(
      c, kWhat, workspace,
      std::initializer_list<cudnnConvolutionBwdFilterAlgo_t>{CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1},
      [handle](const Descriptors& of, int most, int* count, Found* to) {
        return cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, of.x, of.y, of.convolution,
                                                             of.w, most, count, to);
      });
  CheckDnn(
      cudnnConvolutionBackwardFilter(handle, &kOne, d.x, x, d.y, dy, d.convolution, chosen.algo,
                                     workspace.data, workspace.bytes, &kZero, d.w, dw),
      "the " + NameOf(c, kWhat));
}

void ConvolutionBackwardInput(const Convolution& c, const void* dy, const void* w, void* dx,
                              const ConvolutionWorkspace& workspace, const Context& context) {
  using Found = cudnnConvolutionBwdDataAlgoPerf_t;
  constexpr char kWhat[] = "input's gradient of the convolution";
  const cudnnHandle_t handle = TheHandle(context);
  const auto& [d, chosen] = PlanOf<Found>(
      c, kWhat, workspace,
      std::initializer_list<cudnnConvolutionBwdDataAlgo_t>{CUDNN_CONVOLUTION_BWD_DATA_ALGO_1},
      [handle](const Descriptors& of, int most, int* count, Found* to) {
        return cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, of.w, of.y, of.convolution, of.x,
                                                           most, count, to);
      });
  CheckDnn(cudnnConvolutionBackwardData(handle, &kOne, d.w, w, d.y, dy, d.convolution, chosen.algo,
                                        workspace.data, workspace.bytes, &kZero, d.x, dx),
           "the " + NameOf(c, kWhat));
}

}  // namespace swinfleet::cuda
