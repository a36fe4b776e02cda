#include "core/data/idx_dataset.h"

#include <glog/logging.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include "core/data/byte_source.h"
#include "core/data/folder.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxChannels = 4;
constexpr int64_t kMaxSide = 1 << 16;

// What an idx file holds: unsigned bytes, the last dimension varies fastest.
struct IdxArray {
  std::string path;
  std::vector<int64_t> dims;
  std::vector<uint8_t> values;
};

std::string DimsToString(const std::vector<int64_t>& dims) {
  std::string text;
  for (int64_t dim : dims) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return text;
}

// The plain file if it is there, otherwise the gzipped one.
std::string FindFile(const std::string& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz"}) {
    const fs::path path = fs::path(folder) / (name + suffix);
    std::error_code error;
    if (fs::exists(path, error)) return path.string();
    if (error) throw Error("cannot look at " + path.string() + ": " + error.message());
  }
  throw Error("there is neither " + name + " nor " + name + ".gz in data.path " + folder +
              ", which " + ListFolder(folder));
}

// Reads the magic number and the dimensions. `ranks` are the numbers of dimensions that will do.
std::vector<int64_t> ReadHeader(ByteSource* source, const std::vector<int>& ranks) {
  std::array<uint8_t, 4> word;
  const auto read_word = [&] {
    if (source->Read(word) != word.size()) {
      throw Error(source->path() + " is truncated: it ends within the idx header");
    }
  };
  read_word();
  const bool good_rank = std::find(ranks.begin(), ranks.end(), word[3]) != ranks.end();
  if (word[0] != 0 || word[1] != 0 || word[2] != 0x08 || !good_rank) {
    char magic[16];
    std::snprintf(magic, sizeof(magic), "%02x%02x%02x%02x", word[0], word[1], word[2], word[3]);
    std::string wanted;
    for (int rank : ranks)
      wanted += (wanted.empty() ? "0000080" : " or 0000080") + std::to_string(rank);
    throw Error(source->path() + " has the wrong magic number: it begins with " + magic +
                ", an idx file of unsigned bytes for this purpose with " + wanted);
  }
  std::vector<int64_t> dims(word[3]);
  for (int64_t& dim : dims) {
    read_word();
    dim = int64_t{word[0]} << 24 | word[1] << 16 | word[2] << 8 | word[3];
  }
  return dims;
}

// Bytes that the header promises; throws when the file is too small to hold them.
uint64_t PromisedBytes(const ByteSource& source, const std::vector<int64_t>& dims) {
  unsigned __int128 bytes = 1;
  for (int64_t dim : dims) bytes *= static_cast<uint64_t>(dim);
  if (bytes > source.MaxBytes()) {
    throw Error(source.path() + " is truncated or damaged: its header promises " +
                DimsToString(dims) + " bytes, more than a file of its size can hold");
  }
  return static_cast<uint64_t>(bytes);
}

IdxArray ReadIdx(const std::string& path, const std::vector<int>& ranks) {
  // The memory grows with what has been read: a header alone never makes pages resident.
  constexpr uint64_t kPieceBytes = 16 << 20;
  IdxArray array;
  array.path = path;
  ByteSource source(path);
  array.dims = ReadHeader(&source, ranks);
  const uint64_t promised = PromisedBytes(source, array.dims);
  try {
    array.values.reserve(promised);
  } catch (const std::bad_alloc&) {
    throw Error("not enough memory for the " + std::to_string(promised) + " bytes in " + path);
  }
  while (array.values.size() < promised) {
    const uint64_t done = array.values.size();
    const uint64_t piece = std::min(promised - done, kPieceBytes);
    array.values.resize(done + piece);
    const size_t got = source.Read(std::span(array.values).subspan(done));
    if (got < piece) {
      throw Error(path + " is truncated: its header promises " + DimsToString(array.dims) + " = " +
                  std::to_string(promised) + " bytes, it holds " + std::to_string(done + got));
    }
  }
  std::array<uint8_t, 1> extra;
  if (source.Read(extra) != 0) {
    throw Error(path + " has bytes after the " + DimsToString(array.dims) +
                " that its header promises; header or file is damaged");
  }
  return array;
}

class IdxDataset : public Dataset {
 public:
  IdxDataset(IdxArray images, IdxArray labels)
      : pixels_(std::move(images.values)), labels_(std::move(labels.values)) {
    identity_.count = images.dims[0];
    identity_.height = images.dims[1];
    identity_.width = images.dims[2];
    identity_.channels = images.dims.size() == 4 ? images.dims[3] : 1;
    identity_.num_classes = *std::max_element(labels_.begin(), labels_.end()) + 1;
    picture_bytes_ = identity_.height * identity_.width * identity_.channels;
    const std::array<uint64_t, 6> index = {
        static_cast<uint64_t>(identity_.count),      static_cast<uint64_t>(identity_.height),
        static_cast<uint64_t>(identity_.width),      static_cast<uint64_t>(identity_.channels),
        XXH3_64bits(labels_.data(), labels_.size()), XXH3_64bits(pixels_.data(), pixels_.size())};
    identity_.index_hash = XXH3_64bits(index.data(), sizeof(index));
  }

  const DataIdentity& identity() const override { return identity_; }

  void Get(int64_t index, Picture* picture) const override {
    CHECK(index >= 0 && index < identity_.count) << index << " of " << identity_.count;
    picture->height = identity_.height;
    picture->width = identity_.width;
    picture->channels = identity_.channels;
    picture->label = labels_[index];
    const uint8_t* first = pixels_.data() + index * picture_bytes_;
    picture->pixels.assign(first, first + picture_bytes_);
  }

  int64_t Label(int64_t index) const override {
    CHECK(index >= 0 && index < identity_.count) << index << " of " << identity_.count;
    return labels_[index];
  }

  size_t HeldBytes() const override { return pixels_.size() + labels_.size(); }
  DecodingMemory Decoding() const override {
    return {.picture = static_cast<size_t>(picture_bytes_), .passing = {}};
  }

 private:
  std::vector<uint8_t> pixels_;  // (count, height, width, channels)
  std::vector<uint8_t> labels_;  // (count)
  int64_t picture_bytes_;
  DataIdentity identity_;
};

void CheckImageDims(const IdxArray& images) {
  const std::vector<int64_t>& dims = images.dims;
  const std::string what = images.path + " holds " + DimsToString(dims);
  if (dims[0] == 0) throw Error(images.path + " holds no pictures");
  if (dims[1] == 0 || dims[2] == 0 || dims[1] > kMaxSide || dims[2] > kMaxSide) {
    throw Error(what + " (count, height, width); height and width must be 1 to " +
                std::to_string(kMaxSide));
  }
  if (dims.size() == 4 && (dims[3] < 1 || dims[3] > kMaxChannels)) {
    throw Error(what +
                ", which is read as (count, height, width, channels); channels must be 1 to " +
                std::to_string(kMaxChannels));
  }
}

}  // namespace

std::unique_ptr<Dataset> OpenIdxDataset(const std::string& folder, const std::string& split) {
  CheckSplitName(split, "what idx file names begin with, like train");
  CheckDataFolder(folder, "the idx files");
  // Both are found before the large one is read.
  const std::string images_path = FindFile(folder, split + "-images-idx3-ubyte");
  const std::string labels_path = FindFile(folder, split + "-labels-idx1-ubyte");
  IdxArray labels = ReadIdx(labels_path, {1});
  IdxArray images = ReadIdx(images_path, {3, 4});
  CheckImageDims(images);
  if (images.dims[0] != labels.dims[0]) {
    throw Error(images_path + " holds " + std::to_string(images.dims[0]) + " pictures, but " +
                labels_path + " " + std::to_string(labels.dims[0]) + " labels");
  }
  return std::make_unique<IdxDataset>(std::move(images), std::move(labels));
}

}  // namespace swinfleet
