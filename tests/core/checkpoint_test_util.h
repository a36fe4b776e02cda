// What the tests of checkpoints share: temporary folders, full and read-only filesystems, system
// calls that fail on request, and small checkpoints with known contents.
#ifndef SWINFLEET_TESTS_CORE_CHECKPOINT_TEST_UTIL_H_
#define SWINFLEET_TESTS_CORE_CHECKPOINT_TEST_UTIL_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "kernels/error.h"

namespace swinfleet {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "swinfleet-XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr) << name;
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A filesystem in memory of one MiB. Only root may mount one: mounted() tells.
class SmallFilesystem {
 public:
  explicit SmallFilesystem(const std::string& path) : path_(path) {
    std::filesystem::create_directories(path);
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=1m") == 0;
  }
  ~SmallFilesystem() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool MakeReadOnly() {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

// The system's calls, of which any can be made to fail. Unset functions do nothing.
class FaultyOps : public FileOps {
 public:
  // Each returns 0 to let the call happen, or minus the errno to fail with.
  std::function<int(const std::string& path, int flags)> on_open;
  std::function<int(const std::string& path)> on_fsync;
  std::function<int(const std::string& path, uint64_t offset)> on_write;
  std::function<int(const std::string& from, const std::string& to)> on_rename;
  std::function<int()> on_close;
  // Called after a rename that happened; its result is what the caller sees.
  std::function<int()> after_rename;
  std::atomic<int> sleeps = 0;
  // At most so many bytes a write or read.
  size_t max_transfer = SIZE_MAX;

  int Open(const std::string& path, int flags, mode_t mode) override {
    const int fault = on_open ? on_open(path, flags) : 0;
    if (fault != 0) return fault;
    const int fd = FileOps::Open(path, flags, mode);
    if (fd >= 0) paths_[fd] = path;
    return fd;
  }
  int64_t PRead(int fd, void* data, size_t size, uint64_t offset) override {
    return FileOps::PRead(fd, data, std::min(size, max_transfer), offset);
  }
  int64_t PWrite(int fd, const void* data, size_t size, uint64_t offset) override {
    const int fault = on_write ? on_write(paths_[fd], offset) : 0;
    if (fault != 0) return fault;
    return FileOps::PWrite(fd, data, std::min(size, max_transfer), offset);
  }
  int Fsync(int fd) override {
    const int fault = on_fsync ? on_fsync(paths_[fd]) : 0;
    return fault != 0 ? fault : FileOps::Fsync(fd);
  }
  int Close(int fd) override {
    const int fault = on_close ? on_close() : 0;
    const int result = FileOps::Close(fd);
    return fault != 0 ? fault : result;
  }
  int Rename(const std::string& from, const std::string& to) override {
    const int fault = on_rename ? on_rename(from, to) : 0;
    if (fault != 0) return fault;
    const int result = FileOps::Rename(from, to);
    return after_rename ? after_rename() : result;
  }
  void Sleep(std::chrono::milliseconds) override { ++sleeps; }

 private:
  std::map<int, std::string> paths_;
};

// The message of the Error that `call` throws; empty when it throws none.
inline std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  // Truncating a file in place makes some filesystems flush it: thousands of times would be slow.
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  ASSERT_TRUE(file.flush().good()) << path;
}

// Names in a folder, in order.
inline std::vector<std::string> NamesOf(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A model's tensors whose elements are a function of a number.
struct Tensors {
  std::map<std::string, Shape> shapes;
  std::map<std::string, std::vector<float>> values;

  static Tensors Make(const std::map<std::string, Shape>& parameters, int64_t number) {
    Tensors tensors;
    for (const auto& [name, shape] : parameters) {
      for (const char* prefix : {"param/", "adamw_m/", "adamw_v/"}) {
        tensors.shapes[prefix + name] = shape;
        std::vector<float>& values = tensors.values[prefix + name];
        values.resize(shape.NumElements());
        std::mt19937 random(static_cast<uint32_t>(number * 31 + values.size()));
        for (float& value : values) value = static_cast<float>(random()) * 1e-6F;
      }
    }
    return tensors;
  }
  // All of it in one piece a tensor.
  std::vector<TensorPiece> Whole() const {
    std::vector<TensorPiece> pieces;
    for (const auto& [name, data] : values) {
      pieces.push_back(PieceInMemory(name, shapes.at(name), 0, data));
    }
    return pieces;
  }
  // Cut at random places and dealt to `ranks` writers, some of which may get nothing.
  std::vector<std::vector<TensorPiece>> Deal(int ranks, std::mt19937& random) const {
    std::vector<std::vector<TensorPiece>> dealt(ranks);
    for (const auto& [name, data] : values) {
      const int64_t size = static_cast<int64_t>(data.size());
      std::vector<int64_t> cuts = {0, size};
      for (uint32_t i = random() % 5; i > 0 && size > 0; --i) cuts.push_back(random() % size);
      std::sort(cuts.begin(), cuts.end());
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        dealt[random() % ranks].push_back(
            PieceInMemory(name, shapes.at(name), cuts[i],
                          std::span<const float>(data).subspan(cuts[i], cuts[i + 1] - cuts[i])));
      }
    }
    return dealt;
  }
};

inline std::map<std::string, Shape> SmallModel() {
  return {{"patch_embed.proj.weight", Shape{8, 3, 2, 2}},
          {"layers.0.blocks.0.attn.qkv.weight", Shape{24, 8}},
          {"layers.0.blocks.0.attn.logit_scale", Shape{2, 1, 1}},
          {"head.bias", Shape{10}}};
}

inline CheckpointMeta MetaOf(int attempt, int64_t step, int ranks) {
  CheckpointMeta meta;
  meta.job_spec = "name: test\nseed: 1\n";
  meta.step = step;
  meta.attempt = attempt;
  meta.seed = 0xfedcba9876543210;
  meta.data_position = step * 128;
  meta.data = {60000, 1, 28, 28, 10, 0x8000000000000001};
  meta.reproducibility = {"0.1.0", "AVX2", 1, 32, 4, "F32", "F32", "tree", {0, 16}};
  meta.model = "{\"embed_dim\": 8}";
  meta.skipped_steps = 3;
  meta.consecutive_nonfinite = 2;
  meta.loss_scale = LossScaleState{.scale = 1024, .good_steps = 17};
  meta.metrics = {{"loss", 0.1}, {"accuracy", 87.5}};
  meta.ranks = ranks;
  meta.zero_stage = 1;
  return meta;
}

// Writes a whole checkpoint by `ranks` writers and returns its folder.
inline std::string Save(const std::string& run_dir, int attempt, int64_t step,
                        const Tensors& tensors, int ranks = 2) {
  const std::string dir = CheckpointDir(run_dir, attempt, step);
  std::mt19937 random(static_cast<uint32_t>(step));
  const auto dealt = tensors.Deal(ranks, random);
  std::vector<ShardRecord> records;
  for (int rank = 0; rank < ranks; ++rank) {
    records.push_back(WriteShard(dir, rank, ranks, dealt[rank]));
  }
  CommitManifest(dir, MetaOf(attempt, step, ranks), records);
  return dir;
}

inline std::vector<float> ReadAll(const CheckpointReader& reader, const std::string& tensor) {
  std::vector<float> values(reader.tensors().at(tensor).NumElements());
  reader.Read(tensor, 0, values);
  return values;
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CORE_CHECKPOINT_TEST_UTIL_H_
