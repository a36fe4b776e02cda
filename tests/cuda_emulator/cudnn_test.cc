// cuDNN's substitute: what it refuses, as the library does, and what it computes.
#include <cudnn.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cuda_emulator/device_buffer.h"

namespace swinfleet::cuda_testing {
namespace {

enum class Kind { kForward, kFilters, kInput };
constexpr Kind kKinds[] = {Kind::kForward, Kind::kFilters, Kind::kInput};

// A picture of 4 x 4 x 2 channels, channels last, by 3 filters of 2 x 2, with everything that a
// caller can get wrong.
struct Call {
  Kind kind = Kind::kForward;
  cudnnDataType_t types[3] = {CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT};  // x, w, y
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnMathType_t math = CUDNN_FMA_MATH;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  cudnnTensorFormat_t filter_format = CUDNN_TENSOR_NHWC;
  int channels_of_w = 2, filters_of_y = 3, pictures_of_y = 1, height_of_y = 2;
  int spatial = 2;
  int padding = 0, stride = 2, dilation = 1;
  bool channels_first = false;  // of x
  bool gap = false;             // between rows of y
  // The algorithms' numbers; -1 for the one that is known to be right.
  int algorithm = -1;
  size_t workspace = 4096;
  // In bytes.
  size_t x_offset = 0, w_offset = 0, y_offset = 0, workspace_offset = 0;
  bool no_x = false, no_workspace = false, y_is_x = false;
  float alpha = 1, beta = 0;
};

using Values = std::vector<float>;

Values Counting(int n) {
  Values values(n);
  for (int i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return values;
}

class CudnnTest : public ::testing::Test {
 protected:
  CudnnTest() : x_(Counting(40)), w_(Values(32)), y_(Values(32)), workspace_(8192) {
    emulator::SetOrder(0);
    cudnnCreate(&handle_);
    cudnnSetStream(handle_, stream_);
    cudnnCreateTensorDescriptor(&x_description_);
    cudnnCreateTensorDescriptor(&y_description_);
    cudnnCreateFilterDescriptor(&w_description_);
    cudnnCreateConvolutionDescriptor(&convolution_);
  }
  ~CudnnTest() override {
    stream_.Wait();
    cudnnDestroyConvolutionDescriptor(convolution_);
    cudnnDestroyFilterDescriptor(w_description_);
    cudnnDestroyTensorDescriptor(y_description_);
    cudnnDestroyTensorDescriptor(x_description_);
    cudnnDestroy(handle_);
  }

  // The first status that is not success.
  cudnnStatus_t Describe(const Call& c) {
    const int x_size[] = {1, 2, 4, 4}, w_size[] = {3, c.channels_of_w, 2, 2};
    const int y_size[] = {c.pictures_of_y, c.filters_of_y, c.height_of_y, 2};
    const int last[] = {32, 1, 8, 2}, first[] = {32, 16, 4, 1};
    const int line = 2 * c.filters_of_y + (c.gap ? 1 : 0);
    const int y_stride[] = {line * c.height_of_y, 1, line, c.filters_of_y};
    const int padding[] = {c.padding, 0, 0}, stride[] = {c.stride, c.stride, c.stride};
    const int dilation[] = {c.dilation, 1, 1};
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    const auto step = [&](cudnnStatus_t next) {
      if (status == CUDNN_STATUS_SUCCESS) status = next;
    };
    step(cudnnSetTensorNdDescriptor(x_description_, c.types[0], 4, x_size,
                                    c.channels_first ? first : last));
    step(cudnnSetFilterNdDescriptor(w_description_, c.types[1], c.filter_format, 4, w_size));
    step(cudnnSetTensorNdDescriptor(y_description_, c.types[2], 4, y_size, y_stride));
    step(cudnnSetConvolutionNdDescriptor(convolution_, c.spatial, padding, stride, dilation, c.mode,
                                         c.compute));
    step(cudnnSetConvolutionMathType(convolution_, c.math));
    return status;
  }

  // The same; the result of a call that is right is in y_, w_ or x_.
  cudnnStatus_t Run(const Call& c) {
    const cudnnStatus_t status = Describe(c);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    const auto at = [](const auto& buffer, size_t offset) {
      return reinterpret_cast<char*>(buffer.data()) + offset;
    };
    void* x = c.no_x ? nullptr : at(x_, c.x_offset);
    void* w = at(w_, c.w_offset);
    void* y = c.y_is_x ? x : at(y_, c.y_offset);
    void* workspace = c.no_workspace ? nullptr : at(workspace_, c.workspace_offset);
    const int algorithm = c.algorithm >= 0 ? c.algorithm : 1;
    if (c.kind == Kind::kForward) {
      return cudnnConvolutionForward(handle_, &c.alpha, x_description_, x, w_description_, w,
                                     convolution_,
                                     static_cast<cudnnConvolutionFwdAlgo_t>(algorithm), workspace,
                                     c.workspace, &c.beta, y_description_, y);
    }
    if (c.kind == Kind::kFilters) {
      return cudnnConvolutionBackwardFilter(handle_, &c.alpha, x_description_, x, y_description_, y,
                                            convolution_,
                                            static_cast<cudnnConvolutionBwdFilterAlgo_t>(algorithm),
                                            workspace, c.workspace, &c.beta, w_description_, w);
    }
    return cudnnConvolutionBackwardData(handle_, &c.alpha, w_description_, w, y_description_, y,
                                        convolution_,
                                        static_cast<cudnnConvolutionBwdDataAlgo_t>(algorithm),
                                        workspace, c.workspace, &c.beta, x_description_, x);
  }

  // What each kind says of a call.
  void ExpectRefused(Call c, cudnnStatus_t status) {
    for (const Kind kind : kKinds) {
      c.kind = kind;
      EXPECT_EQ(Run(c), status) << static_cast<int>(kind);
    }
  }

  static void Write(const DeviceBuffer<float>& to, Values values) {
    cudaMemcpy(to.data(), values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
  }
  static Values FirstOf(const DeviceBuffer<float>& from, int n) {
    const Values all = from.Read();
    return Values(all.begin(), all.begin() + n);
  }

  const DeviceBuffer<float> x_, w_, y_;
  const DeviceBuffer<char> workspace_;
  const Stream stream_;
  cudnnHandle_t handle_ = nullptr;
  cudnnTensorDescriptor_t x_description_ = nullptr, y_description_ = nullptr;
  cudnnFilterDescriptor_t w_description_ = nullptr;
  cudnnConvolutionDescriptor_t convolution_ = nullptr;
};

// Filters are (filter, row, column, channel), and are not turned round.
TEST_F(CudnnTest, Forward) {
  Values w(24);
  w[0 + 3] = 1;        // filter 0 takes channel 1 of the second column
  w[8 + 4] = 10;       // filter 1 ten times channel 0 of the second row
  w[16] = w[17] = -1;  // filter 2 both channels of the first pixel
  Write(w_, w);
  ASSERT_EQ(Run({}), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(FirstOf(y_, 12), (Values{3, 80, -1, 7, 120, -9, 19, 240, -33, 23, 280, -41}));
}

TEST_F(CudnnTest, GradientOfFilters) {
  // Of filter 0 the first token counts, of filter 2 the last, twice.
  Write(y_, {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2});
  ASSERT_EQ(Run({.kind = Kind::kFilters}), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(FirstOf(w_, 24), (Values{0, 1, 2, 3, 8,  9,  10, 11, 0,  0,  0,  0,
                                     0, 0, 0, 0, 40, 42, 44, 46, 56, 58, 60, 62}));
}

TEST_F(CudnnTest, GradientOfTheInput) {
  Write(w_, Counting(24));
  // Filter 1 of the second token of the first row, and filter 0 of the same.
  Write(y_, {0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0});
  ASSERT_EQ(Run({.kind = Kind::kInput}), CUDNN_STATUS_SUCCESS);
  Values expected(32);
  for (int i = 0; i < 4; ++i) {
    expected[4 + i] = static_cast<float>(i + 2 * (8 + i));
    expected[12 + i] = static_cast<float>(4 + i + 2 * (12 + i));
  }
  EXPECT_EQ(FirstOf(x_, 32), expected);
}

TEST_F(CudnnTest, RoundsToTf32WhereItMay) {
  const float fine = 1 + 0x1p-12f;
  Write(x_, Values(32, fine));
  Write(w_, {1});
  ASSERT_EQ(Run({}), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(FirstOf(y_, 1), (Values{fine}));
  ASSERT_EQ(Run({.math = CUDNN_DEFAULT_MATH}), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(FirstOf(y_, 1), (Values{1}));
}

TEST_F(CudnnTest, TakesSixteenBits) {
  for (const auto type : {CUDNN_DATA_HALF, CUDNN_DATA_BFLOAT16}) {
    EXPECT_EQ(Run({.types = {type, type, type}, .math = CUDNN_TENSOR_OP_MATH}),
              CUDNN_STATUS_SUCCESS);
  }
}

TEST_F(CudnnTest, RefusesSizesThatDoNotFit) {
  ExpectRefused({.channels_of_w = 3}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.filters_of_y = 4}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.pictures_of_y = 2}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.height_of_y = 3}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.stride = 1}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.spatial = 3}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.height_of_y = 0}, CUDNN_STATUS_BAD_PARAM);
  ExpectRefused({.stride = 0}, CUDNN_STATUS_BAD_PARAM);
}

TEST_F(CudnnTest, RefusesTypesThatItHasNoKernelFor) {
  constexpr auto kStatus = CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
  constexpr auto kFloat = CUDNN_DATA_FLOAT, kHalf = CUDNN_DATA_HALF;
  ExpectRefused({.types = {kHalf, kFloat, kFloat}}, kStatus);
  ExpectRefused({.types = {kFloat, kHalf, kFloat}}, kStatus);
  ExpectRefused({.types = {kHalf, kHalf, kFloat}, .math = CUDNN_TENSOR_OP_MATH}, kStatus);
  ExpectRefused({.types = {kHalf, kHalf, kHalf}}, kStatus);
  ExpectRefused({.types = {CUDNN_DATA_DOUBLE, CUDNN_DATA_DOUBLE, CUDNN_DATA_DOUBLE}}, kStatus);
  ExpectRefused({.math = CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION}, kStatus);
  ExpectRefused({.compute = kHalf}, kStatus);
}

TEST_F(CudnnTest, RefusesOtherLayouts) {
  constexpr auto kStatus = CUDNN_STATUS_NOT_SUPPORTED_LAYOUT;
  ExpectRefused({.channels_first = true}, kStatus);
  ExpectRefused({.gap = true}, kStatus);
  ExpectRefused({.filter_format = CUDNN_TENSOR_NCHW}, kStatus);
}

TEST_F(CudnnTest, RefusesWhatItDoesNotCover) {
  ExpectRefused({.padding = 1}, CUDNN_STATUS_NOT_SUPPORTED);
  ExpectRefused({.dilation = 2}, CUDNN_STATUS_NOT_SUPPORTED);
  ExpectRefused({.mode = CUDNN_CONVOLUTION}, CUDNN_STATUS_NOT_SUPPORTED);
  ExpectRefused({.alpha = 2}, CUDNN_STATUS_NOT_SUPPORTED);
  ExpectRefused({.beta = 1}, CUDNN_STATUS_NOT_SUPPORTED);
  ExpectRefused({.spatial = 4}, CUDNN_STATUS_NOT_SUPPORTED);
  const int five[] = {2, 2, 2, 2, 2, 2}, huge[] = {1 << 16, 1, 1 << 15, 1};
  EXPECT_EQ(cudnnSetTensorNdDescriptor(x_description_, CUDNN_DATA_FLOAT, 6, five, five),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cudnnSetTensorNdDescriptor(x_description_, CUDNN_DATA_FLOAT, 3, five, five),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cudnnSetTensorNdDescriptor(x_description_, CUDNN_DATA_FLOAT, 4, huge, huge),
            CUDNN_STATUS_NOT_SUPPORTED);
}

TEST_F(CudnnTest, RefusesAlgorithmsThatDifferFromRunToRun) {
  EXPECT_EQ(Run({.kind = Kind::kFilters, .algorithm = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0}),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.kind = Kind::kFilters, .algorithm = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3}),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.kind = Kind::kInput, .algorithm = CUDNN_CONVOLUTION_BWD_DATA_ALGO_0}),
            CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.algorithm = CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD}), CUDNN_STATUS_NOT_SUPPORTED);
}

TEST_F(CudnnTest, RefusesMemoryThatDoesNotSuffice) {
  constexpr auto kMisaligned = CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER;
  for (const size_t offset : {4, 8}) {
    ExpectRefused({.x_offset = offset}, kMisaligned);
    ExpectRefused({.w_offset = offset}, kMisaligned);
    ExpectRefused({.y_offset = offset}, kMisaligned);
  }
  ExpectRefused({.workspace_offset = 128}, kMisaligned);
  ExpectRefused({.no_x = true}, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  ExpectRefused({.no_workspace = true}, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  ExpectRefused({.y_is_x = true}, CUDNN_STATUS_BAD_PARAM);
  // A copy of x, w and y.
  constexpr size_t kBytes = (32 + 24 + 12) * sizeof(float);
  ExpectRefused({.workspace = kBytes - 1}, CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT);
  for (const Kind kind : kKinds) {
    EXPECT_EQ(Run({.kind = kind, .workspace = kBytes}), CUDNN_STATUS_SUCCESS);
  }
  EXPECT_EQ(Run({.algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
                 .workspace = 0,
                 .no_workspace = true}),
            CUDNN_STATUS_SUCCESS);
}

// Some are not supported, and some are faster than those that have the same bits in every run.
TEST_F(CudnnTest, FindsAlgorithmsThatNeedAChoice) {
  ASSERT_EQ(Describe({}), CUDNN_STATUS_SUCCESS);
  cudnnConvolutionBwdFilterAlgoPerf_t found[8];
  int count = 0;
  ASSERT_EQ(
      cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle_, x_description_, y_description_,
                                                    convolution_, w_description_, 8, &count, found),
      CUDNN_STATUS_SUCCESS);
  ASSERT_EQ(count, 5);
  EXPECT_EQ(found[0].status, CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(found[1].determinism, CUDNN_NON_DETERMINISTIC);
  // Also of an algorithm that has another way.
  EXPECT_EQ(found[2].algo, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
  EXPECT_EQ(found[2].determinism, CUDNN_NON_DETERMINISTIC);
  EXPECT_EQ(found[3].algo, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
  EXPECT_EQ(found[3].determinism, CUDNN_DETERMINISTIC);
  EXPECT_EQ(found[3].memory, (32 + 24 + 12) * sizeof(float));
  // What the call would refuse has none.
  ASSERT_EQ(Describe({.channels_of_w = 3}), CUDNN_STATUS_SUCCESS);
  cudnnConvolutionFwdAlgoPerf_t forward[8];
  EXPECT_EQ(
      cudnnGetConvolutionForwardAlgorithm_v7(handle_, x_description_, w_description_, convolution_,
                                             y_description_, 8, &count, forward),
      CUDNN_STATUS_BAD_PARAM);
  cudnnConvolutionBwdDataAlgoPerf_t input[8];
  EXPECT_EQ(
      cudnnGetConvolutionBackwardDataAlgorithm_v7(handle_, w_description_, y_description_,
                                                  convolution_, x_description_, 8, &count, input),
      CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(
      cudnnGetConvolutionForwardAlgorithm_v7(handle_, x_description_, w_description_, convolution_,
                                             y_description_, 0, &count, forward),
      CUDNN_STATUS_BAD_PARAM);
}

}  // namespace
}  // namespace swinfleet::cuda_testing
