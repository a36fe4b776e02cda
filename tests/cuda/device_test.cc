// The GPU's memory, and copies to and from it beside what is computed.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "tests/cuda/test_device.h"

extern "C" const swinfleet::CudaBackend* SwinfleetCudaBackend();

namespace swinfleet::testing {
namespace {

class CudaDevice : public ::testing::TestWithParam<int64_t> {
 protected:
  CudaDevice() : gpu_(SwinfleetCudaBackend()->Open(SwinfleetCudaBackend()->Gpus().front())) {
    SetDeviceOrder(GetParam());
    context_ = {.ops = &gpu_->ops(),
                .stream = gpu_->stream(),
                .device = Device::kCuda,
                .accelerator = gpu_.get()};
  }
  ~CudaDevice() override {
    for (const TensorView& taken : taken_) gpu_->Free(taken.data);
    SetDeviceOrder(1);
  }

  TensorView Take(int64_t n) {
    void* memory = gpu_->Allocate(n * sizeof(float));
    taken_.push_back({memory, Shape{n}, DType::kF32, Device::kCuda});
    return taken_.back();
  }
  void Add(const TensorView& x, const TensorView& y) {
    context_.ops->add({.x = x, .y = y}, context_);
  }

  const std::unique_ptr<Accelerator> gpu_;
  Context context_;
  std::vector<TensorView> taken_;
};

std::vector<float> Numbers(size_t n, float first) {
  std::vector<float> numbers(n);
  for (size_t i = 0; i < n; ++i) numbers[i] = first + static_cast<float>(i % 4099);
  return numbers;
}

// More than what copies pass through, so that each part of that is used several times.
TEST_P(CudaDevice, LargeCopiesArriveWhole) {
  const int64_t n = 5 << 20;
  const TensorView memory = Take(n);
  const std::vector<float> numbers = Numbers(n, 1);
  gpu_->CopyIn(numbers.data(), memory.data, memory.Bytes());
  std::vector<float> back(n);
  gpu_->CopyOut(memory.data, back.data(), memory.Bytes());
  EXPECT_EQ(back, numbers);
}

// Of the memory as it was when they were called.
TEST_P(CudaDevice, ReadsAreThereAfterTheNextWait) {
  constexpr int kMany = 40;
  const TensorView memory = Take(100000);
  gpu_->CopyIn(Numbers(100000, 1).data(), memory.data, memory.Bytes());
  std::vector<std::vector<float>> read(kMany, std::vector<float>(100000));
  for (std::vector<float>& one : read) {
    gpu_->CopyOutLater(memory.data, one.data(), memory.Bytes());
    context_.ops->fill({.x = memory, .value = static_cast<float>(&one - read.data())}, context_);
  }
  gpu_->Wait();
  EXPECT_EQ(read[0], Numbers(100000, 1));
  for (int i = 1; i < kMany; ++i) EXPECT_EQ(read[i][777], static_cast<float>(i - 1));
}

// What is computed finds the copy of its turn, and no later one.
TEST_P(CudaDevice, CopiesBesideComputingWaitForTheirTurn) {
  constexpr int kMany = 9;
  const int64_t n = 50000;
  const TensorView input[] = {Take(n), Take(n)};
  std::vector<TensorView> sums;
  for (int i = 0; i < kMany; ++i) {
    sums.push_back(Take(n));
    context_.ops->fill({.x = sums[i], .value = 0}, context_);
  }
  for (int i = 0; i < kMany; ++i) {
    const int turn = i % Accelerator::kTurns;
    gpu_->CopyInBeside(turn, Numbers(n, static_cast<float>(i)).data(), input[turn].data,
                       n * sizeof(float));
    for (int times = 0; times < 2; ++times) Add(input[turn], sums[i]);
    gpu_->NoteUse(turn);
  }
  for (int i = 0; i < kMany; ++i) {
    std::vector<float> sum(n), expected = Numbers(n, static_cast<float>(i));
    for (float& value : expected) value *= 2;
    gpu_->CopyOut(sums[i].data, sum.data(), n * sizeof(float));
    EXPECT_EQ(sum, expected) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaDevice, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace swinfleet::testing
