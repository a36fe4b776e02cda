// The CUDA backend under the harness, on the device that is linked (test_device.h).
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/accelerator.h"
#include "kernels/cuda/cuda_kernels.h"
#include "tests/cuda/test_device.h"
#include "tests/kernels/op_backend.h"
#include "tests/kernels/op_check.h"

// Of the library that programs open.
extern "C" const swinfleet::CudaBackend* SwinfleetCudaBackend();

namespace swinfleet::testing {
namespace {

// Made when first needed, for the process's life.
Accelerator* TheGpu() {
  static Accelerator* const gpu = [] {
    const CudaBackend* backend = SwinfleetCudaBackend();
    return backend->Open(backend->Gpus().front()).release();
  }();
  return gpu;
}

class HostMemory : public TensorMemory {
 public:
  explicit HostMemory(size_t bytes)
      : bytes_(bytes), block_(bytes / sizeof(double) + 2 * kGuards, Guard()) {}
  void* data() const override { return const_cast<double*>(block_.data()) + kGuards; }
  void Store(const std::string& bytes) override {
    ASSERT_EQ(bytes.size(), bytes_);
    std::memcpy(data(), bytes.data(), bytes_);
  }
  std::string Bytes() const override { return {static_cast<char*>(data()), bytes_}; }
  bool GuardsIntact() const override {
    const double guard = Guard();
    for (size_t i = 0; i < kGuards; ++i) {
      for (const double& at : {block_[i], block_[block_.size() - 1 - i]}) {
        if (std::memcmp(&at, &guard, sizeof(guard)) != 0) return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kGuards = 8;
  static double Guard() {
    const uint32_t words[2] = {kGuardWord, kGuardWord};
    double guard;
    std::memcpy(&guard, words, sizeof(guard));
    return guard;
  }

  size_t bytes_;
  std::vector<double> block_;
};

}  // namespace

Device BackendDevice() { return Device::kCuda; }
const OpTable& BackendOps() { return cuda::Ops(); }
const OpTable& BackendDryRunOps() { return CudaDryRunOps(); }

std::vector<Variant> Variants() { return DeviceVariants(); }

std::unique_ptr<TensorMemory> MakeTensorMemory(size_t bytes, size_t offset, Device device) {
  if (device == Device::kCpu) return std::make_unique<HostMemory>(bytes);
  return MakeDeviceMemory(bytes, offset);
}

struct Workspace::Parts {
  std::unique_ptr<TensorMemory> memory;
  Arena arena;
};
Workspace::Workspace(size_t bytes) {
  const size_t rounded = (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  parts_.reset(new Parts{MakeDeviceMemory(rounded, 0), Arena::DryRun("")});
  parts_->arena = Arena::OnDevice(
      "workspace", std::shared_ptr<void>(parts_->memory->data(), [](void*) {}), rounded);
}
Workspace::~Workspace() = default;
Context Workspace::MakeContext(int threads) {
  Context context;
  context.ops = &TheGpu()->ops();
  context.workspace = &parts_->arena;
  context.threads = threads;
  context.stream = TheGpu()->stream();
  context.device = Device::kCuda;
  context.accelerator = TheGpu();
  return context;
}

int64_t BackendLaunches() { return DeviceLaunches(); }

void WaitForBackend(const Context& context) { context.accelerator->Wait(); }

std::vector<int64_t> InstructionSets() { return {1}; }

bool TakesFewSizes() { return DeviceTakesFewSizes(); }

UseInstructionSet::UseInstructionSet(int64_t target) { SetDeviceOrder(target); }
UseInstructionSet::~UseInstructionSet() { SetDeviceOrder(1); }

}  // namespace swinfleet::testing
