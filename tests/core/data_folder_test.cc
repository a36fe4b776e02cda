// Pictures and clips in folders: the index, its order and its errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/frame_folder.h"
#include "core/data/picture_file.h"
#include "tests/core/picture_test_util.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.format = "imagefolder";
    config_.path = folder_.string();
  }
  std::unique_ptr<Dataset> Open(const std::string& split = "train") {
    return OpenDataset(config_, split);
  }
  std::string OpenError(const std::string& split = "train") {
    return ErrorOf([&] { Open(split); });
  }
  // A file that no one decodes.
  void Touch(const std::string& path, const std::string& bytes = "x") {
    fs::create_directories((folder_ / path).parent_path());
    WriteBytes(folder_ / path, bytes);
  }
  static std::vector<std::string> Names(const Dataset& data) {
    std::vector<std::string> names;
    for (int64_t i = 0; i < data.identity().count; ++i) names.push_back(data.Name(i));
    return names;
  }

  TempFolder folder_;
  DataConfig config_;
};

TEST_F(FolderTest, OrderAndLabelsAreTorchvisions) {
  // torchvision 0.29's ImageFolder of these files.
  for (const char* name :
       {"b/2.png", "b/10.png", "b/1.JPG", "a/z.webp", "a/sub/1.png", "a/sub-x/1.png",
        "a/sub/deep/0.jpeg", "C/x.jpg", "a/notes.txt", "b/.hidden.png"}) {
    Touch(std::string("train/") + name);
  }
  Touch("train/readme.md");
  const auto data = Open();
  EXPECT_THAT(Names(*data),
              ElementsAre("C/x.jpg", "a/z.webp", "a/sub/1.png", "a/sub-x/1.png",
                          "a/sub/deep/0.jpeg", "b/.hidden.png", "b/1.JPG", "b/10.png", "b/2.png"));
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 9; ++i) labels.push_back(data->Label(i));
  EXPECT_THAT(labels, ElementsAre(0, 1, 1, 1, 1, 2, 2, 2, 2));
  EXPECT_EQ(data->identity().num_classes, 3);
  EXPECT_EQ(data->identity().channels, 3);
  EXPECT_EQ(data->identity().height, 0);
  EXPECT_THAT(data->ClassNames(), ElementsAre("C", "a", "b"));
  EXPECT_THAT(data->identity().ToString(), HasSubstr("9 pictures of various sizes, 3 channels"));
}

TEST_F(FolderTest, PicturesAreDecoded) {
  WritePicture(folder_ / "train/a/1.png", TestFile(5, 4));
  WritePicture(folder_ / "train/b/1.png", TestFile(6, 7));
  const auto data = Open();
  Picture picture;
  data->Get(1, &picture);
  EXPECT_EQ(picture.label, 1);
  EXPECT_EQ(picture.height, 6);
  EXPECT_EQ(picture.width, 7);
  EXPECT_EQ(picture.pixels, TestFile(6, 7).bytes);
  EXPECT_EQ(data->Frames(0), 1);
}

TEST_F(FolderTest, TheIdentityChangesWithPathsSizesAndLabels) {
  Touch("train/a/1.png", "12");
  Touch("train/b/1.png", "123");
  const DataIdentity original = Open()->identity();
  EXPECT_EQ(Open()->identity(), original);
  Touch("train/a/1.png", "21");
  EXPECT_EQ(Open()->identity(), original) << "only sizes are looked at";
  Touch("train/a/1.png", "1234");
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
  Touch("train/a/1.png", "12");
  fs::rename(folder_ / "train/a/1.png", folder_ / "train/a/2.png");
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
  fs::rename(folder_ / "train/a/2.png", folder_ / "train/a/1.png");
  EXPECT_EQ(Open()->identity(), original);
  fs::rename(folder_ / "train/b", folder_ / "train/c");
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
}

TEST_F(FolderTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(OpenError(), AllOf(HasSubstr((folder_ / "train").string()), HasSubstr("is empty")));
  fs::create_directory(folder_ / "val");
  EXPECT_THAT(OpenError(), HasSubstr("holds val"));
  EXPECT_THAT(OpenError("val"), AllOf(HasSubstr((folder_ / "val").string()),
                                      HasSubstr("no class folders"), HasSubstr("is empty")));
  Touch("val/1.png");
  EXPECT_THAT(OpenError("val"), AllOf(HasSubstr("no class folders"), HasSubstr("holds 1.png")));
  Touch("val/cat/1.png");
  Touch("val/dog/note.txt");
  EXPECT_THAT(OpenError("val"), AllOf(HasSubstr((folder_ / "val/dog").string()),
                                      HasSubstr("has no pictures"), HasSubstr("holds note.txt")));
  EXPECT_THAT(OpenError("val/cat"), HasSubstr("not the name of a split"));
  EXPECT_THAT(OpenError(".."), HasSubstr("not the name of a split"));
  Touch("file", "");
  EXPECT_THAT(OpenError("file"), HasSubstr("is not a folder"));
  config_.path += "/no";
  EXPECT_THAT(OpenError(), HasSubstr("does not exist"));
  config_.path = "";
  EXPECT_THAT(OpenError(), HasSubstr("data.path is empty"));
}

TEST_F(FolderTest, FormatsThatAreNotReadAreErrors) {
  Touch("train/a/1.png");
  Touch("train/a/2.tiff");
  EXPECT_THAT(OpenError(),
              AllOf(HasSubstr((folder_ / "train/a/2.tiff").string()), HasSubstr("convert it")));
}

TEST_F(FolderTest, LinksAreFollowedAndLoopsEnd) {
  Touch("store/1.png");
  fs::create_directories(folder_ / "train/a");
  fs::create_directory_symlink(folder_ / "store", folder_ / "train/a/link");
  EXPECT_THAT(Names(*Open()), ElementsAre("a/link/1.png"));
  fs::create_directory_symlink(folder_ / "train", folder_ / "train/a/loop");
  EXPECT_THAT(OpenError(), HasSubstr("folders deep"));
}

TEST_F(FolderTest, LinksThatLeadNowhereAreErrors) {
  Touch("train/a/1.png");
  for (const char* link : {"train/a/2.png", "train/a/folder", "train/b"}) {
    fs::create_symlink(folder_ / "nowhere", folder_ / link);
    EXPECT_THAT(OpenError(),
                AllOf(HasSubstr("the link " + (folder_ / link).string() + " leads nowhere"),
                      HasSubstr((folder_ / "nowhere").string())));
    fs::remove(folder_ / link);
  }
  fs::create_symlink("2.png", folder_ / "train/a/2.png");
  EXPECT_THAT(OpenError(), HasSubstr("cannot look at " + (folder_ / "train/a/2.png").string()));
}

TEST_F(FolderTest, LinksOfOtherNamesMayLeadNowhere) {
  Touch("train/a/1.png");
  for (const char* link : {"train/.#b", "train/a/.#1", "train/a/notes.txt"}) {
    fs::create_symlink("nowhere", folder_ / link);
  }
  EXPECT_THAT(Names(*Open()), ElementsAre("a/1.png"));
}

TEST_F(FolderTest, KnowsTheMemoryOfNamesAndDecoding) {
  for (int i = 0; i < 50; ++i) Touch("train/a/" + std::to_string(100 + i) + ".png");
  const size_t few = Open()->HeldBytes();
  for (int i = 0; i < 50; ++i) Touch("train/a/" + std::to_string(200 + i) + ".png");
  // A name of 7 letters, and where it ends.
  EXPECT_EQ(Open()->HeldBytes() - few, 50 * (7 + sizeof(uint64_t)));
  // None of them can be decoded.
  EXPECT_EQ(Open()->Decoding().Bytes(3), 0U);
  WritePicture(folder_ / "train/b/small.png", TestFile(8, 8));
  WritePicture(folder_ / "train/b/large.png", TestFile(40, 60));
  const DecodingMemory large = DecodingOf((folder_ / "train/b/large.png").string());
  const DecodingMemory small = DecodingOf((folder_ / "train/b/small.png").string());
  EXPECT_EQ(large.picture, 3 * 40 * 60U);
  EXPECT_EQ(Open()->Decoding().Bytes(1), large.Bytes(1));
  // No two threads decode the same picture, but each may keep one as large as the largest.
  EXPECT_EQ(Open()->Decoding().Bytes(2), 2 * large.picture + large.passing[0] + small.passing[0]);
  EXPECT_EQ(Open()->Decoding().Bytes(5), Open()->Decoding().Bytes(2) + 3 * large.picture);
}

TEST_F(FolderTest, UnreadableFolders) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  Touch("train/a/1.png");
  fs::permissions(folder_ / "train/a", fs::perms::none);
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("cannot read the folder"),
                                 HasSubstr((folder_ / "train/a").string())));
  fs::permissions(folder_ / "train/a", fs::perms::owner_all);
}

TEST_F(FolderTest, SplitsNeedTheSameClasses) {
  for (const char* path : {"train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png",
                           "small/a/1.png", "same/a/1.png", "same/b/1.png"}) {
    Touch(path);
  }
  const auto train = Open();
  CheckSameClasses(*train, *Open("same"));
  EXPECT_THAT(ErrorOf([&] { CheckSameClasses(*train, *Open("val")); }),
              AllOf(HasSubstr("label 1 is \"b\""), HasSubstr("\"c\"")));
  EXPECT_THAT(ErrorOf([&] { CheckSameClasses(*train, *Open("small")); }),
              AllOf(HasSubstr("label 1 is \"b\""), HasSubstr("missing")));
  const FakeDataset unnamed(3, 4, 4, 3, 7);
  CheckSameClasses(*train, unnamed);
}

class FramesTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    config_.format = "frames";
  }
};

TEST_F(FramesTest, ClipsAreInOrderAndFramesByNumber) {
  WritePicture(folder_ / "train/run/b/img_10.png", FlatFile(4, 5, {10, 10, 10}));
  WritePicture(folder_ / "train/run/b/img_9.png", FlatFile(4, 5, {9, 9, 9}));
  WritePicture(folder_ / "train/run/b/img_11.png", FlatFile(4, 5, {11, 11, 11}));
  WritePicture(folder_ / "train/run/a/1.png", FlatFile(2, 2, {1, 1, 1}));
  WritePicture(folder_ / "train/walk/c/000.png", FlatFile(2, 2, {0, 0, 0}));
  Touch("train/run/b/audio.wav");
  const auto data = Open();
  EXPECT_THAT(Names(*data), ElementsAre("run/a", "run/b", "walk/c"));
  EXPECT_EQ(data->Frames(0), 1);
  EXPECT_EQ(data->Frames(1), 3);
  EXPECT_EQ(data->Label(1), 0);
  EXPECT_EQ(data->Label(2), 1);
  Picture picture;
  for (int64_t frame = 0; frame < 3; ++frame) {
    data->GetFrame(1, frame, &picture);
    EXPECT_EQ(picture.pixels[0], 9 + frame);
    EXPECT_EQ(picture.height, 4);
    EXPECT_EQ(picture.label, 0);
  }
  data->Get(1, &picture);
  EXPECT_EQ(picture.pixels[0], 9);
}

TEST_F(FramesTest, KnowsTheMemoryOfNamesAndDecoding) {
  for (int i = 100; i < 150; ++i) Touch("train/a/clip/" + std::to_string(i) + ".png");
  const size_t few = Open()->HeldBytes();
  for (int i = 150; i < 200; ++i) Touch("train/a/clip/" + std::to_string(i) + ".png");
  EXPECT_EQ(Open()->HeldBytes() - few, 50 * (7 + sizeof(uint32_t)));
  WritePicture(folder_ / "train/a/other/1.png", TestFile(40, 60));
  EXPECT_EQ(Open()->Decoding().Bytes(1),
            DecodingOf((folder_ / "train/a/other/1.png").string()).Bytes(1));
}

TEST_F(FramesTest, IdentityChangesWithClipsAndFrames) {
  for (const char* path : {"train/a/c/1.png", "train/a/c/2.png", "train/b/c/1.png"}) Touch(path);
  const DataIdentity original = Open()->identity();
  EXPECT_EQ(Open()->identity(), original);
  Touch("train/a/c/3.png");
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
  fs::remove(folder_ / "train/a/c/3.png");
  Touch("train/a/c/1.png", "longer");
  EXPECT_NE(Open()->identity().index_hash, original.index_hash);
}

TEST_F(FramesTest, WhatIsWrongIsNamed) {
  Touch("train/run/1.png");
  EXPECT_THAT(OpenError(),
              AllOf(HasSubstr((folder_ / "train/run").string()), HasSubstr("no clips")));
  fs::create_directory(folder_ / "train/run/clip");
  EXPECT_THAT(OpenError(),
              AllOf(HasSubstr((folder_ / "train/run/clip").string()), HasSubstr("no frames")));
  Touch("train/run/clip/first.png");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("first.png"), HasSubstr("has no number")));
  fs::remove(folder_ / "train/run/clip/first.png");
  Touch("train/run/clip/f1.png");
  Touch("train/run/clip/f3.png");
  EXPECT_THAT(OpenError(), HasSubstr("no frame between: f1.png and f3.png"));
  Touch("train/run/clip/f2.png");
  EXPECT_EQ(Open()->Frames(0), 3);
  Touch("train/run/clip/g02.png");
  EXPECT_THAT(OpenError(), HasSubstr("two frames of one number: f2.png and g02.png"));
  fs::remove(folder_ / "train/run/clip/g02.png");
  Touch("train/run/clip/f99999999999999999999.png");
  EXPECT_THAT(OpenError(), HasSubstr("has no number"));
}

std::vector<int64_t> Clip(int64_t total, int64_t frames, int64_t interval, bool training,
                          uint64_t seed = 0) {
  CounterRng rng(seed, RandomPurpose::kClipStart, 0);
  std::vector<int64_t> clip(frames);
  ClipFrames(total, interval, training, &rng, clip);
  return clip;
}

// mmaction's SampleFrames, test_mode, num_clips=1.
TEST(ClipFrames, EvaluationTakesTheMiddle) {
  EXPECT_THAT(Clip(20, 4, 2, false), ElementsAre(6, 8, 10, 12));
  EXPECT_THAT(Clip(8, 4, 2, false), ElementsAre(0, 2, 4, 6));
  EXPECT_THAT(Clip(9, 4, 2, false), ElementsAre(1, 3, 5, 7));
  EXPECT_THAT(Clip(300, 2, 3, false), ElementsAre(147, 150));
}

TEST(ClipFrames, ShortSamplesAreRepeated) {
  for (const bool training : {false, true}) {
    EXPECT_THAT(Clip(7, 4, 2, training), ElementsAre(0, 2, 4, 6));
    EXPECT_THAT(Clip(5, 4, 2, training), ElementsAre(0, 2, 4, 1));
    EXPECT_THAT(Clip(1, 3, 2, training), ElementsAre(0, 0, 0));
    EXPECT_THAT(Clip(3, 5, 1, training), ElementsAre(0, 1, 2, 0, 1));
  }
}

TEST(ClipFrames, TrainingStartsAnywhereAClipFits) {
  std::vector<int> starts(20);
  constexpr int kDraws = 3900;
  for (int i = 0; i < kDraws; ++i) {
    const auto clip = Clip(20, 4, 2, true, i);
    for (int k = 0; k < 4; ++k) ASSERT_EQ(clip[k], clip[0] + 2 * k);
    ++starts[clip[0]];
  }
  // Starts 0 to 12.
  for (int start = 0; start < 20; ++start) {
    EXPECT_NEAR(starts[start], start < 13 ? 300 : 0, start < 13 ? 90 : 0) << start;
  }
}

}  // namespace
}  // namespace swinfleet
