// A program of its own, because it replaces operator new to count the allocations of all threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "core/data/loader.h"
#include "core/data/picture_file.h"
#include "core/data/sample.h"
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
using ::testing::Not;

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

// What the callable's OutOfMemoryError says.
std::string WantOfMemory(const std::function<void()>& call) {
  try {
    call();
  } catch (const OutOfMemoryError& error) {
    return error.what();
  } catch (const Error& error) {
    ADD_FAILURE() << "no OutOfMemoryError: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

// That of the first sample, where there is no memory for anything larger than `bytes`.
std::string WantOfMemory(const Dataset& data, const LoaderOptions& options, size_t bytes) {
  const SampleMaker maker(&data, options);
  SampleScratch scratch;
  std::vector<BrokenSample> broken;
  std::vector<float> out(maker.size());
  largest = bytes;
  const std::string error = WantOfMemory([&] { maker.Make(0, 0, &scratch, &broken, out); });
  largest = SIZE_MAX;
  return error;
}

// Memory is short for good pictures and for broken ones alike: no other may stand for them.
TEST(PictureFile, WithoutMemoryIsNotBroken) {
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
  const auto error_below = [&](size_t bytes) { return WantOfMemory(*data, options, bytes); };
  for (const auto choice :
       {DataConfig::BrokenPictures::kFail, DataConfig::BrokenPictures::kReplace}) {
    options.data.broken_pictures = choice;
    EXPECT_THAT(error_below(600 * 500),
                AllOf(HasSubstr("not enough memory to decode " + path.string()),
                      HasSubstr("500x600"), HasSubstr("have more memory free"),
                      Not(HasSubstr("data.")), Not(HasSubstr("repair"))));
    EXPECT_THAT(error_below(std::filesystem::file_size(path) - 1),
                AllOf(HasSubstr("not enough memory to read"), HasSubstr(path.string())));
  }
  options.data.loader_threads = 2;
  EXPECT_THAT(error_below(600 * 500), HasSubstr("lower data.loader_threads, or have more memory"));
  options.names.threads = "--threads";
  EXPECT_THAT(error_below(600 * 500), HasSubstr("lower --threads, or have more memory"));
}

TEST(PictureFile, PreparedWithoutMemoryIsNotBroken) {
  const FakeDataset data(2, 30, 40, 3, 2);
  LoaderOptions options;
  options.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  options.data.crop_scale = {0.2, 1};
  options.image_h = options.image_w = 300;
  options.in_chans = 3;
  options.num_classes = 2;
  EXPECT_THAT(WantOfMemory(data, options, 30 * 40 * 3),
              AllOf(HasSubstr("not enough memory to prepare sample 0"), HasSubstr("40x30 pixels")));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Their allocators end the program instead.
TEST(PictureFile, ADecoderWithoutMemoryIsNotABrokenPicture) {
  // Large pieces come from the system and go back to it.
  ASSERT_EQ(mallopt(M_MMAP_THRESHOLD, 1 << 17), 1);
  TempFolder folder;
  const std::filesystem::path path = folder / "a.jpg";
  PictureFile file = FlatFile(1500, 1500, {1, 2, 3});
  file.options = "interlace";
  WritePicture(path, file);
  Picture picture;
  DecodePicture(path.string(), &picture);
  // The picture has its memory already; the coefficients of its scans take twice as much again.
  malloc_trim(0);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  rlimit tight = before;
  size_t pages = 0;
  ASSERT_TRUE(std::ifstream("/proc/self/statm") >> pages);
  tight.rlim_cur = pages * getpagesize() + (1 << 20);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &tight), 0);
  const std::string error = WantOfMemory([&] { DecodePicture(path.string(), &picture); });
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_THAT(error, AllOf(HasSubstr("not enough memory to decode " + path.string()),
                           HasSubstr("1500x1500 pixels")));
}
#endif

}  // namespace
}  // namespace swinfleet
