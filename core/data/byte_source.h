// Reads a file that may be gzipped.
#ifndef SWINFLEET_CORE_DATA_BYTE_SOURCE_H_
#define SWINFLEET_CORE_DATA_BYTE_SOURCE_H_

#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace swinfleet {

// The bytes of a regular file, decompressed if its content (not its name) says that it is gzip. All
// faults are Errors that name the file: it can't be opened or read, it is not a regular file, its
// compressed data is damaged, cut off, or followed by something else.
class ByteSource {
 public:
  explicit ByteSource(const std::string& path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills `out` from where the last call stopped; returns less than its size only at the end.
  size_t Read(std::span<uint8_t> out);
  // No more bytes than this can come, judging by the file's size: what a header promises beyond
  // it is not worth an allocation.
  uint64_t MaxBytes() const;
  const std::string& path() const { return path_; }

 private:
  // Reads the next piece of the file into input_; false at the end of the file.
  bool Refill();
  size_t ReadPlain(std::span<uint8_t> out);
  size_t ReadGzip(std::span<uint8_t> out);

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  uint64_t file_bytes_ = 0;
  bool gzip_ = false;
  // A gzip file is a sequence of members; false between them.
  bool in_member_ = false;
  z_stream zlib_ = {};
  std::vector<uint8_t> input_;
  // The part of input_ that has not been used yet.
  std::span<uint8_t> pending_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_BYTE_SOURCE_H_
