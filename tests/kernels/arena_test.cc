#include "kernels/arena.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <memory>

#include <cmath>
#include <fstream>
#include <utility>

#include "kernels/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace swinfleet {
namespace {

size_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  file >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST(Arena, AlignsEveryPiece) {
  Arena arena = Arena::OnHost("test", 4096);
  for (int64_t n : {1, 3, 16, 17, 5, 0, 2}) {
    const TensorView view = arena.Allocate({n});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % Arena::kAlignment, 0u) << n;
    EXPECT_EQ(view.shape, Shape{n});
    EXPECT_EQ(view.device, Device::kCpu);
    EXPECT_FALSE(view.empty());
  }
  // 64 bytes for each up to 16 floats, 128 for 17, nothing for none.
  EXPECT_EQ(arena.used(), 6 * 64 + 64u);
}

TEST(Arena, PiecesDoNotOverlap) {
  Arena arena = Arena::OnHost("test", 4096);
  const TensorView a = arena.Allocate({33});
  const TensorView b = arena.Allocate({7, 3});
  std::fill(a.span().begin(), a.span().end(), 1.f);
  std::fill(b.span().begin(), b.span().end(), 2.f);
  for (float x : a.span()) ASSERT_EQ(x, 1);
  for (float x : b.span()) ASSERT_EQ(x, 2);
}

// The memory is the device's: any access from here would fault.
TEST(Arena, GivesOutDeviceMemoryUntouched) {
  const auto base = uintptr_t{0xdead} << 48;
  const std::shared_ptr<void> memory(reinterpret_cast<void*>(base), [](void*) {});
  Arena arena = Arena::OnDevice("test", memory, 256);
  EXPECT_EQ(memory.use_count(), 2);
  EXPECT_EQ(arena.device(), Device::kCuda);
  const TensorView a = arena.Allocate({3}), b = arena.Allocate({2});
  EXPECT_EQ(a.device, Device::kCuda);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data), base);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data), base + 64);
  arena.Release(0);
  EXPECT_EQ(arena.high_water(), 128u);
  Arena other = std::move(arena);
  EXPECT_EQ(other.device(), Device::kCuda);
}

TEST(Arena, ReleasesInReverseOrder) {
  Arena arena = Arena::OnHost("test", 4096);
  arena.Allocate({16});
  const size_t mark = arena.Mark();
  const void* first = arena.Allocate({100}).data;
  arena.Allocate({20});
  EXPECT_EQ(arena.used(), 64 + 448 + 128u);
  arena.Release(mark);
  EXPECT_EQ(arena.used(), 64u);
  EXPECT_EQ(arena.high_water(), 64 + 448 + 128u);
  // The same place again; the high-water mark stays.
  EXPECT_EQ(arena.Allocate({10}).data, first);
  EXPECT_EQ(arena.high_water(), 64 + 448 + 128u);
}

TEST(Arena, ScopesNest) {
  Arena arena = Arena::OnHost("test", 4096);
  {
    ArenaScope outer(&arena);
    arena.Allocate({16});
    {
      ArenaScope inner(&arena);
      arena.Allocate({32});
      EXPECT_EQ(arena.used(), 192u);
    }
    EXPECT_EQ(arena.used(), 64u);
  }
  EXPECT_EQ(arena.used(), 0u);
}

TEST(Arena, DryRunCountsLikeTheHost) {
  Arena dry = Arena::DryRun("dry");
  Arena host = Arena::OnHost("host", 1 << 16);
  EXPECT_EQ(dry.device(), Device::kDryRun);
  EXPECT_EQ(host.device(), Device::kCpu);
  for (Arena* arena : {&dry, &host}) {
    ArenaScope scope(arena);
    arena->Allocate({3, 5, 7});
    arena->Allocate({129}, DType::kBF16);
    {
      ArenaScope inner(arena);
      arena->AllocateBytes(1001);
    }
    const TensorView view = arena->Allocate({2, 2});
    EXPECT_EQ(view.device, arena->device());
    EXPECT_FALSE(view.empty()) << "an empty view would mean an absent tensor";
  }
  EXPECT_EQ(dry.high_water(), host.high_water());
  EXPECT_EQ(dry.used(), 0u);
}

TEST(Arena, DryRunTakesWhatNoMachineHas) {
  Arena dry = Arena::DryRun("dry");
  dry.Allocate({int64_t{1} << 40, 100});
  EXPECT_EQ(dry.used(), size_t{400} << 40);
}

TEST(Arena, TouchesItsMemory) {
  constexpr size_t kBytes = size_t{48} << 20;
  const size_t before = ResidentBytes();
  Arena arena = Arena::OnHost("test", kBytes);
  EXPECT_GE(ResidentBytes() - before, kBytes * 9 / 10);
  EXPECT_GE(arena.capacity(), kBytes);
}

TEST(Arena, GivesItsMemoryBack) {
  constexpr size_t kBytes = size_t{48} << 20;
  const size_t before = ResidentBytes();
  for (int i = 0; i < 4; ++i) Arena::OnHost("test", kBytes);
  EXPECT_LT(ResidentBytes() - before, kBytes);
}

TEST(Arena, WithoutCapacityIsStillOnTheHost) {
  Arena arena = Arena::OnHost("test", 0);
  EXPECT_EQ(arena.device(), Device::kCpu);
  EXPECT_FALSE(arena.Allocate({0}).empty());
}

TEST(Arena, Moves) {
  Arena a = Arena::OnHost("a", 4096);
  const TensorView view = a.Allocate({4});
  view.f32()[3] = 7;
  Arena b = std::move(a);
  EXPECT_EQ(b.name(), "a");
  EXPECT_EQ(b.used(), 64u);
  EXPECT_EQ(view.f32()[3], 7);
  Arena c = Arena::OnHost("c", 64);
  c = std::move(b);
  EXPECT_EQ(c.name(), "a");
  EXPECT_EQ(view.f32()[3], 7);
}

TEST(Arena, AnAbsurdCapacityIsAnError) {
  for (const size_t capacity : {size_t{1} << 45, size_t{1} << 60}) {
    try {
      Arena::OnHost("activations", capacity);
      FAIL() << "got " << capacity << " bytes";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("activations"), std::string::npos) << error.what();
    }
  }
}

#if defined(__SANITIZE_ADDRESS__)
TEST(Arena, ForbidsReleasedMemory) {
  Arena arena = Arena::OnHost("test", 4096);
  const TensorView view = arena.Allocate({16});
  EXPECT_FALSE(__asan_address_is_poisoned(view.data));
  arena.Release(0);
  EXPECT_TRUE(__asan_address_is_poisoned(view.data));
}

TEST(Arena, ForbidsWhatLiesBetweenPieces) {
  Arena arena = Arena::OnHost("test", 4096);
  const TensorView view = arena.Allocate({17});
  EXPECT_FALSE(__asan_address_is_poisoned(view.f32() + 16));
  EXPECT_TRUE(__asan_address_is_poisoned(view.f32() + 17));
}
#elif !defined(NDEBUG)
TEST(Arena, PoisonsReleasedMemory) {
  Arena arena = Arena::OnHost("test", 4096);
  const TensorView view = arena.Allocate({16});
  std::fill(view.span().begin(), view.span().end(), 1.f);
  arena.Release(0);
  for (float x : view.span()) EXPECT_TRUE(std::isnan(x));
}
#endif

using ArenaDeathTest = ::testing::Test;

TEST(ArenaDeathTest, MoreThanItsCapacity) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        Arena arena = Arena::OnHost("small", 4096);
        arena.AllocateBytes(arena.capacity());
        arena.AllocateBytes(1);
      },
      "small");
}

TEST(ArenaDeathTest, ReleaseOutOfOrder) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        Arena arena = Arena::OnHost("test", 4096);
        arena.Allocate({16});
        const size_t mark = arena.Mark();
        arena.Release(0);
        arena.Release(mark);
      },
      "out of order");
}

}  // namespace
}  // namespace swinfleet
