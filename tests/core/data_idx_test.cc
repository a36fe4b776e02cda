#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "core/data/dataset.h"
#include "tests/core/data_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kFashionMnist[] = "/usr/share/datasets/fashion-mnist";

// A folder with a good split "train" of 3 grey pictures of 4x5, which each test then damages.
class IdxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteBytes(images_, IdxImages({3, 4, 5}));
    WriteBytes(labels_, IdxLabels({2, 0, 7}));
    config_.path = folder_.string();
  }
  std::unique_ptr<Dataset> Open(const std::string& split = "train") {
    return OpenDataset(config_, split);
  }
  std::string OpenError(const std::string& split = "train") {
    return ErrorOf([&] { Open(split); });
  }

  TempFolder folder_;
  DataConfig config_;
  std::filesystem::path images_ = folder_ / "train-images-idx3-ubyte";
  std::filesystem::path labels_ = folder_ / "train-labels-idx1-ubyte";
};

TEST_F(IdxTest, ReadsGreyPictures) {
  const auto data = Open();
  EXPECT_EQ(data->identity().count, 3);
  EXPECT_EQ(data->identity().channels, 1);
  EXPECT_EQ(data->identity().height, 4);
  EXPECT_EQ(data->identity().width, 5);
  EXPECT_EQ(data->identity().num_classes, 8);
  EXPECT_THAT(data->identity().ToString(),
              HasSubstr("3 pictures of 4x5, 1 channel, 8 classes, index "));
  Picture picture;
  const int64_t labels[] = {2, 0, 7};
  for (int64_t i : {2, 0, 1}) {
    data->Get(i, &picture);
    EXPECT_EQ(picture.height, 4);
    EXPECT_EQ(picture.width, 5);
    EXPECT_EQ(picture.channels, 1);
    EXPECT_EQ(picture.label, labels[i]);
    EXPECT_EQ(data->Label(i), labels[i]);
    ASSERT_EQ(picture.pixels.size(), 20U);
    for (int64_t k = 0; k < 20; ++k) ASSERT_EQ(picture.pixels[k], TestPixel(i * 20 + k));
  }
}

TEST_F(IdxTest, ReadsColourPictures) {
  WriteBytes(images_, IdxImages({3, 2, 2, 3}));
  const auto data = Open();
  EXPECT_EQ(data->identity().channels, 3);
  EXPECT_EQ(data->identity().height, 2);
  Picture picture;
  data->Get(1, &picture);
  EXPECT_EQ(picture.channels, 3);
  ASSERT_EQ(picture.pixels.size(), 12U);
  EXPECT_EQ(picture.pixels[11], TestPixel(23));
}

TEST_F(IdxTest, GzippedFilesAreTheSameDataSet) {
  const DataIdentity plain = Open()->identity();
  for (const auto& path : {images_, labels_}) {
    WriteBytes(path.string() + ".gz", Gzip(ReadBytes(path)));
    std::filesystem::remove(path);
  }
  EXPECT_EQ(Open()->identity(), plain);
  // A gzip file may have several members.
  const std::string images = IdxImages({3, 4, 5});
  WriteBytes(images_.string() + ".gz", Gzip(images.substr(0, 30)) + Gzip(images.substr(30)));
  EXPECT_EQ(Open()->identity(), plain);
}

TEST_F(IdxTest, ReadsLargeGzippedFiles) {
  // Larger than the pieces in which the file and its values are read.
  const uint32_t count = 20;
  WriteBytes(images_, Gzip(IdxImages({count, 1000, 1000})));
  WriteBytes(labels_, IdxLabels(std::vector<uint8_t>(count, 1)));
  const auto data = Open();
  Picture picture;
  data->Get(count - 1, &picture);
  for (int64_t k = 0; k < 1000000; ++k) {
    ASSERT_EQ(picture.pixels[k], TestPixel((count - 1) * 1000000 + k));
  }
}

TEST_F(IdxTest, IdentityChangesWithAnything) {
  const DataIdentity original = Open()->identity();
  EXPECT_EQ(Open()->identity(), original);
  WriteBytes(labels_, IdxLabels({0, 2, 7}));
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
  SetUp();
  std::string images = ReadBytes(images_);
  images.back() ^= 1;
  WriteBytes(images_, images);
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
  WriteBytes(images_, IdxImages({3, 5, 4}));
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
}

TEST_F(IdxTest, UnknownFormat) {
  config_.format = "folder";
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("data.format \"folder\""), HasSubstr("idx")));
}

TEST_F(IdxTest, MissingFolderSaysWhatIsThere) {
  config_.path = (folder_ / "no/such").string();
  EXPECT_THAT(OpenError(),
              AllOf(HasSubstr(config_.path + " does not exist"),
                    HasSubstr(folder_.string() + " holds train-images-idx3-ubyte, train-labels")));
  config_.path = "";
  EXPECT_THAT(OpenError(), HasSubstr("data.path is empty"));
  config_.path = images_.string();
  EXPECT_THAT(OpenError(), HasSubstr("is not a folder"));
  config_.path = (images_ / "deeper").string();
  EXPECT_THAT(OpenError(), HasSubstr("does not exist"));
}

TEST_F(IdxTest, MissingFileSaysWhatIsThere) {
  EXPECT_THAT(OpenError("t10k"), AllOf(HasSubstr("t10k-images-idx3-ubyte.gz"),
                                       HasSubstr("holds train-images-idx3-ubyte")));
  std::filesystem::remove(labels_);
  EXPECT_THAT(OpenError(), HasSubstr("neither train-labels-idx1-ubyte nor"));
  std::filesystem::remove(images_);
  EXPECT_THAT(OpenError(), HasSubstr("is empty"));
}

TEST_F(IdxTest, BadSplitNames) {
  EXPECT_THAT(OpenError(""), HasSubstr("not the name of a split"));
  EXPECT_THAT(OpenError("../train"), HasSubstr("not the name of a split"));
}

TEST_F(IdxTest, EveryTruncationIsAnErrorThatNamesTheFile) {
  for (const auto& path : {images_, labels_}) {
    const std::string whole = ReadBytes(path);
    for (size_t size = 0; size < whole.size(); ++size) {
      WriteBytes(path, whole.substr(0, size));
      EXPECT_THAT(OpenError(), HasSubstr(path.string())) << size;
    }
    WriteBytes(path, whole);
  }
  WriteBytes(images_, IdxImages({3, 4, 5}).substr(0, 75));
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("truncated"), HasSubstr("3 x 4 x 5 = 60 bytes"),
                                 HasSubstr("it holds 59")));
}

TEST_F(IdxTest, EveryTruncationOfAGzippedFileIsAnErrorThatNamesTheFile) {
  const std::string whole = Gzip(IdxImages({3, 4, 5}));
  for (size_t size = 0; size < whole.size(); ++size) {
    WriteBytes(images_, whole.substr(0, size));
    EXPECT_THAT(OpenError(), HasSubstr(images_.string())) << size;
  }
  WriteBytes(images_, whole.substr(0, whole.size() - 3));
  EXPECT_THAT(OpenError(), HasSubstr("cut off"));
}

TEST_F(IdxTest, DamagedCompressedData) {
  std::string bytes = Gzip(IdxImages({3, 4, 5}));
  bytes[bytes.size() - 6] ^= 1;  // the checksum
  WriteBytes(images_, bytes);
  EXPECT_THAT(OpenError(), AllOf(HasSubstr(images_.string()), HasSubstr("is damaged")));
}

TEST_F(IdxTest, TrailingBytes) {
  WriteBytes(images_, IdxImages({3, 4, 5}) + "x");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr(images_.string()), HasSubstr("has bytes after")));
  WriteBytes(images_, Gzip(IdxImages({3, 4, 5}) + "x"));
  EXPECT_THAT(OpenError(), HasSubstr("has bytes after"));
  WriteBytes(images_, Gzip(IdxImages({3, 4, 5})) + "junk");
  EXPECT_THAT(OpenError(), HasSubstr("is damaged"));
}

TEST_F(IdxTest, WrongMagic) {
  std::string bytes = IdxImages({3, 4, 5});
  bytes[2] = 0x0d;  // floats
  WriteBytes(images_, bytes);
  EXPECT_THAT(OpenError(), AllOf(HasSubstr(images_.string()), HasSubstr("begins with 00000d03"),
                                 HasSubstr("00000803 or 00000804")));
  // Labels where pictures belong.
  WriteBytes(images_, IdxLabels({1, 2, 3}));
  EXPECT_THAT(OpenError(), HasSubstr("wrong magic number"));
  WriteBytes(images_, IdxImages({3, 4, 5}));
  WriteBytes(labels_, IdxImages({3, 4, 5}));
  EXPECT_THAT(OpenError(), AllOf(HasSubstr(labels_.string()), HasSubstr("wrong magic number")));
}

TEST_F(IdxTest, CountsThatDiffer) {
  WriteBytes(labels_, IdxLabels({1, 2}));
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("holds 3 pictures"), HasSubstr("2 labels")));
}

TEST_F(IdxTest, AbsurdDimensionsAllocateNothing) {
  const uint32_t most = 0xffffffff;
  for (const std::vector<uint32_t>& dims :
       {std::vector<uint32_t>{most, most, most}, {most, most, most, most}, {3, most, 5}}) {
    for (const bool gzip : {false, true}) {
      const std::string bytes = IdxHeader(dims) + std::string(60, 'x');
      WriteBytes(images_, gzip ? Gzip(bytes) : bytes);
      EXPECT_THAT(OpenError(), AllOf(HasSubstr(images_.string()), HasSubstr("4294967295")));
    }
  }
  // Consistent with the file's size, but not pictures.
  WriteBytes(images_, IdxHeader({3, 0, 5}));
  EXPECT_THAT(OpenError(), HasSubstr("height and width must be"));
  WriteBytes(images_, IdxHeader({0, 4, 5}));
  EXPECT_THAT(OpenError(), HasSubstr("holds no pictures"));
  WriteBytes(images_, IdxImages({3, 1, 70000}));
  EXPECT_THAT(OpenError(), HasSubstr("height and width must be"));
  WriteBytes(images_, IdxImages({3, 3, 4, 5}));
  EXPECT_THAT(OpenError(), HasSubstr("(count, height, width, channels)"));
}

TEST_F(IdxTest, WhatIsNotARegularFile) {
  std::filesystem::remove(images_);
  std::filesystem::create_directory(images_);
  EXPECT_THAT(OpenError(), AllOf(HasSubstr(images_.string()), HasSubstr("not a regular file")));
  std::filesystem::remove(images_);
  // A pipe without a writer must not hang the job.
  ASSERT_EQ(mkfifo(images_.c_str(), 0600), 0);
  EXPECT_THAT(OpenError(), HasSubstr("not a regular file"));
}

TEST_F(IdxTest, CheckLabelsNamesSampleLabelAndClasses) {
  const auto data = Open();
  CheckLabels(*data, 8);
  EXPECT_THAT(
      ErrorOf([&] { CheckLabels(*data, 7); }),
      AllOf(HasSubstr("sample 2 has label 7"), HasSubstr("7 classes"), HasSubstr("at least 8")));
  EXPECT_THAT(ErrorOf([&] { CheckLabels(*data, 2); }), HasSubstr("sample 0 has label 2"));
}

TEST(FashionMnist, IsWhatItIsKnownToBe) {
  if (!std::filesystem::exists(kFashionMnist)) {
    GTEST_SKIP() << "the package dataset-fashion-mnist is not installed";
  }
  DataConfig config;
  config.path = kFashionMnist;
  const auto train = OpenDataset(config, "train");
  EXPECT_EQ(train->identity().count, 60000);
  EXPECT_EQ(train->identity().height, 28);
  EXPECT_EQ(train->identity().width, 28);
  EXPECT_EQ(train->identity().num_classes, 10);
  const auto test = OpenDataset(config, "t10k");
  EXPECT_EQ(test->identity().count, 10000);
  std::vector<int64_t> classes(10);
  for (int64_t i = 0; i < 10000; ++i) ++classes[test->Label(i)];
  EXPECT_EQ(classes, std::vector<int64_t>(10, 1000));
  // The first test picture is an ankle boot.
  EXPECT_EQ(test->Label(0), 9);
}

}  // namespace
}  // namespace swinfleet
