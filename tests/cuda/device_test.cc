// The GPU's memory, and copies to and from it beside what is computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/arena.h"
#include "kernels/error.h"
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
  void Fill(const TensorView& x, float value) {
    context_.ops->fill({.x = x, .value = value}, context_);
  }
  void CopyOutBeside(const TensorView& from, std::span<float> to) {
    const DeviceRead read = {.from = from.data, .to = to.data(), .bytes = from.Bytes()};
    gpu_->CopyOutBeside({&read, 1});
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

// What copies go out to beside computing.
class PinnedMemory {
 public:
  PinnedMemory(Accelerator* gpu, int64_t n)
      : gpu_(gpu),
        arena_(Arena::OnHost("copies", n * sizeof(float))),
        values_(arena_.Allocate({n}).span()) {
    std::ranges::fill(values_, -1.0f);
    gpu_->Pin(values_.data(), values_.size_bytes());
  }
  ~PinnedMemory() { Unpin(); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void Unpin() {
    if (gpu_ != nullptr) gpu_->Unpin(values_.data());
    gpu_ = nullptr;
  }
  std::span<float> values() const { return values_; }
  bool HoldsOnly(float value) const {
    return std::ranges::all_of(values_, [value](float v) { return v == value; });
  }

 private:
  Accelerator* gpu_;
  Arena arena_;
  std::span<float> values_;
};

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

// One after the other into the same memory, each of what was there when it was called: a thread
// that has put nothing on the device waits for it.
TEST_P(CudaDevice, CopiesOutBesideComputingAreOfTheirTime) {
  const int64_t n = 50000;
  const TensorView first = Take(n), second = Take(n);
  const PinnedMemory copy(gpu_.get(), 2 * n);
  for (int time = 0; time < 3; ++time) {
    const auto value = static_cast<float>(time);
    // As an update does, and what comes after it.
    gpu_->ComputeAfterCopies();
    Fill(first, value);
    Fill(second, 10 + value);
    const DeviceRead reads[] = {
        {first.data, copy.values().data(), first.Bytes()},
        {second.data, copy.values().data() + n, second.Bytes()},
    };
    gpu_->CopyOutBeside(reads);
    gpu_->ComputeAfterCopies();
    Fill(second, -2);
    Fill(first, -2);
    std::thread([&] {
      gpu_->WaitForCopies();
      const auto holds = [](std::span<const float> part, float wanted) {
        return std::ranges::all_of(part, [wanted](float v) { return v == wanted; });
      };
      EXPECT_TRUE(holds(copy.values().first(n), value)) << copy.values()[0];
      EXPECT_TRUE(holds(copy.values().subspan(n), 10 + value)) << copy.values()[n];
    }).join();
  }
}

// The emulator runs nothing before the host waits for something.
TEST_P(CudaDevice, TheHostDoesNotWaitForCopiesOut) {
  if (DeviceLaunches() < 0) GTEST_SKIP() << "a GPU may have copied by then";
  const TensorView memory = Take(1000);
  Fill(memory, 1);
  const PinnedMemory copy(gpu_.get(), 1000);
  CopyOutBeside(memory, copy.values());
  gpu_->ComputeAfterCopies();
  Fill(memory, 2);
  EXPECT_TRUE(copy.HoldsOnly(-1));
  gpu_->WaitForCopies();
  EXPECT_TRUE(copy.HoldsOnly(1));
}

TEST_P(CudaDevice, MemoryStaysPinnedUntilCopiesOutAreDone) {
  const TensorView memory = Take(5000);
  Fill(memory, 3);
  PinnedMemory copy(gpu_.get(), 5000);
  CopyOutBeside(memory, copy.values());
  copy.Unpin();
  EXPECT_TRUE(copy.HoldsOnly(3));
}

// And the next ones succeed.
TEST_P(CudaDevice, CopiesOutThatFailAreErrors) {
  if (DeviceLaunches() < 0) GTEST_SKIP() << "errors of the emulator's";
  const auto ask = [](const char* fault) { setenv("SWINFLEET_CUDA_FAULT", fault, 1); };
  const TensorView memory = Take(100);
  Fill(memory, 4);
  ask("pinning");
  EXPECT_THROW(PinnedMemory(gpu_.get(), 100), Error);
  const PinnedMemory copy(gpu_.get(), 100);
  ask("copying");
  const DeviceRead read = {memory.data, copy.values().data(), memory.Bytes()};
  const DeviceRead reads[] = {read, read};
  EXPECT_THROW(gpu_->CopyOutBeside(reads), Error);
  // Operations are not told of it, and wait for what was begun.
  gpu_->ComputeAfterCopies();
  Fill(memory, 5);
  gpu_->Wait();
  ask("copy");
  CopyOutBeside(memory, copy.values());
  EXPECT_THROW(gpu_->WaitForCopies(), Error);
  unsetenv("SWINFLEET_CUDA_FAULT");
  EXPECT_TRUE(copy.HoldsOnly(4));
  CopyOutBeside(memory, copy.values());
  gpu_->WaitForCopies();
  EXPECT_TRUE(copy.HoldsOnly(5));
}

// Read only when all of it is over, and one after the other on each stream.
TEST_P(CudaDevice, ClocksTellWhatTheGpuTakes) {
  const TensorView few = Take(64), many = Take(1 << 19);
  const std::unique_ptr<DeviceClock> clock = gpu_->MakeClock(4);
  const size_t begin = clock->Note(gpu_->stream());
  Fill(few, 1);
  const size_t between = clock->Note(gpu_->stream());
  for (int i = 0; i < 8; ++i) Fill(many, 1);
  const size_t end = clock->Note(gpu_->stream());
  // Nobody has waited for them so far.
  const double all = clock->SecondsBetween(begin, end);
  const double first = clock->SecondsBetween(begin, between);
  const double second = clock->SecondsBetween(between, end);
  EXPECT_GT(first, 0);
  EXPECT_GT(second, first);
  // Of a float's digits.
  EXPECT_NEAR(all, first + second, 1e-5 * all);
  EXPECT_EQ(clock->SecondsBetween(end, end), 0);
}

TEST_P(CudaDevice, ClocksTakeNoMoreEventsThanTheyWereMadeWith) {
  if (DeviceEvents() < 0) GTEST_SKIP() << "nobody counts them";
  const int64_t without = DeviceEvents();
  {
    const std::unique_ptr<DeviceClock> clock = gpu_->MakeClock(3);
    const int64_t made = DeviceEvents();
    EXPECT_EQ(made, without + 3);
    const auto note = [&] { return clock->Note(gpu_->stream()); };
    size_t last = note();
    for (int i = 0; i < 20; ++i) {
      const size_t begin = note(), end = note();
      EXPECT_NE(begin, end);
      EXPECT_GE(clock->SecondsBetween(last, begin), 0);
      EXPECT_GT(clock->SecondsBetween(begin, end), 0);
      clock->Forget(last);
      clock->Forget(begin);
      last = end;
    }
    EXPECT_EQ(DeviceEvents(), made);
    // More than there was room for.
    for (int i = 0; i < 3; ++i) note();
    EXPECT_EQ(DeviceEvents(), made + 1);
  }
  EXPECT_EQ(DeviceEvents(), without);
}

// What lanes copy out is what was computed before, and what is computed behind a mark comes after
// it; another thread may call a lane and wait for it.
TEST_P(CudaDevice, LanesCopyOutBesideComputing) {
  const int64_t n = 50000;
  const TensorView memory = Take(n);
  const PinnedMemory copy(gpu_.get(), n);
  const std::unique_ptr<DeviceLane> lane = gpu_->NewLane(/*marks=*/2);
  for (int time = 0; time < 3; ++time) {
    const auto value = static_cast<float>(time);
    Fill(memory, value);
    lane->StartAfterComputing();
    std::thread([&] {
      lane->CopyOut(memory.data, copy.values().data(), memory.Bytes());
      lane->SetMark(1);
    }).join();
    lane->ComputeAfter(1);
    Fill(memory, -2);
    std::thread([&] {
      lane->Wait();
      EXPECT_TRUE(copy.HoldsOnly(value)) << copy.values()[0];
    }).join();
  }
}

// Through memory that is used again, with work in between.
TEST_P(CudaDevice, LanesCopyInWorkAndCopyOutInTheirOrder) {
  const int64_t n = 30000;
  const TensorView buffer = Take(n), sum = Take(n);
  Fill(sum, 1);
  const std::unique_ptr<DeviceLane> lane = gpu_->NewLane(/*marks=*/1);
  lane->StartAfterComputing();
  const PinnedMemory first(gpu_.get(), n), second(gpu_.get(), n);
  std::ranges::fill(first.values(), 10.0f);
  std::ranges::fill(second.values(), 20.0f);
  Context on_lane = context_;
  on_lane.stream = lane->stream();
  for (const PinnedMemory* pinned : {&first, &second}) {
    lane->CopyIn(pinned->values().data(), buffer.data, buffer.Bytes());
    context_.ops->add({.x = buffer, .y = sum}, on_lane);
    context_.ops->fill({.x = buffer, .value = 30}, on_lane);
    lane->CopyOut(buffer.data, pinned->values().data(), buffer.Bytes());
  }
  lane->SetMark(0);
  lane->ComputeAfter(0);
  Add(sum, buffer);
  std::vector<float> result(n);
  gpu_->CopyOut(buffer.data, result.data(), buffer.Bytes());
  EXPECT_TRUE(std::ranges::all_of(result, [](float v) { return v == 61; })) << result[0];
  lane->Wait();
  EXPECT_TRUE(first.HoldsOnly(30));
  EXPECT_TRUE(second.HoldsOnly(30));
}

// Whoever waits is told, however many marks come between.
TEST_P(CudaDevice, LanesTellOfCopiesThatFail) {
  if (DeviceLaunches() < 0) GTEST_SKIP() << "errors of the emulator's";
  const TensorView memory = Take(100);
  Fill(memory, 4);
  const PinnedMemory copy(gpu_.get(), 100);
  const std::unique_ptr<DeviceLane> lane = gpu_->NewLane(/*marks=*/1);
  lane->StartAfterComputing();
  setenv("SWINFLEET_CUDA_FAULT", "copy", 1);
  lane->CopyOut(memory.data, copy.values().data(), memory.Bytes());
  unsetenv("SWINFLEET_CUDA_FAULT");
  lane->SetMark(0);
  EXPECT_THROW(lane->Wait(), Error);
  lane->CopyOut(memory.data, copy.values().data(), memory.Bytes());
  lane->Wait();
  EXPECT_TRUE(copy.HoldsOnly(4));
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaDevice, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace swinfleet::testing
