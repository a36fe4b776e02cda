// A program of its own, because it replaces operator new to count the allocations of all threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <string>

#include "core/data/loader.h"
#include "tests/core/picture_test_util.h"

namespace {
std::atomic<int64_t> allocations = 0;
// What is larger finds no memory.
std::atomic<size_t> largest = SIZE_MAX;
}  // namespace

// Not inlined: the compiler would see free() meet operator new, and warn.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (size > largest) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

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

TEST(PictureFile, WithoutMemoryIsBrokenByName) {
  TempFolder folder;
  const std::filesystem::path path = folder / "train/a/huge.png";
  WritePicture(path, FlatFile(600, 500, {1, 2, 3}));
  LoaderOptions options;
  options.data.format = "imagefolder";
  options.data.path = folder.string();
  options.image_h = options.image_w = 32;
  options.in_chans = 3;
  options.num_classes = 1;
  options.micro_batch = 1;
  const auto data = OpenDataset(options.data, "train");
  const auto error_below = [&](size_t bytes) {
    Loader loader(data.get(), options);
    largest = bytes;
    const std::string error = ErrorOf([&] { loader.Next(); });
    largest = SIZE_MAX;
    return error;
  };
  EXPECT_THAT(error_below(600 * 500),
              AllOf(HasSubstr("not enough memory to decode " + path.string()), HasSubstr("500x600"),
                    HasSubstr("data.broken_pictures: replace")));
  EXPECT_THAT(error_below(std::filesystem::file_size(path) - 1),
              AllOf(HasSubstr("not enough memory to read"), HasSubstr(path.string())));
}

}  // namespace
}  // namespace swinfleet
