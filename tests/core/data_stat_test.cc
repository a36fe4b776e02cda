// A program of its own, because it replaces stat to count the calls. Data sets have millions of
// files, and on network file systems each call takes a round trip.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/data/dataset.h"
#include "tests/core/data_test_util.h"

namespace {
int64_t calls = 0;
}  // namespace

extern "C" int stat(const char* path, struct stat* info) noexcept {
  ++calls;
  return fstatat(AT_FDCWD, path, info, 0);
}

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

class StatTest : public ::testing::Test {
 protected:
  // Adds files 10.png to 39.png to a folder.
  void AddFiles(const std::string& path) {
    fs::create_directories(folder_ / path);
    for (int i = 10; i < 40; ++i) WriteBytes(folder_ / path / (std::to_string(i) + ".png"), "x");
  }
  // Calls that opening the split takes.
  int64_t Calls(const std::string& format) {
    DataConfig config;
    config.format = format;
    config.path = folder_.string();
    calls = 0;
    OpenDataset(config, "train");
    return calls;
  }

  TempFolder folder_;
};

TEST_F(StatTest, APictureTakesOne) {
  AddFiles("train/a");
  const int64_t few = Calls("imagefolder");
  EXPECT_GE(few, 30) << "calls are not counted";
  AddFiles("train/a/b");
  AddFiles("train/c");
  EXPECT_EQ(Calls("imagefolder") - few, 60);
  // A link one to see where it leads, and one for the size.
  fs::create_symlink("10.png", folder_ / "train/a/40.png");
  EXPECT_EQ(Calls("imagefolder") - few, 62);
}

TEST_F(StatTest, AClipTakesOneWhateverItsFrames) {
  fs::create_directories(folder_ / "train/a/clip");
  WriteBytes(folder_ / "train/a/clip/9.png", "x");
  const int64_t one = Calls("frames");
  AddFiles("train/a/clip");
  EXPECT_EQ(Calls("frames"), one);
  fs::create_symlink("39.png", folder_ / "train/a/clip/40.png");
  EXPECT_EQ(Calls("frames"), one + 1);
  AddFiles("train/a/other");
  EXPECT_EQ(Calls("frames"), one + 2);
}

}  // namespace
}  // namespace swinfleet
