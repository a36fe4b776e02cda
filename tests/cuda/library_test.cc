// The library that nvcc makes, as a program opens it at run time. Needs no driver and no GPU.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <memory>

#include "kernels/op_entries.h"

namespace swinfleet {
namespace {

class CudaLibraryTest : public ::testing::Test {
 protected:
  CudaLibraryTest() : library_(dlopen(SWINFLEET_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL)) {}
  ~CudaLibraryTest() override {
    if (library_ != nullptr) dlclose(library_);
  }

  void* library_;
};

// Every symbol that it needs is in it, or in what every program of ours has.
TEST_F(CudaLibraryTest, Opens) { ASSERT_NE(library_, nullptr) << dlerror(); }

TEST_F(CudaLibraryTest, HasEveryOperation) {
  ASSERT_NE(library_, nullptr) << dlerror();
  using Factory = const OpTable* (*)();
  const auto factory = reinterpret_cast<Factory>(dlsym(library_, "SwinfleetCudaOps"));
  ASSERT_NE(factory, nullptr) << dlerror();
  const OpTable& ops = *factory();
  std::apply(
      [&](const auto&... entries) {
        const auto check = [&](const auto& entry) {
          EXPECT_TRUE(ops.*entry.function != nullptr) << entry.name;
        };
        (check(entries), ...);
      },
      kOpEntries);
}

TEST_F(CudaLibraryTest, ShowsNothingElse) {
  ASSERT_NE(library_, nullptr) << dlerror();
  // A symbol that is in it for sure, with default visibility where it comes from.
  EXPECT_EQ(dlsym(library_, "cudaMalloc"), nullptr);
}

}  // namespace
}  // namespace swinfleet
