// Pictures in files: JPEG, PNG and WebP, decoded by libvips.
#ifndef SWINFLEET_CORE_DATA_PICTURE_FILE_H_
#define SWINFLEET_CORE_DATA_PICTURE_FILE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/data/dataset.h"

namespace swinfleet {

// What a file's name says about it; letters of either case.
enum class PictureName {
  // jpg, jpeg, png, webp.
  kPicture,
  // What others count among the pictures of a folder, but DecodePicture does not read: ppm, bmp,
  // pgm, tif, tiff.
  kUnreadable,
  kOther
};
PictureName ClassifyName(const std::string& name);

// Decodes a file into 3 channels of 8 bits (red, green, blue), whatever its name ends in, and turns
// it upright as its EXIF orientation says. All else is as convert("RGB") of Pillow (13.0, and so
// timm) has it, but for 16 bit grey:
//   grey is repeated; 16 bits lose the lower 8, also of grey without alpha, whose values Pillow
//   clips to 255 instead, which makes nearly all of such a picture white; alpha and transparent
//   colours are dropped, without a background; palettes are looked up; CMYK and YCCK become red =
//   (255 - C) (255 - K) / 255, and so on; colour profiles are not applied. Of animations the first
//   picture is taken.
// JPEGs are decoded in full size, never scaled while decoding.
// Sets all of `picture` but the label. May be called from several threads at once. Throws
// BrokenPicture, naming the file, when its contents can't be decoded: it is empty, of another
// format, truncated, damaged, or has more than 178956970 pixels (judged by its header, before any
// pixel is decoded). Throws OutOfMemoryError when there is no memory for it, FileError when the
// file can't be read, Error when it is none.
void DecodePicture(const std::string& path, Picture* picture);

// About what DecodePicture takes for this file, judging by its header: the picture, 3 bytes a
// pixel; and passing the file, 3 bytes a pixel more where it has to be turned, the rows being
// decoded, and what the formats need that can't be decoded row by row: JPEGs of several scans their
// coefficients (2 bytes a channel and pixel), interlaced PNGs the whole picture, WebP 8 bytes a
// pixel (measured). Throws as DecodePicture does.
DecodingMemory DecodingOf(const std::string& path);

// Of many picture files those that are the largest in bytes.
class LargestPictures {
 public:
  void Add(const std::string& path, uint64_t bytes);
  // Of all of them, but for those that can't be decoded or read.
  DecodingMemory Decoding() const;

 private:
  // Descending.
  std::vector<std::pair<uint64_t, std::string>> files_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_PICTURE_FILE_H_
