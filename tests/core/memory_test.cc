#include "core/memory/memory_classes.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <vector>

#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

MemoryClasses Planned() {
  MemoryClasses planned = MemoryClasses::DryRun();
  planned.parameters.Allocate(Shape{3, 1000});
  planned.gradients.Allocate(Shape{5});
  planned.activations.AllocateBytes(8 * kMiB + 1);
  planned.activations.Release(0);
  planned.activations.AllocateBytes(kMiB);
  return planned;
}

TEST(MemoryClasses, TheDryRunCountsHighWaterMarks) {
  const MemoryClasses planned = Planned();
  EXPECT_EQ(planned.parameters.high_water(), 12032u);  // 12000, in whole pieces of 64 bytes.
  EXPECT_EQ(planned.gradients.high_water(), 64u);
  EXPECT_EQ(planned.optimizer.high_water(), 0u);
  EXPECT_EQ(planned.activations.high_water(), 8 * kMiB + 64);
  EXPECT_EQ(planned.activations.used(), kMiB);
  EXPECT_EQ(planned.TotalHighWater(), 12032 + 64 + 8 * kMiB + 64);
  EXPECT_EQ(planned.parameters.device(), Device::kDryRun);
}

TEST(MemoryClasses, OnHostHasRoomForThePlan) {
  const size_t resident = ProcessResidentBytes();
  MemoryClasses memory = MemoryClasses::OnHost(Planned());
  EXPECT_EQ(memory.optimizer.device(), Device::kCpu) << "an arena without capacity is still real";
  // Touched at once, not when it is first used.
  EXPECT_GE(ProcessResidentBytes(), resident + 8 * kMiB - kMiB / 2);
  const TensorView view = memory.parameters.Allocate(Shape{3, 1000});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % Arena::kAlignment, 0u);
  for (float& value : view.span()) value = 1;
  memory.activations.AllocateBytes(8 * kMiB + 1);
  EXPECT_EQ(memory.activations.high_water(), 8 * kMiB + 64);
}

TEST(MemoryClasses, MovingKeepsTheMemory) {
  MemoryClasses memory = MemoryClasses::OnHost(Planned());
  const TensorView view = memory.parameters.Allocate(Shape{4});
  view.f32()[3] = 42;
  MemoryClasses moved = std::move(memory);
  EXPECT_EQ(view.f32()[3], 42);
  EXPECT_EQ(moved.parameters.used(), 64u);
  moved = MemoryClasses::OnHost(MemoryClasses::DryRun());
  EXPECT_EQ(moved.parameters.used(), 0u);
}

TEST(MemoryClasses, MoreThanTheMachineHasIsAnError) {
  MemoryClasses planned = MemoryClasses::DryRun();
  planned.activations.AllocateBytes(size_t{1} << 50);
  try {
    MemoryClasses::OnHost(planned);
    FAIL() << "a pebibyte was given";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("memory for activations: 1073741824.0 MiB needed"), std::string::npos)
        << text;
    EXPECT_NE(text.find("in all"), std::string::npos) << text;
  }
}

TEST(MemoryClasses, TheReportNamesEachClass) {
  EXPECT_EQ(Planned().Report(),
            "parameters 0.0 MiB, gradients 0.0 MiB, optimizer 0.0 MiB, activations 8.0 MiB, "
            "workspace 0.0 MiB");
}

TEST(ProcessBytes, FollowWhatIsUsed) {
  const size_t before = ProcessResidentBytes();
  EXPECT_GT(before, kMiB);
  EXPECT_GE(ProcessPeakBytes(), before);
  {
    const Arena arena = Arena::OnHost("test", 64 * kMiB);
    EXPECT_GE(ProcessResidentBytes(), before + 60 * kMiB);
  }
  EXPECT_LT(ProcessResidentBytes(), before + 32 * kMiB) << "the memory was not given back";
  EXPECT_GE(ProcessPeakBytes(), before + 60 * kMiB);
}

}  // namespace
}  // namespace swinfleet
