#include "core/data/picture_file.h"

#include <dlfcn.h>
#include <glog/logging.h>
#include <vips/vips.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "core/data/folder.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr int64_t kMaxPixels = 178'956'970;
constexpr size_t kLargestKept = 8;
// Rows decoded at once: a multiple of the rows of a JPEG's blocks.
constexpr int kStripRows = 64;

// What is called of libvips and of GLib beneath it.
#define SWINFLEET_FOR_EACH_VIPS_FUNCTION(DO) \
  DO(vips_init)                              \
  DO(vips_concurrency_set)                   \
  DO(vips_cache_set_max)                     \
  DO(vips_thread_shutdown)                   \
  DO(vips_error_buffer)                      \
  DO(vips_error_buffer_copy)                 \
  DO(vips_jpegload_buffer)                   \
  DO(vips_pngload_buffer)                    \
  DO(vips_webpload_buffer)                   \
  DO(vips_image_get_typeof)                  \
  DO(vips_image_get_int)                     \
  DO(vips_image_get_orientation)             \
  DO(vips_band_format_get_type)              \
  DO(vips_format_sizeof_unsafe)              \
  DO(vips_enum_nick)                         \
  DO(vips_region_new)                        \
  DO(vips_region_prepare)                    \
  DO(g_log_set_handler)                      \
  DO(g_object_unref)                         \
  DO(g_free)

// libvips brings a hundred libraries, which take 16 MiB of every process that only begins with
// them. So it is loaded when the first picture is asked for.
struct VipsFunctions {
#define SWINFLEET_DECLARE(name) decltype(&::name) name = nullptr;
  SWINFLEET_FOR_EACH_VIPS_FUNCTION(SWINFLEET_DECLARE)
#undef SWINFLEET_DECLARE
};

// Throws Error, at each call, where there is no libvips.
const VipsFunctions& Vips() {
  static const VipsFunctions functions = [] {
    constexpr const char* kLibrary = "libvips.so.42";
    const auto fail = [](const char* what) {
      throw Error(std::string("pictures can't be decoded without libvips: ") + what +
                  "; install the package libvips42");
    };
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) fail(dlerror());
    VipsFunctions found;
    // Those of GLib are found among the libraries that it brings.
#define SWINFLEET_FIND(name)                                                  \
  found.name = reinterpret_cast<decltype(found.name)>(dlsym(library, #name)); \
  if (found.name == nullptr) fail(dlerror());
    SWINFLEET_FOR_EACH_VIPS_FUNCTION(SWINFLEET_FIND)
#undef SWINFLEET_FIND
    return found;
  }();
  return functions;
}

#undef SWINFLEET_FOR_EACH_VIPS_FUNCTION

// Gives back what libvips keeps for a thread.
struct ThreadGuard {
  ~ThreadGuard() { Vips().vips_thread_shutdown(); }
};

void StartVips() {
  const VipsFunctions& vips = Vips();
  static std::once_flag once;
  std::call_once(once, [&] {
    if (vips.vips_init("swinfleet") != 0) {
      throw Error(std::string("cannot start libvips: ") + vips.vips_error_buffer());
    }
    // The loader has threads of its own, and no picture is asked for twice.
    vips.vips_concurrency_set(1);
    vips.vips_cache_set_max(0);
    // Warnings of the decoders come as errors or do not matter.
    const auto drop = [](const gchar*, GLogLevelFlags, const gchar*, gpointer) {};
    vips.g_log_set_handler(
        "VIPS", static_cast<GLogLevelFlags>(G_LOG_LEVEL_WARNING | G_LOG_LEVEL_INFO), drop, nullptr);
  });
  thread_local ThreadGuard guard;
}

template <typename T>
struct Unref {
  void operator()(T* object) const { Vips().g_object_unref(object); }
};
using ImagePointer = std::unique_ptr<VipsImage, Unref<VipsImage>>;
using RegionPointer = std::unique_ptr<VipsRegion, Unref<VipsRegion>>;

// What libvips says was wrong, on one line. Its buffer is shared by all threads, so that of two
// pictures that break at once one may get both messages.
std::string TakeVipsError() {
  const std::unique_ptr<char, void (*)(void*)> text(Vips().vips_error_buffer_copy(), Vips().g_free);
  std::string message = text.get();
  while (!message.empty() && std::isspace(static_cast<unsigned char>(message.back()))) {
    message.pop_back();
  }
  std::replace(message.begin(), message.end(), '\n', ';');
  return message.empty() ? "its data is not valid" : message;
}

// libvips failed on a picture of `size`: for want of memory, or because of the picture. Its
// decoders tell the two apart in words alone.
[[noreturn]] void ThrowVipsError(const std::string& path, const std::string& size) {
  const std::string message = TakeVipsError();
  std::string words = message;
  std::transform(words.begin(), words.end(), words.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* want : {"out of memory", "out_of_memory", "insufficient memory"}) {
    if (words.find(want) == std::string::npos) continue;
    throw OutOfMemoryError("there is not enough memory to decode " + path + ", which has " + size +
                           ": " + message);
  }
  throw BrokenPicture(path + " can't be decoded: " + message);
}

bool StartsWith(const std::vector<uint8_t>& bytes, size_t offset, std::string_view text) {
  return bytes.size() >= offset + text.size() &&
         std::memcmp(bytes.data() + offset, text.data(), text.size()) == 0;
}

// As VIPS_IMAGE_SIZEOF_PEL.
size_t PixelBytes(const VipsImage* image) {
  return Vips().vips_format_sizeof_unsafe(image->BandFmt) * static_cast<size_t>(image->Bands);
}

std::string SizeText(const VipsImage* image) {
  return std::to_string(image->Xsize) + "x" + std::to_string(image->Ysize) + " pixels";
}

// Reads the header; the pixels are decoded later, from top to bottom. The format is judged here, so
// that none of libvips's other decoders ever sees the data.
ImagePointer Open(const std::string& path, std::vector<uint8_t>& bytes) {
  if (bytes.empty()) throw BrokenPicture(path + " is empty");
  VipsImage* image = nullptr;
  int status = -1;
  if (StartsWith(bytes, 0, "\xff\xd8\xff")) {
    status =
        Vips().vips_jpegload_buffer(bytes.data(), bytes.size(), &image, "access",
                                    VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_ERROR, nullptr);
  } else if (StartsWith(bytes, 0, "\x89PNG\r\n\x1a\n")) {
    status =
        Vips().vips_pngload_buffer(bytes.data(), bytes.size(), &image, "access",
                                   VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_ERROR, nullptr);
  } else if (StartsWith(bytes, 0, "RIFF") && StartsWith(bytes, 8, "WEBP")) {
    status =
        Vips().vips_webpload_buffer(bytes.data(), bytes.size(), &image, "access",
                                    VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_ERROR, nullptr);
  } else {
    throw BrokenPicture(path + " is not a JPEG, PNG or WebP picture, judging by its first bytes");
  }
  if (status != 0) ThrowVipsError(path, std::to_string(bytes.size()) + " bytes");
  ImagePointer opened(image);
  if (int64_t{image->Xsize} * image->Ysize > kMaxPixels) {
    throw BrokenPicture(path + " has " + SizeText(image) + ", more than " +
                        std::to_string(kMaxPixels));
  }
  return opened;
}

// How the bands of a decoded picture become red, green and blue.
enum class Bands { kGrey, kRgb, kCmyk };

Bands BandsOf(const std::string& path, const VipsImage* image) {
  const bool known_format =
      image->BandFmt == VIPS_FORMAT_UCHAR || image->BandFmt == VIPS_FORMAT_USHORT;
  if (known_format && image->Type == VIPS_INTERPRETATION_CMYK && image->Bands >= 4) {
    return Bands::kCmyk;
  }
  if (known_format && image->Bands >= 1 && image->Bands <= 2) return Bands::kGrey;
  if (known_format && image->Bands >= 3 && image->Bands <= 4) return Bands::kRgb;
  throw BrokenPicture(path + " has " + std::to_string(image->Bands) + " channels of format " +
                      Vips().vips_enum_nick(Vips().vips_band_format_get_type(), image->BandFmt) +
                      "; pictures have 1 to 4 of 8 or 16 bits");
}

// a * b / 255, rounded as Pillow does.
uint8_t MultiplyUnit(unsigned a, unsigned b) {
  const unsigned product = a * b + 128;
  return static_cast<uint8_t>(((product >> 8) + product) >> 8);
}

// Of each value of T the upper 8 bits, kShift bits above its lowest, are taken.
template <typename T, int kShift>
void ConvertRow(const T* in, Bands bands, int64_t stride, int64_t width, uint8_t* out) {
  const auto byte = [](T value) { return static_cast<uint8_t>(value >> kShift); };
  for (int64_t x = 0; x < width; ++x, in += stride, out += 3) {
    if (bands == Bands::kRgb) {
      for (int c = 0; c < 3; ++c) out[c] = byte(in[c]);
    } else if (bands == Bands::kGrey) {
      out[0] = out[1] = out[2] = byte(in[0]);
    } else {
      const unsigned white = 255 - byte(in[3]);
      for (int c = 0; c < 3; ++c) {
        out[c] = static_cast<uint8_t>(white - MultiplyUnit(byte(in[c]), white));
      }
    }
  }
}

// The decoder runs in the calling thread, strip by strip.
void ReadPixels(const std::string& path, VipsImage* image, Picture* picture) {
  const Bands bands = BandsOf(path, image);
  const RegionPointer region(Vips().vips_region_new(image));
  if (region == nullptr) ThrowVipsError(path, SizeText(image));
  for (int top = 0; top < image->Ysize; top += kStripRows) {
    const VipsRect strip = {0, top, image->Xsize, std::min(kStripRows, image->Ysize - top)};
    if (Vips().vips_region_prepare(region.get(), &strip) != 0) {
      ThrowVipsError(path, SizeText(image));
    }
    for (int y = top; y < top + strip.height; ++y) {
      const VipsPel* row = region->data + int64_t{y - region->valid.top} * region->bpl -
                           int64_t{region->valid.left} * static_cast<int64_t>(PixelBytes(image));
      uint8_t* out = picture->pixels.data() + int64_t{3} * y * image->Xsize;
      if (bands == Bands::kRgb && PixelBytes(image) == 3) {
        std::memcpy(out, row, int64_t{3} * image->Xsize);
      } else if (image->BandFmt == VIPS_FORMAT_UCHAR) {
        ConvertRow<uint8_t, 0>(row, bands, image->Bands, image->Xsize, out);
      } else {
        ConvertRow<uint16_t, 8>(reinterpret_cast<const uint16_t*>(row), bands, image->Bands,
                                image->Xsize, out);
      }
    }
  }
}

// Turns a picture upright. EXIF's orientations 1 to 8 say where row 0 and column 0 lie: 5 to 8
// exchange rows and columns; after that, rows and columns may each run backwards.
void TurnUpright(int orientation, Picture* picture) {
  if (orientation <= 1 || orientation > 8) return;
  const bool transposed = orientation >= 5;
  const bool rows_backwards =
      orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool columns_backwards =
      orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const std::vector<uint8_t> stored = std::move(picture->pixels);
  const int64_t stored_width = picture->width;
  if (transposed) std::swap(picture->height, picture->width);
  picture->pixels.resize(stored.size());
  uint8_t* out = picture->pixels.data();
  for (int64_t y = 0; y < picture->height; ++y) {
    const int64_t row = rows_backwards ? picture->height - 1 - y : y;
    for (int64_t x = 0; x < picture->width; ++x, out += 3) {
      const int64_t column = columns_backwards ? picture->width - 1 - x : x;
      const int64_t from = transposed ? column * stored_width + row : row * stored_width + column;
      std::memcpy(out, stored.data() + 3 * from, 3);
    }
  }
}

void Decode(const std::string& path, VipsImage* image, Picture* picture) {
  picture->height = image->Ysize;
  picture->width = image->Xsize;
  picture->channels = 3;
  try {
    picture->pixels.resize(3 * picture->height * picture->width);
    ReadPixels(path, image, picture);
    TurnUpright(Vips().vips_image_get_orientation(image), picture);
  } catch (const std::bad_alloc&) {
    throw OutOfMemoryError("there is not enough memory to decode " + path + ", which has " +
                           SizeText(image));
  }
}

// What the decoder keeps of the whole picture, in bytes a pixel.
size_t DecoderBytes(const VipsImage* image, const std::vector<uint8_t>& bytes) {
  const auto is = [&](const char* name) {
    int value = 0;
    return Vips().vips_image_get_typeof(image, name) != 0 &&
           Vips().vips_image_get_int(image, name, &value) == 0 && value != 0;
  };
  if (StartsWith(bytes, 0, "RIFF")) return 8;
  if (is("jpeg-multiscan")) return sizeof(int16_t) * static_cast<size_t>(image->Bands);
  return is("interlaced") ? PixelBytes(image) : 0;
}

}  // namespace

PictureName ClassifyName(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return PictureName::kOther;
  std::string ending = name.substr(dot + 1);
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* known : {"jpg", "jpeg", "png", "webp"}) {
    if (ending == known) return PictureName::kPicture;
  }
  for (const char* known : {"ppm", "bmp", "pgm", "tif", "tiff"}) {
    if (ending == known) return PictureName::kUnreadable;
  }
  return PictureName::kOther;
}

void DecodePicture(const std::string& path, Picture* picture) {
  StartVips();
  std::vector<uint8_t> bytes = ReadFileBytes(path);
  const ImagePointer image = Open(path, bytes);
  Decode(path, image.get(), picture);
}

DecodingMemory DecodingOf(const std::string& path) {
  StartVips();
  std::vector<uint8_t> bytes = ReadFileBytes(path);
  const ImagePointer image = Open(path, bytes);
  const auto width = static_cast<size_t>(image->Xsize);
  const size_t pixels = width * static_cast<size_t>(image->Ysize);
  const size_t turned = Vips().vips_image_get_orientation(image.get()) > 1 ? 3 : 0;
  // libvips's cache of rows, and the strip.
  const size_t rows = 3 * kStripRows * width * PixelBytes(image.get());
  return {.picture = 3 * pixels,
          .passing = {bytes.size() + rows + pixels * (turned + DecoderBytes(image.get(), bytes))}};
}

void LargestPictures::Add(const std::string& path, uint64_t bytes) {
  if (files_.size() == kLargestKept && bytes <= files_.back().first) return;
  files_.emplace_back(bytes, path);
  std::sort(files_.begin(), files_.end(), std::greater<>());
  if (files_.size() > kLargestKept) files_.pop_back();
}

DecodingMemory LargestPictures::Decoding() const {
  DecodingMemory all;
  for (const auto& [bytes, path] : files_) {
    try {
      const DecodingMemory one = DecodingOf(path);
      all.picture = std::max(all.picture, one.picture);
      all.passing.insert(all.passing.end(), one.passing.begin(), one.passing.end());
    } catch (const Error&) {
      // Said when a sample asks for it.
    }
  }
  std::sort(all.passing.begin(), all.passing.end(), std::greater<>());
  return all;
}

}  // namespace swinfleet
