#include "core/data/byte_source.h"

#include <glog/logging.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr size_t kInputBytes = 256 << 10;
// Deflate codes at most 258 bytes in 2 bits.
constexpr uint64_t kMaxDeflateRatio = 1032;
// 16: a gzip header and trailer, and no other format.
constexpr int kGzipWindowBits = 15 + 16;

}  // namespace

ByteSource::ByteSource(const std::string& path) : path_(path), file_(nullptr, &std::fclose) {
  // Asked before opening, because opening a pipe would wait for its other end.
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    throw Error("cannot open " + path + ": " + std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) throw Error(path + " is not a regular file");
  file_bytes_ = static_cast<uint64_t>(info.st_size);
  file_.reset(std::fopen(path.c_str(), "rb"));
  if (file_ == nullptr) throw Error("cannot open " + path + ": " + std::strerror(errno));
  input_.resize(kInputBytes);
  if (!Refill()) throw Error(path + " is empty");
  gzip_ = pending_.size() >= 2 && pending_[0] == 0x1f && pending_[1] == 0x8b;
  if (gzip_) {
    const int status = inflateInit2(&zlib_, kGzipWindowBits);
    if (status != Z_OK) throw Error("no memory to decompress " + path);
    in_member_ = true;
  }
}

ByteSource::~ByteSource() {
  if (gzip_) inflateEnd(&zlib_);
}

uint64_t ByteSource::MaxBytes() const {
  return gzip_ ? file_bytes_ * kMaxDeflateRatio : file_bytes_;
}

bool ByteSource::Refill() {
  const size_t bytes = std::fread(input_.data(), 1, input_.size(), file_.get());
  if (bytes < input_.size() && std::ferror(file_.get())) {
    throw Error("cannot read " + path_ + ": " + std::strerror(errno));
  }
  pending_ = std::span(input_).first(bytes);
  return bytes > 0;
}

size_t ByteSource::Read(std::span<uint8_t> out) { return gzip_ ? ReadGzip(out) : ReadPlain(out); }

size_t ByteSource::ReadPlain(std::span<uint8_t> out) {
  size_t done = 0;
  while (done < out.size() && (!pending_.empty() || Refill())) {
    const size_t bytes = std::min(out.size() - done, pending_.size());
    std::memcpy(out.data() + done, pending_.data(), bytes);
    pending_ = pending_.subspan(bytes);
    done += bytes;
  }
  return done;
}

size_t ByteSource::ReadGzip(std::span<uint8_t> out) {
  size_t done = 0;
  while (done < out.size()) {
    if (pending_.empty() && !Refill()) {
      if (!in_member_) return done;
      throw Error(path_ + " is cut off: its compressed data ends too early after " +
                  std::to_string(file_bytes_) + " bytes; fetch the file again");
    }
    if (!in_member_) {
      CHECK_EQ(inflateReset(&zlib_), Z_OK);
      in_member_ = true;
    }
    // At most 1 GiB at once: zlib counts with 32 bits.
    const size_t want = std::min(out.size() - done, size_t{1} << 30);
    zlib_.next_in = pending_.data();
    zlib_.avail_in = static_cast<uInt>(pending_.size());
    zlib_.next_out = out.data() + done;
    zlib_.avail_out = static_cast<uInt>(want);
    const int status = inflate(&zlib_, Z_NO_FLUSH);
    pending_ = pending_.last(zlib_.avail_in);
    done += want - zlib_.avail_out;
    if (status == Z_MEM_ERROR) throw Error("no memory to decompress " + path_);
    if (status == Z_STREAM_END) {
      in_member_ = false;
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      throw Error(path_ + " is damaged: its compressed data is not valid (" +
                  (zlib_.msg == nullptr ? "zlib error " + std::to_string(status) : zlib_.msg) +
                  "); fetch the file again");
    }
  }
  return done;
}

}  // namespace swinfleet
