// Pictures in files, without a library for pictures.
#ifndef SWINFLEET_TESTS_WORKER_PNG_FILE_H_
#define SWINFLEET_TESTS_WORKER_PNG_FILE_H_

#include <zlib.h>

#include <cstdint>
#include <string>

namespace swinfleet {

// A grey PNG of `width` columns; pixels are (height, width) bytes.
inline std::string Png(const std::string& pixels, size_t width) {
  const auto big_endian = [](size_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
    return bytes;
  };
  const auto chunk = [&](const std::string& type, const std::string& data) {
    const std::string body = type + data;
    const uLong crc =
        crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
    return big_endian(data.size()) + body + big_endian(crc);
  };
  std::string rows;
  for (size_t at = 0; at < pixels.size(); at += width) rows += '\0' + pixels.substr(at, width);
  uLongf size = compressBound(static_cast<uLong>(rows.size()));
  std::string packed(size, '\0');
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(rows.data()), static_cast<uLong>(rows.size()));
  packed.resize(size);
  const std::string header =
      big_endian(width) + big_endian(pixels.size() / width) + std::string("\x08\0\0\0\0", 5);
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("IDAT", packed) + chunk("IEND", "");
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_PNG_FILE_H_
