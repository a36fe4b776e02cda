// cuBLASLt's substitute: what it refuses, as the library does, and what it computes.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include "tests/cuda_emulator/device_buffer.h"

namespace swinfleet::cuda_testing {
namespace {

// d (2 x 3, column by column) = a (2 x 4) b (4 x 3), with everything that a caller can get wrong.
struct Call {
  cudaDataType_t types[3] = {CUDA_R_32F, CUDA_R_32F, CUDA_R_32F};  // a, b, d
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int64_t inner_of_b = 4, stride_of_a = 2;
  uint32_t alignment = 16;
  uint64_t workspace = 1024;  // that is promised
  size_t workspace_given = 1024;
  size_t workspace_offset = 0;
  size_t vector_offset = 0;  // bytes
  size_t factor_offset = 0;  // floats
};

class CublasLtTest : public ::testing::Test {
 protected:
  CublasLtTest()
      : a_({1, 2, 3, 4, 5, 6, 7, 8, 0, 0}),
        b_(12),
        d_(6),
        vector_({10, 20, 30, 40, 50, 60, 70, 80}),
        workspace_(4096) {
    emulator::SetOrder(0);
    std::vector<float> ones(12, 1.0f);
    cudaMemcpy(b_.data(), ones.data(), sizeof(float) * ones.size(), cudaMemcpyHostToDevice);
    cublasLtCreate(&handle_);
  }

  // The first status that is not success; the products of a call that is right are in d_.
  cublasStatus_t Run(const Call& call) {
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasStatus_t status = cublasLtMatrixLayoutCreate(&a, call.types[0], 2, 4, call.stride_of_a);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasLtMatrixLayoutCreate(&b, call.types[1], call.inner_of_b, 3, call.inner_of_b);
    cublasLtMatrixLayoutCreate(&d, call.types[2], 2, 3, 2);
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatmulDescCreate(&product, call.compute, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE, &call.epilogue,
                                   sizeof(call.epilogue));
    void* vector = reinterpret_cast<char*>(vector_.data()) + call.vector_offset;
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector,
                                   sizeof(vector));
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &call.workspace, sizeof(call.workspace));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &call.alignment,
                                           sizeof(call.alignment));
    }
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    status =
        cublasLtMatmulAlgoGetHeuristic(handle_, product, a, b, d, d, preference, 1, &found, &count);
    if (status == CUBLAS_STATUS_SUCCESS) {
      const float one = 1, zero = 0;
      status =
          cublasLtMatmul(handle_, product, &one, a_.data() + call.factor_offset, a, b_.data(), b,
                         &zero, d_.data(), d, d_.data(), d, &found.algo,
                         workspace_.data() + call.workspace_offset, call.workspace_given, stream_);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(product);
    for (const auto layout : {a, b, d}) cublasLtMatrixLayoutDestroy(layout);
    return status;
  }

  const DeviceBuffer<float> a_, b_, d_, vector_;
  const DeviceBuffer<char> workspace_;
  const Stream stream_;
  cublasLtHandle_t handle_ = nullptr;
};

using Values = std::vector<float>;

TEST_F(CublasLtTest, Product) {
  ASSERT_EQ(Run({}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(d_.Read(), (Values{16, 20, 16, 20, 16, 20}));
}

TEST_F(CublasLtTest, Epilogues) {
  ASSERT_EQ(Run({.epilogue = CUBLASLT_EPILOGUE_BIAS}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(d_.Read(), (Values{26, 40, 26, 40, 26, 40}));
  ASSERT_EQ(Run({.epilogue = CUBLASLT_EPILOGUE_BGRADB}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(vector_.Read(), (Values{4, 4, 4, 40, 50, 60, 70, 80}));
}

TEST_F(CublasLtTest, RefusesSizesThatDoNotFit) {
  EXPECT_EQ(Run({.inner_of_b = 3}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Run({.stride_of_a = 1}), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtTest, RefusesTypesThatItHasNoKernelFor) {
  EXPECT_EQ(Run({.types = {CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F}}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.types = {CUDA_R_16BF, CUDA_R_16BF, CUDA_R_16F}}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.compute = CUBLAS_COMPUTE_16F}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.types = {CUDA_R_16BF, CUDA_R_16BF, CUDA_R_16BF},
                 .compute = CUBLAS_COMPUTE_32F_FAST_TF32}),
            CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLtTest, RefusesOtherEpilogues) {
  EXPECT_EQ(Run({.epilogue = CUBLASLT_EPILOGUE_GELU_BIAS}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.epilogue = CUBLASLT_EPILOGUE_BIAS, .vector_offset = 4}),
            CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLtTest, TakesItsCallerAtTheirWord) {
  // Aligned as promised, and no more.
  EXPECT_EQ(Run({.alignment = 8, .factor_offset = 2}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Run({.alignment = 16, .factor_offset = 2}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Run({.alignment = 2}), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Run({.workspace_given = 512}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Run({.workspace_offset = 64}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Run({.workspace = 0, .workspace_given = 0}), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace swinfleet::cuda_testing
