// Optimizer state on disk, in one process: bits, files, checkpoints, faults.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "distributed/disk_io.h"
#include "distributed/offload_files.h"
#include "kernels/error.h"
#include "tests/distributed/offload_test_util.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

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

  std::string root_;
  const std::unique_ptr<Communicator> self_ = MakeSelfCommunicator();
};

std::string MessageOf(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

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

TEST_F(Offload, LowPrecisionSumsToo) {
  const FakeOptions options{.dtype = DType::kBF16, .accumulation = Accumulation::kLowPrecision};
  FakeTraining memory(self_.get(), options);
  FakeTraining disk(self_.get(), Offloaded(options));
  for (int step = 0; step < 3; ++step) ASSERT_EQ(memory.Step().norm, disk.Step().norm);
  EXPECT_EQ(memory.Weights(), disk.Weights());
}

TEST_F(Offload, OfTheOptimizersMemoryOnlyTheBuffersAreLeft) {
  for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    FakeTraining training(self_.get(), Offloaded({.dtype = dtype}));
    const size_t bytes = 8 + (dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 2 : 4);
    const size_t buffers = 4 * 8192 * bytes + 4096;
    EXPECT_EQ(training.memory().optimizer.high_water(), buffers);
    const auto silent = MakeDryRunCommunicator(0, 1);
    FakeTraining planned(silent.get(), Offloaded({.dtype = dtype}), true);
    planned.Step();
    EXPECT_EQ(planned.memory().TotalHighWater(), training.memory().TotalHighWater());
    EXPECT_EQ(planned.engine().disk_bytes(), training.engine().disk_bytes());
    training.Step();
    uint64_t on_disk = 0;
    for (const std::string& file : Files("m")) on_disk += fs::file_size(file);
    const uint64_t moments = fs::file_size(Files("moments").front());
    EXPECT_EQ(training.engine().disk_bytes(), on_disk + moments);
    EXPECT_EQ(training.engine().disk_update_bytes(), on_disk / 2);
    EXPECT_GT(training.engine().disk_wait_seconds(), 0);
  }
}

TEST_F(Offload, FilesAreAlignedSafetensors) {
  FakeTraining training(self_.get(), Offloaded({.dtype = DType::kBF16}));
  training.Step();
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
  training.Step();
  const std::vector<std::string> files = Files("moments");
  ASSERT_EQ(files.size(), 2u);
  for (int step = 0; step < 3; ++step) {
    training.Step();
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

// One update from the same moments: what is kept is what float32 would be, rounded.
TEST_F(Offload, MomentsInBf16AreRoundedToTheNearest) {
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
      for (size_t i = 0; i < got.size(); ++i) {
        const uint32_t bits = std::bit_cast<uint32_t>(expected[i]);
        const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), nearest) << tensor << " at " << i;
      }
    }
    // The sum over updates stays close.
    for (int step = 0; step < 3; ++step) {
      wide.Step();
      narrow.Step();
    }
    const std::vector<float> a = wide.Weights(), b = narrow.Weights();
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 4 * 0.01 * 0x1p-6) << i;
  }
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
      training.Step();
      memory.Step();
      const auto before = Save(memory, "before-" + std::to_string(code) + std::to_string(after));
      ops.write_error = code;
      ops.writes_left = after;
      const std::string message = MessageOf([&] { training.Step(); });
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
  training.Step();
  ops.reads_left = 3;
  EXPECT_THAT(MessageOf([&] { training.Step(); }), HasSubstr("cannot read "));
  ops.reads_left = -1;
  for (const std::string& file : Files("moments")) fs::resize_file(file, 64 << 10);
  EXPECT_THAT(MessageOf([&] { training.Step(); }), HasSubstr("the file ends after 65536"));
}

TEST_F(Offload, AFileThatCantBeFlushedDoesNotCount) {
  FailingFileOps ops;
  FakeTraining training(self_.get(), Offloaded({}, ops));
  training.Step();
  ops.sync_error = EIO;
  EXPECT_THAT(MessageOf([&] { training.Step(); }), HasSubstr("cannot flush"));
}

TEST_F(Offload, ADiskWithoutTheRoomIsRefusedWithTheFigures) {
  FailingFileOps ops;
  ops.free_bytes = 1000000;
  const std::string message =
      MessageOf([&] { FakeTraining training(self_.get(), Offloaded({}, ops)); });
  EXPECT_THAT(message, HasSubstr("has 0.001 GB free"));
  EXPECT_THAT(message, HasSubstr("of 1 rank needs 0.00"));
  ops.free_bytes = -1;
  ops.allocate_error = ENOSPC;
  EXPECT_THAT(MessageOf([&] { FakeTraining training(self_.get(), Offloaded({}, ops)); }),
              HasSubstr("bytes for"));
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
