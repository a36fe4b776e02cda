#include "core/data/picture_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/core/picture_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PictureFileTest : public ::testing::Test {
 protected:
  Picture Decode(const std::string& name) {
    Picture picture;
    DecodePicture((folder_ / name).string(), &picture);
    EXPECT_EQ(picture.channels, 3);
    EXPECT_EQ(static_cast<int64_t>(picture.pixels.size()), 3 * picture.height * picture.width);
    return picture;
  }
  // What the BrokenPicture says; it names the file.
  std::string Broken(const std::string& name) {
    try {
      Decode(name);
    } catch (const BrokenPicture& error) {
      EXPECT_THAT(error.what(), HasSubstr((folder_ / name).string()));
      return error.what();
    }
    ADD_FAILURE() << name << " could be decoded";
    return "";
  }

  // An eXIf chunk behind the header of a.png, since libvips writes none: one TIFF directory with
  // the orientation.
  void AddExifToPng(int orientation) {
    const auto big_endian = [](uint32_t value) {
      std::string bytes;
      for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
      return bytes;
    };
    const std::string tiff = std::string("MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0", 19) +
                             static_cast<char>(orientation) + std::string(6, '\0');
    const std::string body = "eXIf" + tiff;
    const auto crc = static_cast<uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
    std::string bytes = ReadBytes(folder_ / "a.png");
    constexpr size_t kBehindHeader = 33;
    bytes.insert(kBehindHeader,
                 big_endian(static_cast<uint32_t>(tiff.size())) + body + big_endian(crc));
    WriteBytes(folder_ / "a.png", bytes);
  }

  TempFolder folder_;
};

TEST_F(PictureFileTest, LosslessFormatsKeepEveryPixel) {
  PictureFile file = TestFile(13, 17);
  WritePicture(folder_ / "a.png", file);
  file.options = "interlace";
  WritePicture(folder_ / "b.png", file);
  file.options = "lossless";
  WritePicture(folder_ / "a.webp", file);
  for (const char* name : {"a.png", "b.png", "a.webp"}) {
    const Picture picture = Decode(name);
    EXPECT_EQ(picture.height, 13);
    EXPECT_EQ(picture.width, 17);
    EXPECT_EQ(picture.pixels, file.bytes) << name;
  }
}

TEST_F(PictureFileTest, JpegsAreWithinTheirLosses) {
  // More rows than are decoded at once.
  PictureFile file{.height = 300, .width = 50};
  for (int y = 0; y < 300; ++y) {
    for (int x = 0; x < 50; ++x) {
      for (int v : {y * 255 / 300, x * 5, 255 - y * 255 / 300}) {
        file.bytes.push_back(static_cast<uint8_t>(v));
      }
    }
  }
  for (const char* options : {"Q=98", "Q=98,interlace"}) {
    file.options = options;
    WritePicture(folder_ / "a.jpg", file);
    const Picture picture = Decode("a.jpg");
    ASSERT_EQ(picture.height, 300);
    for (size_t i = 0; i < file.bytes.size(); ++i) {
      ASSERT_NEAR(picture.pixels[i], file.bytes[i], 6) << options;
    }
  }
}

TEST_F(PictureFileTest, EveryOrientationIsTurnedUpright) {
  const int h = 3, w = 5;
  // Where pixel (y, x) of the upright picture lies in the stored one.
  struct Turn {
    int orientation;
    std::function<std::pair<int, int>(int, int)> stored;
  };
  const std::vector<Turn> turns = {
      {1, [](int y, int x) { return std::pair(y, x); }},
      {2, [=](int y, int x) { return std::pair(y, w - 1 - x); }},
      {3, [=](int y, int x) { return std::pair(h - 1 - y, w - 1 - x); }},
      {4, [=](int y, int x) { return std::pair(h - 1 - y, x); }},
      {5, [](int y, int x) { return std::pair(x, y); }},
      {6, [=](int y, int x) { return std::pair(h - 1 - x, y); }},
      {7, [=](int y, int x) { return std::pair(h - 1 - x, w - 1 - y); }},
      {8, [=](int y, int x) { return std::pair(x, w - 1 - y); }},
  };
  for (const char* name : {"a.jpg", "a.png", "a.webp"}) {
    for (const Turn& turn : turns) {
      PictureFile file{.height = h, .width = w};
      // Blocks far apart in colour survive JPEG: here each pixel is its own grey.
      for (int i = 0; i < h * w; ++i) file.bytes.insert(file.bytes.end(), 3, 20 + i * 14);
      file.orientation = turn.orientation;
      file.options = std::string(name) == "a.webp" ? "lossless" : "";
      if (std::string(name) == "a.jpg") file.options = "Q=100";
      WritePicture(folder_ / name, file);
      if (std::string(name) == "a.png") AddExifToPng(turn.orientation);
      const Picture picture = Decode(name);
      const bool transposed = turn.orientation >= 5;
      ASSERT_EQ(picture.height, transposed ? w : h);
      ASSERT_EQ(picture.width, transposed ? h : w);
      for (int y = 0; y < picture.height; ++y) {
        for (int x = 0; x < picture.width; ++x) {
          const auto [from_y, from_x] = turn.stored(y, x);
          ASSERT_NEAR(picture.pixels[3 * (y * picture.width + x)],
                      file.bytes[3 * (from_y * w + from_x)], 3)
              << name << " " << turn.orientation << " at " << y << ", " << x;
        }
      }
    }
  }
}

TEST_F(PictureFileTest, GreyIsRepeated) {
  PictureFile file{.height = 4, .width = 6, .bands = 1};
  for (int i = 0; i < 24; ++i) file.bytes.push_back(static_cast<uint8_t>(i * 10));
  file.interpretation = VIPS_INTERPRETATION_B_W;
  WritePicture(folder_ / "grey.png", file);
  file.options = "Q=100";
  WritePicture(folder_ / "grey.jpg", file);
  for (const char* name : {"grey.png", "grey.jpg"}) {
    const Picture picture = Decode(name);
    for (int i = 0; i < 24; ++i) {
      for (int c = 0; c < 3; ++c) ASSERT_NEAR(picture.pixels[3 * i + c], i * 10, 1) << name;
    }
  }
}

TEST_F(PictureFileTest, AlphaIsDropped) {
  PictureFile file{.height = 4, .width = 4, .bands = 4};
  for (int i = 0; i < 16; ++i) {
    for (int v : {i, 100 + i, 200 + i, i * 17}) file.bytes.push_back(static_cast<uint8_t>(v));
  }
  WritePicture(folder_ / "a.png", file);
  const Picture colour = Decode("a.png");
  PictureFile grey{.height = 4, .width = 4, .bands = 2};
  for (int i = 0; i < 16; ++i) {
    for (int v : {i * 3, 255 - i * 17}) grey.bytes.push_back(static_cast<uint8_t>(v));
  }
  grey.interpretation = VIPS_INTERPRETATION_B_W;
  WritePicture(folder_ / "la.png", grey);
  const Picture repeated = Decode("la.png");
  for (int i = 0; i < 16; ++i) {
    for (int c = 0; c < 3; ++c) {
      EXPECT_EQ(colour.pixels[3 * i + c], file.bytes[4 * i + c]);
      EXPECT_EQ(repeated.pixels[3 * i + c], i * 3);
    }
  }
}

TEST_F(PictureFileTest, PalettesAreLookedUp) {
  PictureFile file{.height = 8, .width = 8};
  const std::vector<std::vector<uint8_t>> colours = {{255, 0, 0}, {0, 255, 0}, {7, 8, 9}};
  for (int i = 0; i < 64; ++i) {
    const auto& colour = colours[i % 3];
    file.bytes.insert(file.bytes.end(), colour.begin(), colour.end());
  }
  file.options = "palette,dither=0";
  WritePicture(folder_ / "p.png", file);
  const std::string bytes = ReadBytes(folder_ / "p.png");
  ASSERT_NE(bytes.find("PLTE"), std::string::npos) << "libvips wrote no palette";
  const Picture picture = Decode("p.png");
  for (size_t i = 0; i < file.bytes.size(); ++i) {
    ASSERT_NEAR(picture.pixels[i], file.bytes[i], 4);
  }
}

TEST_F(PictureFileTest, SixteenBitsLoseTheLowerEight) {
  PictureFile file{.height = 5, .width = 5};
  for (int i = 0; i < 75; ++i) file.words.push_back(static_cast<uint16_t>(i * 871 + 130));
  file.interpretation = VIPS_INTERPRETATION_RGB16;
  WritePicture(folder_ / "rgb.png", file);
  const Picture colour = Decode("rgb.png");
  for (int i = 0; i < 75; ++i) ASSERT_EQ(colour.pixels[i], file.words[i] >> 8);
  file.bands = 1;
  file.words.resize(25);
  file.interpretation = VIPS_INTERPRETATION_GREY16;
  WritePicture(folder_ / "grey.png", file);
  const Picture grey = Decode("grey.png");
  for (int i = 0; i < 75; ++i) ASSERT_EQ(grey.pixels[i], file.words[i / 3] >> 8);
}

TEST_F(PictureFileTest, CmykIsConvertedAsPillowDoes) {
  const std::vector<std::vector<uint8_t>> inks = {
      {0, 0, 0, 0}, {255, 0, 0, 0}, {0, 128, 0, 64}, {10, 200, 30, 100}, {0, 0, 0, 255}};
  for (const auto& ink : inks) {
    PictureFile file = FlatFile(16, 16, ink);
    file.interpretation = VIPS_INTERPRETATION_CMYK;
    file.options = "Q=100";
    WritePicture(folder_ / "cmyk.jpg", file);
    const Picture picture = Decode("cmyk.jpg");
    for (int c = 0; c < 3; ++c) {
      const double expected = (255.0 - ink[c]) * (255.0 - ink[3]) / 255.0;
      EXPECT_NEAR(picture.pixels[3 * 100 + c], expected, 2) << c;
    }
  }
}

TEST_F(PictureFileTest, TheContentCountsNotTheName) {
  WritePicture(folder_ / "a.png", TestFile(6, 7));
  std::filesystem::rename(folder_ / "a.png", folder_ / "a.jpg");
  EXPECT_EQ(Decode("a.jpg").pixels, TestFile(6, 7).bytes);
  WriteBytes(folder_ / "text.jpg", "this is no picture at all");
  EXPECT_THAT(Broken("text.jpg"), HasSubstr("not a JPEG, PNG or WebP picture"));
  WriteBytes(folder_ / "b.png", "<svg xmlns='http://www.w3.org/2000/svg'/>");
  EXPECT_THAT(Broken("b.png"), HasSubstr("not a JPEG, PNG or WebP picture"));
  WriteBytes(folder_ / "empty.png", "");
  EXPECT_THAT(Broken("empty.png"), HasSubstr("is empty"));
}

TEST_F(PictureFileTest, EveryTruncationIsAnErrorOrChangesNothing) {
  for (const char* name : {"a.jpg", "a.png", "a.webp"}) {
    PictureFile file = TestFile(40, 40);
    if (std::string(name) == "a.webp") file.options = "lossless";
    WritePicture(folder_ / name, file);
    const Picture whole = Decode(name);
    const std::string bytes = ReadBytes(folder_ / name);
    int broken = 0;
    for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 60) {
      WriteBytes(folder_ / name, bytes.substr(0, size));
      try {
        EXPECT_EQ(Decode(name).pixels, whole.pixels) << name << " " << size;
      } catch (const BrokenPicture& error) {
        EXPECT_THAT(error.what(), HasSubstr((folder_ / name).string()));
        ++broken;
      }
    }
    EXPECT_GT(broken, 40) << name;
    WriteBytes(folder_ / name, bytes.substr(0, bytes.size() * 2 / 3));
    EXPECT_THAT(Broken(name), HasSubstr("can't be decoded"));
  }
}

TEST_F(PictureFileTest, DamagedBytesNeverCrash) {
  for (const char* name : {"a.jpg", "a.png", "a.webp"}) {
    WritePicture(folder_ / name, TestFile(40, 40));
    const std::string bytes = ReadBytes(folder_ / name);
    for (size_t i = 0; i < bytes.size(); i += 1 + bytes.size() / 60) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x5a);
      WriteBytes(folder_ / name, damaged);
      try {
        Decode(name);
      } catch (const BrokenPicture&) {
      }
    }
  }
}

TEST_F(PictureFileTest, AbsurdSizesAreRefusedBeforeTheirMemoryIsTaken) {
  WritePicture(folder_ / "a.jpg", TestFile(16, 16));
  std::string bytes = ReadBytes(folder_ / "a.jpg");
  // The frame header: marker, length, precision, height, width.
  const size_t frame = bytes.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  for (int i : {5, 7}) {
    bytes[frame + i] = static_cast<char>(0xfd);
    bytes[frame + i + 1] = static_cast<char>(0xe8);
  }
  WriteBytes(folder_ / "a.jpg", bytes);
  EXPECT_THAT(Broken("a.jpg"), HasSubstr("65000x65000 pixels, more than 178956970"));
}

TEST_F(PictureFileTest, DecodingTakesMoreWhereRowsAreNotEnough) {
  const auto per_pixel = [&](const char* name, const std::string& options, int orientation = 0) {
    PictureFile file = TestFile(400, 300);
    file.options = options;
    file.orientation = orientation;
    WritePicture(folder_ / name, file);
    const std::string path = (folder_ / name).string();
    const auto bytes =
        static_cast<double>(DecodingOf(path).Bytes(1) - std::filesystem::file_size(path));
    // Three strips of 64 rows.
    return (bytes - 3 * 64 * 300 * 3) / (400 * 300);
  };
  EXPECT_EQ(per_pixel("a.png", ""), 3);
  EXPECT_EQ(per_pixel("a.png", "interlace"), 3 + 3);
  EXPECT_EQ(per_pixel("a.jpg", ""), 3);
  EXPECT_EQ(per_pixel("a.jpg", "", 6), 3 + 3);
  EXPECT_EQ(per_pixel("a.jpg", "interlace"), 3 + 6);
  EXPECT_EQ(per_pixel("a.webp", ""), 3 + 8);
  WriteBytes(folder_ / "a.png", "x");
  EXPECT_THROW(DecodingOf((folder_ / "a.png").string()), BrokenPicture);
}

TEST_F(PictureFileTest, FilesThatCannotBeReadAreNotBroken) {
  const auto not_broken = [&](const std::string& name) -> std::string {
    try {
      Decode(name);
    } catch (const BrokenPicture&) {
      ADD_FAILURE() << "a BrokenPicture";
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(not_broken("no.jpg"), AllOf(HasSubstr("cannot open"), HasSubstr("no.jpg")));
  std::filesystem::create_directory(folder_ / "folder.jpg");
  EXPECT_THAT(not_broken("folder.jpg"), HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((folder_ / "pipe.jpg").c_str(), 0600), 0);
  EXPECT_THAT(not_broken("pipe.jpg"), HasSubstr("not a regular file"));
}

TEST_F(PictureFileTest, ThreadsDecodeAtOnce) {
  WritePicture(folder_ / "a.png", TestFile(50, 60));
  PictureFile jpeg = TestFile(50, 60);
  WritePicture(folder_ / "a.jpg", jpeg);
  WriteBytes(folder_ / "bad.jpg", ReadBytes(folder_ / "a.jpg").substr(0, 500));
  const Picture expected = Decode("a.jpg");
  std::atomic<int> wrong = 0;
  std::atomic<int> broken = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Picture picture;
      for (int i = 0; i < 30; ++i) {
        try {
          const char* name = (i + t) % 3 == 0 ? "a.png" : (i + t) % 3 == 1 ? "a.jpg" : "bad.jpg";
          DecodePicture((folder_ / name).string(), &picture);
          wrong += picture.pixels != (name == std::string("a.png") ? jpeg.bytes : expected.pixels);
        } catch (const BrokenPicture&) {
          ++broken;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(broken, 40);
}

TEST(ClassifyName, ByEnding) {
  for (const char* name : {"a.jpg", "A.JPEG", "b.c.Png", ".webp"}) {
    EXPECT_EQ(ClassifyName(name), PictureName::kPicture) << name;
  }
  for (const char* name : {"a.tif", "a.TIFF", "a.bmp", "a.ppm", "a.pgm"}) {
    EXPECT_EQ(ClassifyName(name), PictureName::kUnreadable) << name;
  }
  for (const char* name : {"jpg", "a.txt", "a.jpg.part", "", "a."}) {
    EXPECT_EQ(ClassifyName(name), PictureName::kOther) << name;
  }
}

}  // namespace
}  // namespace swinfleet
