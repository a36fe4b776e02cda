// A real GPU. Guards around tensors are read when a test asks for them.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/checks.h"
#include "tests/cuda/test_device.h"

namespace swinfleet::testing {
namespace {

constexpr size_t kGuardBytes = 256;

void CheckCall(cudaError_t error, const char* what) {
  CHECK_EQ(error, cudaSuccess) << what << ": " << cudaGetErrorString(error);
}

std::string Guard(size_t bytes) {
  std::string guard(bytes, 0);
  for (size_t i = 0; i < bytes; ++i) guard[i] = reinterpret_cast<const char*>(&kGuardWord)[i % 4];
  return guard;
}

// Guards before and behind, all of it one allocation.
class GpuMemory : public TensorMemory {
 public:
  GpuMemory(size_t bytes, size_t offset) : bytes_(bytes), front_(kGuardBytes + offset) {
    CheckCall(cudaMalloc(reinterpret_cast<void**>(&block_), front_ + bytes_ + kGuardBytes),
              "taking memory");
    // What is not stored is a NaN.
    Put(0, Guard(front_ + bytes_ + kGuardBytes));
  }
  ~GpuMemory() override { cudaFree(block_); }
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;

  void* data() const override { return block_ + front_; }
  void Store(const std::string& bytes) override {
    ASSERT_EQ(bytes.size(), bytes_);
    Put(front_, bytes);
  }
  std::string Bytes() const override { return Get(front_, bytes_); }
  bool GuardsIntact() const override {
    const std::string guard = Guard(front_ + bytes_ + kGuardBytes);
    return Get(0, front_) == guard.substr(0, front_) &&
           Get(front_ + bytes_, kGuardBytes) == guard.substr(front_ + bytes_);
  }

 private:
  void Put(size_t at, const std::string& bytes) {
    CheckCall(cudaMemcpy(block_ + at, bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
              "a copy to the GPU");
    // From memory that is not pinned it may be under way yet, and operations have another stream,
    // which does not wait for it.
    CheckCall(cudaDeviceSynchronize(), "a copy to the GPU");
  }
  std::string Get(size_t at, size_t bytes) const {
    std::string copy(bytes, 0);
    CheckCall(cudaMemcpy(copy.data(), block_ + at, bytes, cudaMemcpyDeviceToHost),
              "a copy from the GPU");
    return copy;
  }

  size_t bytes_;
  size_t front_;
  char* block_ = nullptr;
};

}  // namespace

std::unique_ptr<TensorMemory> MakeDeviceMemory(size_t bytes, size_t offset) {
  return std::make_unique<GpuMemory>(bytes, offset);
}

std::vector<Variant> DeviceVariants() {
  return {{.target = 1, .threads = 1, .offset = 0, .name = "tensors at 256 n"},
          {.target = 1, .threads = 1, .offset = 4, .name = "tensors at 256 n + 4"}};
}

void SetDeviceOrder(int64_t /*target*/) {}
int64_t DeviceLaunches() { return -1; }
int64_t DeviceEvents() { return -1; }
bool DeviceTakesFewSizes() { return false; }

}  // namespace swinfleet::testing

// Without a GPU there is nothing to test, which ctest is to know.
int main(int argc, char** argv) {
  // Without a filter on the command line all but what is about something else.
  ::testing::GTEST_FLAG(filter) = "-" SWINFLEET_NOT_OF_DEVICES;
  ::testing::InitGoogleTest(&argc, argv);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("skipped: no GPU (%s)\n", cudaGetErrorString(error));
    return 77;
  }
  return RUN_ALL_TESTS();
}
