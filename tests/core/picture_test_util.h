// Writes pictures of every kind, for the tests of core/data.
#ifndef SWINFLEET_TESTS_CORE_PICTURE_TEST_UTIL_H_
#define SWINFLEET_TESTS_CORE_PICTURE_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <vips/vips.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/core/data_test_util.h"

namespace swinfleet {

struct PictureFile {
  int height = 0;
  int width = 0;
  int bands = 3;
  // uint8_t or, of 16 bits, uint16_t values; (height, width, bands).
  std::vector<uint8_t> bytes = {};
  std::vector<uint16_t> words = {};
  VipsInterpretation interpretation = VIPS_INTERPRETATION_sRGB;
  int orientation = 0;
  // Of the file's format, as in "Q=90,lossless".
  std::string options = {};
};

// The format follows from the path's ending.
inline void WritePicture(const std::filesystem::path& path, const PictureFile& file) {
  ASSERT_EQ(vips_init("test"), 0);
  std::filesystem::create_directories(path.parent_path());
  const bool wide = !file.words.empty();
  const void* data = wide ? static_cast<const void*>(file.words.data()) : file.bytes.data();
  const size_t size = wide ? 2 * file.words.size() : file.bytes.size();
  VipsImage* memory = vips_image_new_from_memory(data, size, file.width, file.height, file.bands,
                                                 wide ? VIPS_FORMAT_USHORT : VIPS_FORMAT_UCHAR);
  ASSERT_NE(memory, nullptr) << vips_error_buffer();
  VipsImage* image = nullptr;
  ASSERT_EQ(vips_copy(memory, &image, "interpretation", file.interpretation, nullptr), 0);
  if (file.orientation > 0) {
    vips_image_set_int(image, VIPS_META_ORIENTATION, file.orientation);
  }
  const std::string target = path.string() + (file.options.empty() ? "" : "[" + file.options + "]");
  ASSERT_EQ(vips_image_write_to_file(image, target.c_str(), nullptr), 0) << vips_error_buffer();
  g_object_unref(image);
  g_object_unref(memory);
}

// TestPicture(height, width, 3) in a file.
inline PictureFile TestFile(int height, int width) {
  return {.height = height, .width = width, .bytes = TestPicture(height, width, 3).pixels};
}

// A picture of one colour.
inline PictureFile FlatFile(int height, int width, std::vector<uint8_t> colour) {
  PictureFile file{.height = height, .width = width, .bands = static_cast<int>(colour.size())};
  for (int i = 0; i < height * width; ++i) {
    file.bytes.insert(file.bytes.end(), colour.begin(), colour.end());
  }
  return file;
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CORE_PICTURE_TEST_UTIL_H_
