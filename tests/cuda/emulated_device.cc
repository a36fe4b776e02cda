// The emulator's device: operations run in two orders, with tensors aligned and not.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "kernels/checks.h"
#include "tests/cuda/test_device.h"
#include "tests/cuda_emulator/emulator.h"

namespace swinfleet::testing {
namespace {

// The emulator's guards end the process where somebody writes to them.
class EmulatedMemory : public TensorMemory {
 public:
  EmulatedMemory(size_t bytes, size_t offset)
      : bytes_(bytes), data_(emulator::AllocateDevice(bytes, offset)) {
    CHECK(data_ != nullptr) << bytes;
  }
  ~EmulatedMemory() override { cudaFree(data_); }
  EmulatedMemory(const EmulatedMemory&) = delete;
  EmulatedMemory& operator=(const EmulatedMemory&) = delete;

  void* data() const override { return data_; }
  void Store(const std::string& bytes) override {
    ASSERT_EQ(bytes.size(), bytes_);
    cudaMemcpy(data_, bytes.data(), bytes_, cudaMemcpyHostToDevice);
  }
  std::string Bytes() const override {
    std::string bytes(bytes_, 0);
    cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost);
    return bytes;
  }
  bool GuardsIntact() const override { return true; }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace

std::unique_ptr<TensorMemory> MakeDeviceMemory(size_t bytes, size_t offset) {
  return std::make_unique<EmulatedMemory>(bytes, offset);
}

std::vector<Variant> DeviceVariants() {
  // Checkers look at every access of one run.
  const bool repeat = !emulator::ChecksAccesses();
  return {{.target = 1, .threads = 1, .offset = 0, .name = "order 1", .repeat = repeat},
          {.target = 2,
           .threads = 1,
           .offset = 4,
           .name = "order 2, tensors at 64 n + 4",
           .repeat = repeat}};
}

void SetDeviceOrder(int64_t target) { emulator::SetOrder(target); }
int64_t DeviceLaunches() { return emulator::Launches(); }
int64_t DeviceEvents() { return static_cast<int64_t>(emulator::Events()); }
bool DeviceTakesFewSizes() { return true; }

}  // namespace swinfleet::testing
