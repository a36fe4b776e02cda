// A program of its own, because it replaces operator new to count the allocations of all threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/data/loader.h"
#include "tests/core/data_test_util.h"

namespace {
std::atomic<int64_t> allocations = 0;
}  // namespace

// Not inlined: the compiler would see free() meet operator new, and warn.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace swinfleet {
namespace {

TEST(Loader, AllocatesNothingAfterTheFirstBatches) {
  const FakeDataset data(100, 28, 28, 1, 10);
  LoaderOptions options;
  options.data.pad = 4;
  options.data.random_crop = true;
  options.data.loader_threads = 2;
  options.image_h = 32;
  options.image_w = 32;
  options.in_chans = 1;
  options.num_classes = 10;
  options.micro_batch = 16;
  options.micro_batches_per_step = 2;
  options.leaves = 2;
  Loader loader(&data, options);
  const int64_t at_start = allocations;
  // Many epochs.
  for (int i = 0; i < 200; ++i) loader.Next();
  // The picture of each thread and its list of frames, whenever it begins.
  EXPECT_LE(allocations - at_start, 4);
}

}  // namespace
}  // namespace swinfleet
