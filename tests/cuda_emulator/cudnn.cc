// The part of cuDNN that the backend uses, in the library's place: convolutions of channels-last
// tensors. It checks what the library would, as strictly as its documentation is, and refuses
// everything else. Its algorithms are found in the library's ways: among others that are refused,
// that differ from run to run, or that take more arithmetic than was asked for; and they need all
// of the workspace that they name.
#include <cudnn.h>

#include <algorithm>
#include <cstring>

#include "tests/cuda_emulator/internal.h"

namespace swinfleet::emulator {
namespace {

constexpr int kMaxRank = 5;
constexpr size_t kTensorAlignment = 16, kWorkspaceAlignment = 256;

struct DnnHandle {
  cudaStream_t stream = nullptr;
};

// Sizes are (B, channels, map), or (filters, channels, kernel).
struct DnnTensor {
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  int rank = 0;  // 0: not described yet
  int size[kMaxRank] = {};
  int stride[kMaxRank] = {};

  int64_t Elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= size[i];
    return n;
  }
  size_t Bytes() const { return Elements() * (type == CUDNN_DATA_FLOAT ? 4 : 2); }
  // Without gaps, channels side by side.
  bool IsChannelsLast() const {
    int64_t next = size[1];
    if (stride[1] != 1) return false;
    for (int i = rank - 1; i >= 2; --i) {
      if (stride[i] != next) return false;
      next *= size[i];
    }
    return stride[0] == next;
  }
};

struct DnnFilter : DnnTensor {
  cudnnTensorFormat_t format = CUDNN_TENSOR_NCHW;
};

struct DnnConvolution {
  int spatial = 0;  // 0: not described yet
  int padding[3] = {}, stride[3] = {}, dilation[3] = {};
  cudnnConvolutionMode_t mode = CUDNN_CONVOLUTION;
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};

template <typename T, typename Opaque>
T& As(Opaque* opaque) {
  return *reinterpret_cast<T*>(opaque);
}

// A convolution's descriptions, by value: it runs later.
struct Problem {
  DnnTensor x, y;
  DnnFilter w;
  DnnConvolution c;

  // What the algorithms that take a workspace take: a copy of all tensors.
  size_t WorkspaceBytes() const { return x.Bytes() + y.Bytes() + w.Bytes(); }
  bool RoundsToTf32() const { return x.type == CUDNN_DATA_FLOAT && c.math != CUDNN_FMA_MATH; }
};

cudnnStatus_t CheckSizes(const Problem& p) {
  const int rank = p.x.rank;
  if (rank == 0 || p.c.spatial == 0 || p.y.rank != rank || p.w.rank != rank ||
      p.c.spatial + 2 != rank || p.x.size[1] != p.w.size[1] || p.y.size[1] != p.w.size[0] ||
      p.x.size[0] != p.y.size[0]) {
    return CUDNN_STATUS_BAD_PARAM;
  }
  for (int i = 0; i < p.c.spatial; ++i) {
    const int map = p.x.size[2 + i], kernel = p.w.size[2 + i];
    if (kernel > map || p.y.size[2 + i] != (map - kernel) / p.c.stride[i] + 1) {
      return CUDNN_STATUS_BAD_PARAM;
    }
  }
  return CUDNN_STATUS_SUCCESS;
}

// float32 with or without tensor cores, 16 bits with them, and nothing in between.
bool IsCovered(const DnnConvolution& c, cudnnDataType_t type) {
  if (type == CUDNN_DATA_FLOAT) return c.math == CUDNN_FMA_MATH || c.math == CUDNN_DEFAULT_MATH;
  return (type == CUDNN_DATA_HALF || type == CUDNN_DATA_BFLOAT16) && c.math == CUDNN_TENSOR_OP_MATH;
}

cudnnStatus_t CheckProblem(const Problem& p) {
  for (int i = 0; i < p.c.spatial; ++i) {
    if (p.c.padding[i] != 0 || p.c.dilation[i] != 1) return CUDNN_STATUS_NOT_SUPPORTED;
  }
  if (const cudnnStatus_t status = CheckSizes(p); status != CUDNN_STATUS_SUCCESS) return status;
  if (p.x.type != p.y.type || p.x.type != p.w.type || !IsCovered(p.c, p.x.type) ||
      p.c.compute != CUDNN_DATA_FLOAT) {
    return CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
  }
  if (!p.x.IsChannelsLast() || !p.y.IsChannelsLast() || p.w.format != CUDNN_TENSOR_NHWC) {
    return CUDNN_STATUS_NOT_SUPPORTED_LAYOUT;
  }
  return p.c.mode == CUDNN_CROSS_CORRELATION ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}

Problem ProblemOf(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                  cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t y) {
  return {As<DnnTensor>(x), As<DnnTensor>(y), As<DnnFilter>(w), As<DnnConvolution>(c)};
}

// Which of a problem's tensors a call writes.
enum class Written { kY, kW, kX };

// All the arguments of a call.
struct Call {
  Problem p;
  Written written;
  char *x, *w, *y, *workspace;
  size_t workspace_bytes;  // that the algorithm needs
};

bool IsAligned(const void* address, size_t to) {
  return reinterpret_cast<uintptr_t>(address) % to == 0;
}

bool Overlap(const char* a, size_t a_bytes, const char* b, size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

cudnnStatus_t CheckCall(const Call& call, size_t given, const void* alpha, const void* beta) {
  const Problem& p = call.p;
  if (const cudnnStatus_t status = CheckProblem(p); status != CUDNN_STATUS_SUCCESS) return status;
  if (call.x == nullptr || call.w == nullptr || call.y == nullptr || alpha == nullptr ||
      beta == nullptr || (call.workspace_bytes > 0 && call.workspace == nullptr)) {
    return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  }
  for (const void* tensor : {call.x, call.w, call.y}) {
    if (!IsAligned(tensor, kTensorAlignment)) return CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER;
  }
  if (!IsAligned(call.workspace, kWorkspaceAlignment)) {
    return CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER;
  }
  if (given < call.workspace_bytes) return CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT;
  if (Overlap(call.x, p.x.Bytes(), call.y, p.y.Bytes()) ||
      Overlap(call.x, p.x.Bytes(), call.w, p.w.Bytes()) ||
      Overlap(call.w, p.w.Bytes(), call.y, p.y.Bytes())) {
    return CUDNN_STATUS_BAD_PARAM;
  }
  const bool plain =
      *static_cast<const float*>(alpha) == 1 && *static_cast<const float*>(beta) == 0;
  return plain ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}

// The nearest number with the 10 bits of TF32 after the point.
float RoundToTf32(float value) {
  uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7f800000) == 0x7f800000) return value;
  bits += 0xfff + (bits >> 13 & 1);
  return __builtin_bit_cast(float, bits & ~0x1fffu);
}

std::vector<float> Load(const char* from, const DnnTensor& tensor, bool tf32) {
  std::vector<float> values(tensor.Elements());
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.type == CUDNN_DATA_FLOAT) {
      values[i] = reinterpret_cast<const float*>(from)[i];
      if (tf32) values[i] = RoundToTf32(values[i]);
    } else if (tensor.type == CUDNN_DATA_HALF) {
      values[i] = __half2float(reinterpret_cast<const __half*>(from)[i]);
    } else {
      values[i] = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(from)[i]);
    }
  }
  return values;
}

void Store(const std::vector<float>& values, const DnnTensor& tensor, char* to) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.type == CUDNN_DATA_FLOAT) {
      reinterpret_cast<float*>(to)[i] = values[i];
    } else if (tensor.type == CUDNN_DATA_HALF) {
      reinterpret_cast<__half*>(to)[i] = __float2half_rn(values[i]);
    } else {
      reinterpret_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(values[i]);
    }
  }
}

void Record(const void* data, size_t bytes, bool written, const char* what) {
  CheckAllocated(data, bytes, what);
  RecordAccess(data, bytes, written ? AccessKind::kWrite : AccessKind::kRead, {},
               __builtin_return_address(0));
}

// Sizes of a map of up to three dimensions; those that are not there are 1, and come first.
struct Extent3 {
  int64_t size[3] = {1, 1, 1};

  explicit Extent3(const DnnTensor& tensor) {
    std::copy(tensor.size + 2, tensor.size + tensor.rank, size + 5 - tensor.rank);
  }
  int64_t Count() const { return size[0] * size[1] * size[2]; }
};

// Calls body(x, y, w, n) for each output, filter and row of a kernel: n elements of x and of w that
// are multiplied, where the first ones are, and where the output is.
template <typename Body>
void ForEachRow(const Problem& p, const Body& body) {
  const Extent3 map(p.x), kernel(p.w), tokens(p.y);
  int64_t step[3] = {1, 1, 1};
  std::copy(p.c.stride, p.c.stride + p.c.spatial, step + 3 - p.c.spatial);
  const int64_t channels = p.x.size[1], filters = p.w.size[0], row = kernel.size[2] * channels;
  for (int64_t out = 0; out < p.y.size[0] * tokens.Count(); ++out) {
    const int64_t column = out % tokens.size[2] * step[2];
    const int64_t line = out / tokens.size[2] % tokens.size[1] * step[1];
    const int64_t depth = out / (tokens.size[2] * tokens.size[1]) % tokens.size[0] * step[0];
    const int64_t picture = out / tokens.Count();
    for (int64_t filter = 0; filter < filters; ++filter) {
      for (int64_t i = 0; i < kernel.size[0] * kernel.size[1]; ++i) {
        const int64_t d = depth + i / kernel.size[1], h = line + i % kernel.size[1];
        const int64_t x = ((picture * map.size[0] + d) * map.size[1] + h) * map.size[2] + column;
        body(x * channels, out * filters + filter,
             (filter * kernel.size[0] * kernel.size[1] + i) * row, row);
      }
    }
  }
}

void RunConvolution(const Call& call) {
  const ArenaAccess access;
  const Problem& p = call.p;
  Record(call.x, p.x.Bytes(), call.written == Written::kX, "the input of a convolution");
  Record(call.w, p.w.Bytes(), call.written == Written::kW, "the filters of a convolution");
  Record(call.y, p.y.Bytes(), call.written == Written::kY, "the output of a convolution");
  if (call.workspace_bytes > 0) {
    Record(call.workspace, call.workspace_bytes, true, "the workspace of a convolution");
    FillUnwritten(call.workspace, call.workspace_bytes);
  }
  const bool tf32 = p.RoundsToTf32();
  const auto take = [&](const char* from, const DnnTensor& tensor, Written which) {
    if (call.written == which) return std::vector<float>(tensor.Elements());
    return Load(from, tensor, tf32);
  };
  std::vector<float> x = take(call.x, p.x, Written::kX), w = take(call.w, p.w, Written::kW),
                     y = take(call.y, p.y, Written::kY);
  ForEachRow(p, [&](int64_t xi, int64_t yi, int64_t wi, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if (call.written == Written::kY) y[yi] += x[xi + i] * w[wi + i];
      if (call.written == Written::kW) w[wi + i] += x[xi + i] * y[yi];
      if (call.written == Written::kX) x[xi + i] += y[yi] * w[wi + i];
    }
  });
  if (call.written == Written::kX) Store(x, p.x, call.x);
  if (call.written == Written::kW) Store(w, p.w, call.w);
  if (call.written == Written::kY) Store(y, p.y, call.y);
}

cudnnStatus_t Convolve(cudnnHandle_t handle, const Call& call, size_t given, const void* alpha,
                       const void* beta) {
  const cudnnStatus_t status = CheckCall(call, given, alpha, beta);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  EnqueueWork(As<DnnHandle>(handle).stream, [call] { RunConvolution(call); });
  return CUDNN_STATUS_SUCCESS;
}

// What the library found, the fastest first.
template <typename Algorithm>
struct Candidate {
  Algorithm algorithm;
  bool supported, deterministic, takes_workspace;
};

template <typename Found, typename Algorithm, size_t n>
cudnnStatus_t Answer(const Problem& p, const Candidate<Algorithm> (&candidates)[n], int wanted,
                     int* count, Found* found) {
  if (wanted < 1 || count == nullptr || found == nullptr) return CUDNN_STATUS_BAD_PARAM;
  NoteLibraryPreparation();
  const cudnnStatus_t status = CheckProblem(p);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  *count = std::min<int>(wanted, n);
  for (int i = 0; i < *count; ++i) {
    const auto& c = candidates[i];
    found[i] = {};
    found[i].algo = c.algorithm;
    found[i].status = c.supported ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
    found[i].memory = c.takes_workspace ? p.WorkspaceBytes() : 0;
    found[i].determinism = c.deterministic ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
    // It may be what float32 must not be multiplied by.
    found[i].mathType = p.x.type == CUDNN_DATA_FLOAT ? CUDNN_DEFAULT_MATH : CUDNN_TENSOR_OP_MATH;
  }
  return CUDNN_STATUS_SUCCESS;
}

// Copies the description of a tensor or of filters, but for their layout.
cudnnStatus_t Take(cudnnDataType_t type, int rank, const int size[], DnnTensor* tensor) {
  if (rank < 4 || rank > kMaxRank) return CUDNN_STATUS_NOT_SUPPORTED;
  int64_t elements = 1;
  for (int i = 0; i < rank; ++i) {
    if (size[i] < 1) return CUDNN_STATUS_BAD_PARAM;
    elements *= size[i];
    if (elements > INT32_MAX) return CUDNN_STATUS_NOT_SUPPORTED;
  }
  tensor->type = type;
  tensor->rank = rank;
  std::copy_n(size, rank, tensor->size);
  return CUDNN_STATUS_SUCCESS;
}

template <typename T, typename Opaque>
cudnnStatus_t Create(Opaque** made) {
  if (made == nullptr) return CUDNN_STATUS_BAD_PARAM;
  NoteLibraryPreparation();
  *made = reinterpret_cast<Opaque*>(new T);
  return CUDNN_STATUS_SUCCESS;
}

template <typename T, typename Opaque>
cudnnStatus_t Destroy(Opaque* made) {
  delete reinterpret_cast<T*>(made);
  return CUDNN_STATUS_SUCCESS;
}

char* Bytes(const void* data) { return static_cast<char*>(const_cast<void*>(data)); }

}  // namespace
}  // namespace swinfleet::emulator

namespace emulator = swinfleet::emulator;

size_t cudnnGetVersion() { return CUDNN_VERSION; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
      return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    default:
      return "a status that the emulator does not name";
  }
}

void cudnnGetLastErrorString(char* message, size_t max_size) {
  if (max_size > 0) *message = 0;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  return emulator::Create<emulator::DnnHandle>(handle);
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  return emulator::Destroy<emulator::DnnHandle>(handle);
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  emulator::As<emulator::DnnHandle>(handle).stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* tensor) {
  return emulator::Create<emulator::DnnTensor>(tensor);
}
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensor) {
  return emulator::Destroy<emulator::DnnTensor>(tensor);
}
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t tensor, cudnnDataType_t type,
                                         int rank, const int size[], const int stride[]) {
  auto& made = emulator::As<emulator::DnnTensor>(tensor);
  const cudnnStatus_t status = emulator::Take(type, rank, size, &made);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  std::copy_n(stride, rank, made.stride);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* filter) {
  return emulator::Create<emulator::DnnFilter>(filter);
}
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) {
  return emulator::Destroy<emulator::DnnFilter>(filter);
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int rank, const int size[]) {
  auto& made = emulator::As<emulator::DnnFilter>(filter);
  made.format = format;
  return emulator::Take(type, rank, size, &made);
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* convolution) {
  return emulator::Create<emulator::DnnConvolution>(convolution);
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t convolution) {
  return emulator::Destroy<emulator::DnnConvolution>(convolution);
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t convolution, int spatial,
                                              const int padding[], const int stride[],
                                              const int dilation[], cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute) {
  if (spatial < 2 || spatial > 3) return CUDNN_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < spatial; ++i) {
    if (padding[i] < 0 || stride[i] < 1 || dilation[i] < 1) return CUDNN_STATUS_BAD_PARAM;
  }
  auto& made = emulator::As<emulator::DnnConvolution>(convolution);
  made.spatial = spatial;
  std::copy_n(padding, spatial, made.padding);
  std::copy_n(stride, spatial, made.stride);
  std::copy_n(dilation, spatial, made.dilation);
  made.mode = mode;
  made.compute = compute;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t convolution,
                                          cudnnMathType_t math) {
  emulator::As<emulator::DnnConvolution>(convolution).math = math;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t x,
                                                     cudnnFilterDescriptor_t w,
                                                     cudnnConvolutionDescriptor_t convolution,
                                                     cudnnTensorDescriptor_t y, int wanted,
                                                     int* count,
                                                     cudnnConvolutionFwdAlgoPerf_t* found) {
  constexpr emulator::Candidate<cudnnConvolutionFwdAlgo_t> kCandidates[] = {
      {CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD, false, true, false},
      {CUDNN_CONVOLUTION_FWD_ALGO_FFT, true, true, false},
      {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, true, true, true},
      {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, true, true, false}};
  return emulator::Answer(emulator::ProblemOf(x, w, convolution, y), kCandidates, wanted, count,
                          found);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
    cudnnConvolutionDescriptor_t convolution, cudnnFilterDescriptor_t dw, int wanted, int* count,
    cudnnConvolutionBwdFilterAlgoPerf_t* found) {
  constexpr emulator::Candidate<cudnnConvolutionBwdFilterAlgo_t> kCandidates[] = {
      {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED, false, true, false},
      {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, true, false, false},
      {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, true, false, false},
      {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, true, true, true},
      {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, true, false, false}};
  return emulator::Answer(emulator::ProblemOf(x, dw, convolution, dy), kCandidates, wanted, count,
                          found);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
    cudnnConvolutionDescriptor_t convolution, cudnnTensorDescriptor_t dx, int wanted, int* count,
    cudnnConvolutionBwdDataAlgoPerf_t* found) {
  constexpr emulator::Candidate<cudnnConvolutionBwdDataAlgo_t> kCandidates[] = {
      {CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD, false, true, false},
      {CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, true, false, false},
      {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, true, true, true}};
  return emulator::Answer(emulator::ProblemOf(dx, w, convolution, dy), kCandidates, wanted, count,
                          found);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha,
                                      cudnnTensorDescriptor_t x_description, const void* x,
                                      cudnnFilterDescriptor_t w_description, const void* w,
                                      cudnnConvolutionDescriptor_t convolution,
                                      cudnnConvolutionFwdAlgo_t algorithm, void* workspace,
                                      size_t workspace_bytes, const void* beta,
                                      cudnnTensorDescriptor_t y_description, void* y) {
  const bool takes_workspace = algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  if (!takes_workspace && algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  const emulator::Problem p =
      emulator::ProblemOf(x_description, w_description, convolution, y_description);
  return emulator::Convolve(
      handle,
      {p, emulator::Written::kY, emulator::Bytes(x), emulator::Bytes(w), emulator::Bytes(y),
       emulator::Bytes(workspace), takes_workspace ? p.WorkspaceBytes() : 0},
      workspace_bytes, alpha, beta);
}

cudnnStatus_t cudnnConvolutionBackwardFilter(
    cudnnHandle_t handle, const void* alpha, cudnnTensorDescriptor_t x_description, const void* x,
    cudnnTensorDescriptor_t y_description, const void* dy, cudnnConvolutionDescriptor_t convolution,
    cudnnConvolutionBwdFilterAlgo_t algorithm, void* workspace, size_t workspace_bytes,
    const void* beta, cudnnFilterDescriptor_t w_description, void* dw) {
  if (algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1) return CUDNN_STATUS_NOT_SUPPORTED;
  const emulator::Problem p =
      emulator::ProblemOf(x_description, w_description, convolution, y_description);
  return emulator::Convolve(handle,
                            {p, emulator::Written::kW, emulator::Bytes(x), emulator::Bytes(dw),
                             emulator::Bytes(dy), emulator::Bytes(workspace), p.WorkspaceBytes()},
                            workspace_bytes, alpha, beta);
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void* alpha,
                                           cudnnFilterDescriptor_t w_description, const void* w,
                                           cudnnTensorDescriptor_t y_description, const void* dy,
                                           cudnnConvolutionDescriptor_t convolution,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* workspace,
                                           size_t workspace_bytes, const void* beta,
                                           cudnnTensorDescriptor_t x_description, void* dx) {
  if (algorithm != CUDNN_CONVOLUTION_BWD_DATA_ALGO_1) return CUDNN_STATUS_NOT_SUPPORTED;
  const emulator::Problem p =
      emulator::ProblemOf(x_description, w_description, convolution, y_description);
  return emulator::Convolve(handle,
                            {p, emulator::Written::kX, emulator::Bytes(dx), emulator::Bytes(w),
                             emulator::Bytes(dy), emulator::Bytes(workspace), p.WorkspaceBytes()},
                            workspace_bytes, alpha, beta);
}
