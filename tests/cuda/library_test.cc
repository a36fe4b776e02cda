// The library that nvcc makes, as a program opens it at run time. Needs no driver and no GPU.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/accelerator.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;

std::string ProblemOf(const std::string& path) {
  try {
    OpenCudaBackend(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Every symbol that it needs is in it, or in what every program of ours has.
TEST(CudaLibrary, Opens) { EXPECT_EQ(ProblemOf(SWINFLEET_CUDA_LIBRARY), ""); }

// It names the GPUs that there are, or why there are none.
TEST(CudaLibrary, KnowsTheGpus) {
  const CudaBackend& backend = OpenCudaBackend(SWINFLEET_CUDA_LIBRARY);
  try {
    for (const Gpu& gpu : backend.Gpus()) EXPECT_NE(gpu.uuid, "") << gpu.name;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AnyOf(HasSubstr("driver"), HasSubstr("GPU")));
  }
}

TEST(CudaLibrary, ShowsNothingElse) {
  void* library = dlopen(SWINFLEET_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  // A symbol that is in it for sure, with default visibility where it comes from.
  EXPECT_EQ(dlsym(library, "cudaMalloc"), nullptr);
}

TEST(CudaLibrary, IsRefusedWhereItIsNone) {
  EXPECT_THAT(ProblemOf("/nowhere/libswinfleet_cuda.so"), HasSubstr("can't be opened"));
  EXPECT_THAT(ProblemOf(SWINFLEET_OTHER_BUILD_LIBRARY), HasSubstr("of another build"));
  EXPECT_THAT(ProblemOf(SWINFLEET_NO_BACKEND_LIBRARY), HasSubstr("has no SwinfleetCudaInterface"));
}

// As the real one where cuBLASLt or cuDNN is not installed.
TEST(CudaLibrary, SaysWhichLibraryItMisses) {
  EXPECT_THAT(ProblemOf(SWINFLEET_NEEDS_ABSENT_LIBRARY),
              testing::AllOf(HasSubstr("can't be opened"), HasSubstr("libcuda_absent.so")));
}

}  // namespace
}  // namespace swinfleet
