// Optimizer state on disk, in one process: bits, files, checkpoints, faults.
#include <fcntl.h>
#include <glog/logging.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "distributed/disk_io.h"
#include "distributed/offload_files.h"
#include "kernels/error.h"
#include "tests/distributed/offload_test_util.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Offload : public ::testing::Test {
 protected:
  Offload() {
    std::string name = (fs::temp_directory_path() / "offload_XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr);
    root_ = name;
  }
  ~Offload() override { fs::remove_all(root_); }
  std::string At(const std::string& name) const { return root_ + "/" + name; }
  // The files of rank 0 whose name begins so, in order.
  std::vector<std::string> Files(const std::string& begin) const {
    std::vector<std::string> found;
    for (const auto& file : fs::directory_iterator(At("run/attempt-001/rank-00000"))) {
      if (file.path().filename().string().starts_with(begin)) found.push_back(file.path());
    }
    std::sort(found.begin(), found.end());
    return found;
  }
  FakeOptions Offloaded(FakeOptions options = {}, FileOps& ops = FileOps::System()) const {
    options.offload = OffloadTo(At("run"), ops);
    return options;
  }
  // A complete checkpoint, opened and verified.
  std::unique_ptr<CheckpointReader> Save(FakeTraining& training, const std::string& name,
                                         FileOps& ops = FileOps::System()) const {
    CommitManifest(At(name), CheckpointMeta{}, SavePart(training, At(name), 0, 1, ops));
    return CheckpointReader::Open(At(name));
  }

  // The checkpoint's file of what is offloaded.
  static std::string StateFile(const CheckpointReader& reader) {
    for (const ShardRecord& shard : reader.shards()) {
      if (shard.file.find("-state") != std::string::npos) return reader.dir() + "/" + shard.file;
    }
    return "";
  }

  // Where the parameter's first moment begins in the files of moments.
  uint64_t FirstOffsetOf(const std::string& parameter) const {
    const SafetensorsFile file(Files("moments").front());
    for (const StoredTensor& tensor : file.tensors()) {
      if (tensor.name.starts_with("adamw_m/" + parameter)) return tensor.begin;
    }
    LOG(FATAL) << "no moments of " << parameter;
  }

  std::string root_;
  const std::unique_ptr<Communicator> self_ = MakeSelfCommunicator();
};

ino_t InodeOf(const std::string& path) {
  struct stat info;
  CHECK_EQ(stat(path.c_str(), &info), 0) << path;
  return info.st_ino;
}

TEST_F(Offload, BitsAreThoseOfStateInMemory) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (int stage = 0; stage <= kMostZeroStage; ++stage) {
        const FakeOptions options{.stage = stage,
                                  .optimizer = kind,
                                  .dtype = dtype,
                                  .accumulation = DefaultAccumulation(stage)};
        FakeTraining memory(self_.get(), options);
        FakeTraining disk(self_.get(), Offloaded(options));
        for (int step = 0; step < 4; ++step) {
          ASSERT_EQ(memory.Step().norm, disk.Step().norm);
          ASSERT_EQ(memory.Weights(), disk.Weights()) << NameOf(dtype) << " at " << stage;
        }
        EXPECT_EQ(StateIn(memory.engine().OwnedState()).at("param/block.out"),
                  StateIn(disk.engine().OwnedState()).at("param/block.out"));
      }
    }
  }
}

// Reads wait at the gate unless they begin before an offset of their file. Threads that read may
// overtake each other, so a count of reads would not say which ones have passed.
class GatedReads : public FileOps {
 public:
  static constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();

  int64_t PRead(int fd, void* data, size_t size, uint64_t offset) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return offset < end_; });
    }
    return FileOps::PRead(fd, data, size, offset);
  }
  void LetPassBefore(uint64_t end) {
    const std::lock_guard lock(mutex_);
    end_ = end;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t end_ = kAll;
};

// The first unit can be used when its own reads have passed, while those of all others wait at the
// gate.
TEST_F(Offload, AnUpdateRunsBesideWhatComesNext) {
  for (int stage : {0, 3}) {
    const FakeOptions options{.stage = stage, .accumulation = DefaultAccumulation(stage)};
    GatedReads ops;
    FakeTraining memory(self_.get(), options);
    FakeTraining disk(self_.get(), Offloaded(options, ops));
    const uint64_t second_unit = FirstOffsetOf("block.weight");
    std::vector<float> expected(48 * 33), got(expected.size());
    for (int step = 0; step < 2; ++step) {
      memory.Step();
      ops.LetPassBefore(second_unit);
      disk.Step();
      memory.engine().GetParameter(0, expected);
      disk.engine().GetParameter(0, got);
      EXPECT_EQ(expected, got) << "step " << step << " at " << stage;
      ops.LetPassBefore(GatedReads::kAll);
      ASSERT_EQ(memory.Weights(), disk.Weights()) << "step " << step << " at " << stage;
    }
    // What is under way ends with the engine.
    ops.LetPassBefore(second_unit);
    disk.Step();
    ops.LetPassBefore(GatedReads::kAll);
  }
}

TEST_F(Offload, WithoutOverlapAnUpdateIsWaitedFor) {
  FailingFileOps ops;
  // At stage 0 nobody else waits for it within a step.
  FakeOptions options = Offloaded({.stage = 0}, ops);
  options.overlap = false;
  FakeTraining training(self_.get(), options);
  training.Step();
  ops.writes_left = 5;
  EXPECT_THAT(MessageOf([&] { training.Step(); }), HasSubstr("free space"));
}

// The error of an update that runs beside other things comes out where somebody needs what it
// makes.
TEST_F(Offload, WhoNeedsAnUpdateThatFailedIsTold) {
  FailingFileOps ops;
  for (const bool weights : {true, false}) {
    FakeTraining training(self_.get(), Offloaded({.stage = 0}, ops));
    training.WholeStep();
    ops.writes_left = 5;
    training.Step();
    EXPECT_THAT(MessageOf([&] {
                  if (weights) {
                    training.Weights();
                    training.engine().FinishUpdate();
                  } else {
                    training.engine().PinState();
                  }
                }),
                HasSubstr("free space"));
    ops.writes_left = -1;
  }
}

TEST_F(Offload, LowPrecisionSumsToo) {
  const FakeOptions options{.dtype = DType::kBF16, .accumulation = Accumulation::kLowPrecision};
  FakeTraining memory(self_.get(), options);
  FakeTraining disk(self_.get(), Offloaded(options));
  for (int step = 0; step < 3; ++step) ASSERT_EQ(memory.Step().norm, disk.Step().norm);
  EXPECT_EQ(memory.Weights(), disk.Weights());
}

TEST_F(Offload, OfTheOptimizersMemoryOnlyTheBuffersAreLeft) {
  for (const auto moments : {DType::kF32, DType::kBF16}) {
    for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const FakeOptions options = Offloaded({.dtype = dtype, .moments = moments});
      FakeTraining training(self_.get(), options);
      const size_t masters = dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 2 : 4;
      const size_t buffers = 4 * 8192 * (2 * SizeOf(moments) + masters) + 4096;
      EXPECT_EQ(training.memory().optimizer.high_water(), buffers);
      const auto silent = MakeDryRunCommunicator(0, 1);
      FakeTraining planned(silent.get(), options, true);
      planned.Step();
      EXPECT_EQ(planned.memory().TotalHighWater(), training.memory().TotalHighWater());
      EXPECT_EQ(planned.engine().disk_use().state, training.engine().disk_use().state);
      training.WholeStep();
      uint64_t on_disk = 0;
      for (const std::string& file : Files("m")) on_disk += fs::file_size(file);
      const uint64_t third = fs::file_size(Files("moments").front());
      EXPECT_EQ(training.engine().disk_use().state, on_disk + third);
      EXPECT_EQ(training.engine().disk_use().update, on_disk / 2);
      EXPECT_GT(training.engine().disk_wait_seconds(), 0);
    }
  }
}

// What the plan says of checkpoints is what they take at most, beside the state.
TEST_F(Offload, CheckpointsTakeWhatThePlanSays) {
  for (const bool asynchronous : {false, true}) {
    for (const auto moments : {DType::kF32, DType::kBF16}) {
      FakeOptions options = Offloaded({.dtype = DType::kBF16, .moments = moments});
      options.offload.kept_checkpoints = 2;
      options.offload.asynchronous_saves = asynchronous;
      FakeTraining training(self_.get(), options);
      const auto on_disk = [&] {
        std::set<ino_t> seen;
        uint64_t bytes = 0;
        for (const auto& file : fs::recursive_directory_iterator(root_)) {
          if (file.path().extension() != ".safetensors") continue;
          if (seen.insert(InodeOf(file.path())).second) bytes += fs::file_size(file.path());
        }
        return bytes;
      };
      uint64_t most = 0;
      for (int save = 0; save < 5; ++save) {
        training.Step();
        training.WholeStep();
        most = std::max(most, on_disk());
        const std::string name = At("step-" + std::to_string(save));
        const std::vector<TensorPiece> pieces = training.engine().OwnedState();
        std::optional<SharedShard> shared = training.engine().PinState();
        auto records = WritePart(name, 0, 1, pieces, shared);
        most = std::max(most, on_disk());
        for (int step = 0; asynchronous && step < 2; ++step) training.WholeStep();
        shared.reset();
        most = std::max(most, on_disk());
        CommitManifest(name, CheckpointMeta{}, std::move(records));
        if (save >= 2) fs::remove_all(At("step-" + std::to_string(save - 2)));
      }
      const DiskUse use = training.engine().disk_use();
      const auto planned = static_cast<double>(use.state + use.Checkpoints(2));
      // But for headers.
      EXPECT_LE(static_cast<double>(most), planned + 20e3);
      EXPECT_GE(static_cast<double>(most), planned - 20e3);
      for (int save = 3; save < 5; ++save) fs::remove_all(At("step-" + std::to_string(save)));
    }
  }
}

TEST_F(Offload, FilesAreAlignedSafetensors) {
  FakeTraining training(self_.get(), Offloaded({.dtype = DType::kBF16}));
  training.WholeStep();
  for (const std::string& path : Files("m")) {
    const SafetensorsFile file(path);
    EXPECT_EQ(file.tensors().front().begin % 4096, 0u) << path;
    EXPECT_EQ(fs::file_size(path) % 4096, 0u) << path;
  }
  const SafetensorsFile moments(Files("moments").front());
  EXPECT_EQ(moments.Get("adamw_v/block.weight").begin % 4096, 0u);
  EXPECT_EQ(moments.Get("adamw_m/head.bias").begin % 4096, 0u);
}

TEST_F(Offload, UpdatesTakeTurnsBetweenTwoFiles) {
  FakeTraining training(self_.get(), Offloaded());
  training.WholeStep();
  const std::vector<std::string> files = Files("moments");
  ASSERT_EQ(files.size(), 2u);
  for (int step = 0; step < 3; ++step) {
    training.WholeStep();
    EXPECT_EQ(Files("moments"), files);
  }
}

TEST_F(Offload, ACheckpointLinksTheStateAndGoesOnToTheBit) {
  for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string name = NameOf(dtype);
    FakeTraining original(self_.get(), Offloaded({.dtype = dtype}));
    FakeTraining memory(self_.get(), {.dtype = dtype});
    for (int step = 0; step < 2; ++step) {
      original.Step();
      memory.Step();
    }
    const auto reader = Save(original, name);
    const std::vector<std::string> files = Files("moments");
    ASSERT_EQ(files.size(), 1u) << "the other set gives its room back";
    EXPECT_EQ(InodeOf(files[0]), InodeOf(StateFile(*reader)));
    const auto in_memory = Save(memory, name + "-memory");
    for (const auto& [tensor, shape] : in_memory->tensors()) {
      std::vector<float> expected(shape.NumElements()), got(expected.size());
      in_memory->Read(tensor, 0, expected);
      reader->Read(tensor, 0, got);
      EXPECT_EQ(expected, got) << tensor;
    }
    for (int step = 0; step < 3; ++step) original.Step();
    // What was linked has not changed.
    reader->Verify();
    OffloadOptions elsewhere = OffloadTo(At("other"));
    FakeTraining on_disk(self_.get(), {.dtype = dtype, .offload = elsewhere});
    FakeTraining in_ram(self_.get(), {.dtype = dtype});
    for (FakeTraining* resumed : {&on_disk, &in_ram}) {
      resumed->engine().Load(*reader);
      resumed->set_step(2);
      for (int step = 0; step < 3; ++step) resumed->Step();
      EXPECT_EQ(resumed->Weights(), original.Weights()) << name;
    }
  }
}

TEST_F(Offload, GoesOnFromACheckpointOfStateInMemory) {
  FakeTraining memory(self_.get(), {.dtype = DType::kBF16});
  memory.Step();
  const auto reader = Save(memory, "step");
  FakeTraining disk(self_.get(), Offloaded({.dtype = DType::kBF16}));
  disk.Step();
  disk.engine().Load(*reader);
  for (int step = 0; step < 2; ++step) EXPECT_EQ(memory.Step().norm, disk.Step().norm);
  EXPECT_EQ(memory.Weights(), disk.Weights());
}

// One update from the same moments: what is kept is one of the neighbours of what float32 has, and
// on average it is that.
TEST_F(Offload, MomentsInBf16AreRoundedToANeighbour) {
  for (const auto dtype : {DType::kF32, DType::kBF16}) {
    const std::string name = NameOf(dtype);
    FakeTraining wide(self_.get(), {.dtype = dtype});
    FakeTraining narrow(self_.get(), Offloaded({.dtype = dtype, .moments = DType::kBF16}));
    // From moments that are zero both take the same step.
    wide.Step();
    narrow.Step();
    EXPECT_EQ(wide.Weights(), narrow.Weights());
    const auto exact = Save(wide, "exact-" + name), rounded = Save(narrow, "rounded-" + name);
    for (const std::string tensor : {"adamw_m/block.weight", "adamw_v/block.weight"}) {
      std::vector<float> expected(201 * 173), got(expected.size());
      exact->Read(tensor, 0, expected);
      rounded->Read(tensor, 0, got);
      double bias = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        const uint32_t below = std::bit_cast<uint32_t>(expected[i]) & 0xffff0000u;
        const uint32_t bits = std::bit_cast<uint32_t>(got[i]);
        ASSERT_TRUE(bits == below || bits == below + 0x10000) << tensor << " at " << i;
        if (expected[i] != 0) bias += got[i] / expected[i] - 1.0;
      }
      EXPECT_LT(std::abs(bias / static_cast<double>(got.size())), 1e-4) << tensor;
    }
    // The sum over updates stays close.
    for (int step = 0; step < 3; ++step) {
      wide.Step();
      narrow.Step();
    }
    const std::vector<float> a = wide.Weights(), b = narrow.Weights();
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 4 * 0.01 * 0x1p-5) << i;
  }
}

TEST_F(Offload, TheSizeOfPiecesChangesNoBitOfBf16Moments) {
  FakeOptions large = Offloaded({.dtype = DType::kBF16, .moments = DType::kBF16});
  FakeOptions small = large;
  small.offload.run_folder = At("small");
  small.offload.piece_elements = 4096;
  FakeTraining a(self_.get(), large), b(self_.get(), small);
  for (int step = 0; step < 3; ++step) ASSERT_EQ(a.Step().norm, b.Step().norm);
  EXPECT_EQ(a.Weights(), b.Weights());
}

TEST_F(Offload, MomentsInBf16GoOnToTheBit) {
  FakeTraining original(self_.get(), Offloaded({.dtype = DType::kBF16, .moments = DType::kBF16}));
  original.Step();
  original.Step();
  const auto reader = Save(original, "step");
  original.Step();
  reader->Verify();
  FakeOptions elsewhere{.dtype = DType::kBF16, .moments = DType::kBF16};
  elsewhere.offload = OffloadTo(At("other"));
  FakeTraining resumed(self_.get(), elsewhere);
  resumed.engine().Load(*reader);
  resumed.set_step(2);
  resumed.Step();
  EXPECT_EQ(original.Weights(), resumed.Weights());
  // Moments in float32, and in memory, start from the rounded ones.
  FakeTraining in_memory(self_.get(), {.dtype = DType::kBF16});
  in_memory.engine().Load(*reader);
  in_memory.set_step(2);
  in_memory.Step();
  EXPECT_EQ(original.Weights(), in_memory.Weights());
}

TEST_F(Offload, AnotherFilesystemGetsACopy) {
  FailingFileOps ops;
  ops.link_error = EXDEV;
  FakeTraining training(self_.get(), Offloaded());
  training.Step();
  const auto reader = Save(training, "step", ops);
  EXPECT_NE(InodeOf(Files("moments")[0]), InodeOf(StateFile(*reader)));
  ops.link_error = EACCES;
  EXPECT_THAT(MessageOf([&] { Save(training, "denied", ops); }), HasSubstr("permission"));
}

TEST_F(Offload, WithoutDirectIoTheCacheIsUsed) {
  FailingFileOps ops;
  ops.no_direct = true;
  ops.halve = true;
  FakeTraining memory(self_.get(), {});
  FakeTraining disk(self_.get(), Offloaded({}, ops));
  for (int step = 0; step < 3; ++step) ASSERT_EQ(memory.Step().norm, disk.Step().norm);
  EXPECT_EQ(memory.Weights(), disk.Weights());
}

TEST_F(Offload, AnUpdateThatFailsLeavesTheStateBeforeItWhole) {
  for (const int code : {ENOSPC, EIO}) {
    // In the first piece, in the midst, and in the last.
    for (const int64_t after : {0, 9, 19}) {
      FailingFileOps ops;
      FakeTraining training(self_.get(), Offloaded({}, ops));
      FakeTraining memory(self_.get(), {});
      training.WholeStep();
      memory.Step();
      const auto before = Save(memory, "before-" + std::to_string(code) + std::to_string(after));
      ops.write_error = code;
      ops.writes_left = after;
      const std::string message = MessageOf([&] { training.WholeStep(); });
      EXPECT_THAT(message, HasSubstr(code == EIO ? "I/O error" : "free space"));
      EXPECT_THAT(message, HasSubstr("bytes at byte"));
      EXPECT_THAT(message, HasSubstr("attempt-001/rank-00000/moments-"));
      ops.writes_left = -1;
      // The moments before the update, to the bit, under the checksums that they were written with.
      const auto after_it = Save(training, "after-" + std::to_string(code) + std::to_string(after));
      std::vector<float> expected(201 * 173), got(expected.size());
      before->Read("adamw_v/block.weight", 0, expected);
      after_it->Read("adamw_v/block.weight", 0, got);
      EXPECT_EQ(expected, got);
    }
  }
}

TEST_F(Offload, ReadsThatFailAndFilesThatEndAreTold) {
  FailingFileOps ops;
  FakeTraining training(self_.get(), Offloaded({}, ops));
  training.WholeStep();
  ops.reads_left = 3;
  EXPECT_THAT(MessageOf([&] { training.WholeStep(); }), HasSubstr("cannot read "));
  ops.reads_left = -1;
  for (const std::string& file : Files("moments")) fs::resize_file(file, 64 << 10);
  EXPECT_THAT(MessageOf([&] { training.WholeStep(); }), HasSubstr("the file ends after 65536"));
}

TEST_F(Offload, AFileThatCantBeFlushedDoesNotCount) {
  FailingFileOps ops;
  FakeTraining training(self_.get(), Offloaded({}, ops));
  training.WholeStep();
  ops.syncs_left = 0;
  EXPECT_THAT(MessageOf([&] { training.WholeStep(); }), HasSubstr("cannot flush"));
}

// Moments and masters become current together, or neither does.
TEST_F(Offload, WhenTheSecondFileCantBeFlushedTheFirstDoesNotCountEither) {
  FailingFileOps ops;
  FakeTraining training(self_.get(), Offloaded({.dtype = DType::kBF16}, ops));
  FakeTraining memory(self_.get(), {.dtype = DType::kBF16});
  training.WholeStep();
  memory.Step();
  ops.syncs_left = 1;
  EXPECT_THAT(MessageOf([&] { training.WholeStep(); }),
              AllOf(HasSubstr("flush"), HasSubstr("masters")));
  ops.syncs_left = -1;
  const auto expected = Save(memory, "expected"), got = Save(training, "got");
  for (const std::string tensor : {"adamw_m/block.weight", "adamw_v/block.weight"}) {
    std::vector<float> a(201 * 173), b(a.size());
    expected->Read(tensor, 0, a);
    got->Read(tensor, 0, b);
    EXPECT_EQ(a, b) << tensor;
  }
}

// kill -9 at any write of an update: the set before it is whole, and the run goes on to the bit
// from its checkpoint, whose bytes that set is.
TEST_F(Offload, AProcessKilledInAnUpdateLeavesTheSetBeforeItWhole) {
  const FakeOptions plain{.dtype = DType::kBF16, .moments = DType::kBF16};
  FakeTraining undisturbed(self_.get(), [&] {
    FakeOptions options = plain;
    options.offload = OffloadTo(At("undisturbed"));
    return options;
  }());
  for (int step = 0; step < 4; ++step) undisturbed.Step();
  int killed = 0;
  for (int64_t write = 0;; write += 3) {
    fs::remove_all(At("run"));
    fs::remove_all(At("step"));
    const pid_t child = fork();
    if (child == 0) {
      FailingFileOps ops;
      FakeTraining training(self_.get(), Offloaded(plain, ops));
      training.Step();
      training.Step();
      Save(training, "step");
      ops.kill = true;
      ops.writes_left = write;
      training.WholeStep();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
    ++killed;
    // Every byte is under a checksum.
    const auto reader = CheckpointReader::Open(At("step"));
    reader->Verify();
    EXPECT_TRUE(std::ranges::any_of(Files("moments"), [&](const std::string& file) {
      return InodeOf(file) == InodeOf(StateFile(*reader));
    }));
    FakeOptions next = Offloaded(plain);
    next.offload.attempt = 2;
    FakeTraining resumed(self_.get(), next);
    EXPECT_FALSE(fs::exists(At("run/attempt-001"))) << "what the crash left";
    resumed.engine().Load(*reader);
    resumed.set_step(2);
    resumed.Step();
    resumed.Step();
    ASSERT_EQ(resumed.Weights(), undisturbed.Weights()) << "killed at write " << write;
  }
  EXPECT_GT(killed, 5);
}

// A run that goes on writes its moments once, from the checkpoint.
TEST_F(Offload, ALoadWritesEachMomentOnce) {
  FakeTraining original(self_.get(), Offloaded());
  original.Step();
  const auto reader = Save(original, "step");
  FailingFileOps ops;
  FakeOptions options;
  options.offload = OffloadTo(At("other"), ops);
  FakeTraining resumed(self_.get(), options);
  ops.bytes_written = 0;
  resumed.engine().Load(*reader);
  const auto moments = static_cast<int64_t>(resumed.engine().disk_use().update);
  EXPECT_LE(ops.bytes_written, moments);
  EXPECT_GE(ops.bytes_written, moments - (64 << 10)) << "all but the header";
}

TEST_F(Offload, ADiskWithoutTheRoomIsRefusedWithTheFigures) {
  FailingFileOps ops;
  ops.free_bytes = 1000000;
  const std::string message =
      MessageOf([&] { FakeTraining training(self_.get(), Offloaded({}, ops)); });
  EXPECT_THAT(message, HasSubstr("has 0.001 GB free"));
  EXPECT_THAT(message, HasSubstr("1 rank of this host needs 0.00"));
  EXPECT_THAT(message, Not(HasSubstr("checkpoint.keep_last")));
  ops.free_bytes = -1;
  ops.allocate_error = ENOSPC;
  EXPECT_THAT(MessageOf([&] { FakeTraining training(self_.get(), Offloaded({}, ops)); }),
              HasSubstr("bytes for"));
}

// Checkpoints that are linked stay: as many as are kept, and one more, but for those that are
// there.
TEST_F(Offload, RoomForTheCheckpointsThatAreKeptIsAskedForToo) {
  FailingFileOps ops;
  FakeOptions options = Offloaded({}, ops);
  options.offload.run_dir = At("runs/job");
  options.offload.kept_checkpoints = 4;
  DiskUse use;
  const auto with_room = [&](uint64_t bytes) {
    ops.free_bytes = static_cast<int64_t>(bytes);
    return MessageOf([&] {
      FakeTraining training(self_.get(), options);
      use = training.engine().disk_use();
    });
  };
  const std::string well = "nothing was thrown";
  EXPECT_EQ(with_room(1 << 30), well);
  EXPECT_GT(use.Checkpoints(4), 4 * use.update);
  EXPECT_EQ(with_room(use.state + use.Checkpoints(4)), well);
  const std::string message = with_room(use.state + use.Checkpoints(4) - 4096);
  EXPECT_THAT(message, HasSubstr("checkpoint.keep_last 4, and one more"));
  EXPECT_THAT(message, HasSubstr("a smaller checkpoint.keep_last"));
  // Those that are there give their places, as far as they are not kept for good.
  for (int there = 1; there < 7; ++there) {
    const std::string dir = CheckpointDir(At("runs/job"), 1, there);
    fs::create_directories(dir);
    std::ofstream(dir + "/manifest.json") << "{}";
    const uint64_t needed = use.state + use.Checkpoints(std::max(0, 4 - there));
    EXPECT_EQ(with_room(needed), well) << there;
    EXPECT_NE(with_room(needed - 4096), well) << there;
  }
  // Elsewhere they are somebody else's.
  options.offload.run_dir = "/proc/self/job";
  EXPECT_EQ(with_room(use.state), well);
}

TEST_F(Offload, AFolderThatCantBeMadeIsNamedWithWhatToDo) {
  std::ofstream(At("file")) << "no folder";
  FakeOptions options;
  options.offload = OffloadTo(At("file/run"));
  const std::string message = MessageOf([&] { FakeTraining training(self_.get(), options); });
  EXPECT_THAT(message, HasSubstr("parallel.offload_dir " + At("file") + " can't be used"));
  EXPECT_THAT(message, HasSubstr("a folder on a disk of each host's own"));
}

TEST_F(Offload, AFolderThatVanishesIsNamed) {
  FakeTraining training(self_.get(), Offloaded());
  training.Step();
  Save(training, "step");
  fs::remove_all(At("run"));
  // The file that the checkpoint has is open; the next set has nowhere to be made.
  const std::string message = MessageOf([&] { training.WholeStep(); });
  EXPECT_THAT(message, HasSubstr(At("run")));
  EXPECT_THAT(message, HasSubstr("the folder of offloaded state is gone"));
}

TEST_F(Offload, TwoRunsNeverShareAFolderAndNothingIsLeft) {
  {
    FakeTraining training(self_.get(), Offloaded());
    EXPECT_THAT(MessageOf([&] { FakeTraining second(self_.get(), Offloaded()); }),
                HasSubstr("another process keeps its offloaded state in"));
    training.Step();
  }
  EXPECT_FALSE(fs::exists(At("run")));
}

TEST_F(Offload, WhatACrashLeftIsRemoved) {
  const std::string left = At("run/attempt-001/rank-00000");
  fs::create_directories(left);
  std::ofstream(left + "/moments-1.safetensors") << "old";
  OffloadOptions second = OffloadTo(At("run"));
  second.attempt = 2;
  FakeTraining training(self_.get(), {.offload = second});
  EXPECT_FALSE(fs::exists(At("run/attempt-001")));
  EXPECT_TRUE(fs::exists(At("run/attempt-002/rank-00000")));
}

TEST_F(Offload, FoldersOfRunsAreToldApart) {
  const std::string a = OffloadRunFolder("/disk", "/runs/a/tiny");
  EXPECT_THAT(a, HasSubstr("/disk/tiny-"));
  EXPECT_NE(a, OffloadRunFolder("/disk", "/runs/b/tiny"));
  EXPECT_EQ(a, OffloadRunFolder("/disk", "/runs/x/../a/tiny"));
}

// From then on the system refuses a call with an errno, as a container's seccomp profile does.
void Refuse(int call, int code) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(code)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {static_cast<unsigned short>(std::size(filter)), filter};
  PCHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  PCHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

using OffloadDeathTest = Offload;

TEST_F(OffloadDeathTest, WhereIoUringIsBlockedThreadsReadAndWrite) {
  FakeTraining memory(self_.get(), {.dtype = DType::kBF16});
  for (int step = 0; step < 3; ++step) memory.Step();
  const std::vector<float> expected = memory.Weights();
  const auto train = [&](int call, int code) {
    Refuse(call, code);
    const bool threads = std::string(MakeDiskIo(4)->name()) == "threads";
    FakeTraining disk(self_.get(), Offloaded({.dtype = DType::kBF16}));
    for (int step = 0; step < 3; ++step) disk.WholeStep();
    fs::remove_all(At("run"));
    _exit(threads && disk.Weights() == expected ? 0 : 1);
  };
  const auto ended_well = testing::ExitedWithCode(0);
  EXPECT_EXIT(train(SYS_io_uring_setup, EPERM), ended_well, "io_uring is not to be had here \\(Op");
  EXPECT_EXIT(train(SYS_io_uring_setup, ENOSYS), ended_well, "threads read and write");
  // A ring that may be made and not entered.
  EXPECT_EXIT(train(SYS_io_uring_enter, EACCES), ended_well, "threads read and write");
  EXPECT_EXIT(train(SYS_io_uring_register, EPERM), ended_well, "threads read and write");
}

TEST_F(Offload, RequestsMoveAllTheirBytes) {
  FailingFileOps halving;
  halving.halve = true;
  for (FileOps* ops : {&FileOps::System(), static_cast<FileOps*>(&halving)}) {
    const auto io = MakeDiskIo(4, *ops);
    const std::string path = At(io->name());
    const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    std::vector<std::byte> written(40000), read(40000);
    for (size_t i = 0; i < written.size(); ++i) written[i] = static_cast<std::byte>(i * 7);
    DiskRequest request;
    request.write = true;
    request.fd = fd;
    request.path = &path;
    request.data = written.data();
    request.bytes = written.size();
    request.offset = 100;
    io->Start(&request);
    io->Wait(&request);
    request.write = false;
    request.data = read.data();
    io->Start(&request);
    io->Wait(&request);
    EXPECT_EQ(read, written) << io->name();
    request.offset = 200;
    io->Start(&request);
    EXPECT_THAT(MessageOf([&] { io->Wait(&request); }), HasSubstr("the file ends after 40100"));
    close(fd);
    request.fd = -1;
    io->Start(&request);
    EXPECT_THAT(MessageOf([&] { io->Wait(&request); }), HasSubstr("Bad file descriptor"));
  }
}

}  // namespace
}  // namespace swinfleet
