// Small data sets for the tests of core/data.
#ifndef SWINFLEET_TESTS_CORE_DATA_TEST_UTIL_H_
#define SWINFLEET_TESTS_CORE_DATA_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <zlib.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "kernels/error.h"

namespace swinfleet {

// A fresh folder, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "swinfleet-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  std::string string() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline std::string ReadBytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string Gzip(const std::string& bytes) {
  z_stream z = {};
  if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) std::abort();
  std::string out(deflateBound(&z, bytes.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = bytes.size();
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = out.size();
  if (deflate(&z, Z_FINISH) != Z_STREAM_END) std::abort();
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

inline std::string IdxHeader(const std::vector<uint32_t>& dims) {
  std::string bytes = {0, 0, 8, static_cast<char>(dims.size())};
  for (uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(dim >> shift);
  }
  return bytes;
}

// The value of each byte of the pictures that IdxImages writes.
inline uint8_t TestPixel(int64_t index) { return static_cast<uint8_t>(index * 37 + index / 256); }

// A picture of TestPixels.
inline Picture TestPicture(int64_t height, int64_t width, int64_t channels) {
  Picture picture{height, width, channels, {}, 0};
  for (int64_t i = 0; i < height * width * channels; ++i) picture.pixels.push_back(TestPixel(i));
  return picture;
}

// Of many values, to compare with another program's.
inline uint32_t Checksum(const std::vector<uint8_t>& bytes) {
  uint32_t sum = 0;
  for (uint8_t byte : bytes) sum = sum * 31 + byte;
  return sum;
}

inline std::string IdxImages(const std::vector<uint32_t>& dims) {
  std::string bytes = IdxHeader(dims);
  int64_t count = 1;
  for (uint32_t dim : dims) count *= dim;
  for (int64_t i = 0; i < count; ++i) bytes += static_cast<char>(TestPixel(i));
  return bytes;
}

inline std::string IdxLabels(const std::vector<uint8_t>& labels) {
  return IdxHeader({static_cast<uint32_t>(labels.size())}) +
         std::string(labels.begin(), labels.end());
}

// What the callable's Error says; fails the test if there is none.
inline std::string ErrorOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

// Pictures made on request: label i % classes, pixel (y, x, c) = TestPixel of its place.
class FakeDataset : public Dataset {
 public:
  FakeDataset(int64_t count, int64_t height, int64_t width, int64_t channels, int64_t classes) {
    identity_ = {count, channels, height, width, classes, 1};
  }
  const DataIdentity& identity() const override { return identity_; }
  void Get(int64_t index, Picture* picture) const override {
    if (delay_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    // Threads overtake each other, differently for each picture.
    if (jitter) std::this_thread::sleep_for(std::chrono::microseconds(index * 7919 % 300));
    ++gets;
    if (index == bad_sample) throw Error("sample " + std::to_string(index) + " is unreadable");
    picture->height = identity_.height;
    picture->width = identity_.width;
    picture->channels = identity_.channels;
    picture->label = index == odd_sample ? odd_label : index % identity_.num_classes;
    const int64_t bytes = identity_.height * identity_.width * identity_.channels;
    picture->pixels.resize(bytes);
    for (int64_t i = 0; i < bytes; ++i) picture->pixels[i] = TestPixel(index * bytes + i);
  }

  int delay_ms = 0;
  bool jitter = false;
  int64_t bad_sample = -1;
  int64_t odd_sample = -1;
  int64_t odd_label = 0;
  mutable std::atomic<int64_t> gets = 0;

 private:
  DataIdentity identity_;
};

// The first `batches` of a loader, or as many as there are.
inline std::vector<Batch> Take(const Dataset& data, const LoaderOptions& options, int64_t batches) {
  Loader loader(&data, options);
  std::vector<Batch> taken;
  for (int64_t i = 0; i < batches; ++i) {
    const Batch* batch = loader.Next();
    if (batch == nullptr) break;
    taken.push_back(*batch);
  }
  return taken;
}

// In all that a model or a loss sees.
inline void ExpectSame(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.pictures, b.pictures);
  EXPECT_EQ(a.sample, b.sample);
  EXPECT_EQ(a.label, b.label);
  EXPECT_EQ(a.image, b.image);
  EXPECT_EQ(a.target, b.target);
  EXPECT_EQ(a.mask, b.mask);
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CORE_DATA_TEST_UTIL_H_
