// The worker and the benchmark as their users meet them on a machine with GPUs: the programs
// themselves, beside the backend that the emulator runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/worker/child.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const std::string kWorker = SWINFLEET_EMULATED_DIR "/swinfleet-worker";

class CudaProgramsTest : public testing::Test {
 protected:
  CudaProgramsTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-cuda-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    // mpirun refuses root and fewer cores than ranks otherwise.
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                             "OMPI_MCA_rmaps_base_oversubscribe"}) {
      setenv(name, "1", 1);
    }
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
    setenv("SWINFLEET_CUDA_ORDER", "5", 1);
    // What a rank that dies leaves of its exchange.
    setenv("TMPDIR", folder_.c_str(), 1);
    SetDriver();
    SetMachine("2");
    WriteData();
  }
  ~CudaProgramsTest() override {
    unsetenv("TMPDIR");
    fs::remove_all(folder_);
  }

  // What stands for the driver is beside the backend.
  static void SetDriver() { setenv("LD_LIBRARY_PATH", SWINFLEET_EMULATED_DIR "/../lib", 1); }
  // What the emulated machine has: so many GPUs, or an old driver.
  static void SetMachine(const std::string& gpus) {
    setenv("SWINFLEET_CUDA_GPUS", gpus.c_str(), 1);
  }
  // Eight pictures of 8 x 8 and their labels, for both splits.
  void WriteData() {
    const std::string data = folder_ + "/data";
    fs::create_directory(data);
    for (const std::string split : {"train", "t10k"}) {
      std::string images("\0\0\x08\x03\0\0\0\x08\0\0\0\x08\0\0\0\x08", 16);
      std::string labels("\0\0\x08\x01\0\0\0\x08", 8);
      for (int i = 0; i < 8; ++i) {
        for (int pixel = 0; pixel < 64; ++pixel) {
          images += static_cast<char>((i * 37 + pixel * 11) % 251);
        }
        labels += static_cast<char>(i % 4);
      }
      std::ofstream(data + "/" + split + "-images-idx3-ubyte", std::ios::binary) << images;
      std::ofstream(data + "/" + split + "-labels-idx1-ubyte", std::ios::binary) << labels;
    }
  }
  // Two steps an epoch; `extra` lines follow.
  std::string WriteJob(const std::string& run, int epochs, const std::string& extra = "") {
    const std::string path = folder_ + "/" + run + ".yaml";
    std::ofstream(path)
        << "name: small\nrun_dir: " << folder_ << "/" << run << "\ndata:\n  path: " << folder_
        << "/data\nmodel:\n  arch: swin_v1\n  image_size: 8\n  in_chans: 1\n  num_classes: 4\n"
           "  patch_size: 2\n  embed_dim: 8\n  depths: [1, 1]\n"
           "  num_heads: [2, 2]\n  window_size: 2\n"
           "train:\n  global_batch: 4\n  micro_batch: 2\n  eval_batch: 4\n"
           "  log_every_steps: 1\n  epochs: "
        << epochs << "\n"
        << extra;
    return path;
  }
  static void Replace(const std::string& file, const std::string& before,
                      const std::string& after) {
    std::string text = ReadAll(file);
    text.replace(text.find(before), before.size(), after);
    std::ofstream(file) << text;
  }
  Child Run(std::vector<std::string> arguments) { return Child(std::move(arguments), folder_); }
  Child Train(const std::string& job, const std::string& device, int ranks = 1) {
    std::vector<std::string> command = {kWorker, "--job", job, "--device", device};
    if (ranks > 1) {
      const std::vector<std::string> launcher = {"mpirun", "-np", std::to_string(ranks)};
      command.insert(command.begin(), launcher.begin(), launcher.end());
    }
    return Run(std::move(command));
  }
  // Of the steps that an attempt at a run has taken.
  std::vector<double> Losses(const std::string& run, int attempt = 1) {
    std::vector<double> losses;
    // The last line may not be whole yet.
    std::ifstream lines(folder_ + "/" + run + "/metrics/attempt-00" + std::to_string(attempt) +
                        ".jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto entry = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!entry.is_discarded() && entry.contains("loss")) losses.push_back(entry["loss"]);
    }
    return losses;
  }
  // Whether the attempt soon has taken so many steps.
  bool HaveSteps(const std::string& run, int attempt, size_t steps) {
    for (int i = 0; i < 600 && Losses(run, attempt).size() < steps; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return Losses(run, attempt).size() >= steps;
  }
  // Of the tensors in the last checkpoint of two epochs, whatever files they are in.
  std::map<std::string, std::string> Checksums(const std::string& run) {
    std::map<std::string, std::string> checksums;
    const auto manifest = nlohmann::json::parse(
        ReadAll(folder_ + "/" + run + "/checkpoints/attempt-001/step-00000004/manifest.json"));
    for (const auto& shard : manifest.at("shards")) {
      for (const auto& piece : shard.at("pieces")) {
        const std::string tensor = piece.at("tensor");
        if (tensor.starts_with("padding/")) continue;
        checksums[tensor + " " + piece.at("begin").dump()] = piece.at("xxh3_64").dump();
      }
    }
    EXPECT_FALSE(checksums.empty());
    return checksums;
  }
  void ExpectSameLosses(const std::string& run, const std::string& other) {
    const std::vector<double> losses = Losses(run), expected = Losses(other);
    ASSERT_FALSE(expected.empty());
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-3) << i;
  }

  std::string folder_;
};

TEST_F(CudaProgramsTest, TrainsOnAGpuAsOnTheCpu) {
  Child gpu = Train(WriteJob("gpu", 2), "cuda");
  ASSERT_EQ(gpu.Wait(), 0) << gpu.Err();
  EXPECT_THAT(gpu.Err(), HasSubstr("computes on emulated GPU, GPU 0"));
  Child cpu = Train(WriteJob("cpu", 2), "cpu");
  ASSERT_EQ(cpu.Wait(), 0) << cpu.Err();
  EXPECT_THAT(cpu.Err(), HasSubstr("computes on the CPU"));
  ExpectSameLosses("gpu", "cpu");
}

// It changes the bits, which the key to a checkpoint's bits says, and little more.
TEST_F(CudaProgramsTest, TrainsInTf32WhereTheJobSaysSo) {
  Child exact = Train(WriteJob("fp32", 2, "  matmul: fp32\n"), "cuda");
  ASSERT_EQ(exact.Wait(), 0) << exact.Err();
  const std::string job = WriteJob("tf32", 2, "  matmul: tf32\n");
  Child rounded = Train(job, "cuda");
  ASSERT_EQ(rounded.Wait(), 0) << rounded.Err();
  EXPECT_NE(Losses("tf32"), Losses("fp32"));
  ExpectSameLosses("tf32", "fp32");
  const std::string manifest = "/checkpoints/attempt-001/step-00000004/manifest.json";
  EXPECT_THAT(ReadAll(folder_ + "/tf32" + manifest), HasSubstr("emulated GPU in TF32"));
  EXPECT_THAT(ReadAll(folder_ + "/fp32" + manifest), Not(HasSubstr("TF32")));
  Child cpu = Train(WriteJob("tf32_cpu", 2, "  matmul: tf32\n"), "cpu");
  EXPECT_EQ(cpu.Wait(), 1);
  EXPECT_THAT(cpu.Err(), HasSubstr("and can't: train.matmul: tf32"));
}

// Parameters and the optimizer's state go through a checkpoint, and on elsewhere.
TEST_F(CudaProgramsTest, ResumesFromTheOtherDevice) {
  Child whole = Train(WriteJob("whole", 2), "cpu");
  ASSERT_EQ(whole.Wait(), 0) << whole.Err();
  for (const auto& [first, second] :
       {std::pair<std::string, std::string>{"cuda", "cpu"}, {"cpu", "cuda"}}) {
    const std::string run = "from_" + first;
    const std::string job = WriteJob(run, 2, "checkpoint: {every_steps: 2}\n");
    Child begun = Train(job, first);
    ASSERT_EQ(begun.Wait(), 0) << begun.Err();
    // As if it had ended there.
    for (const auto& entry :
         fs::directory_iterator(folder_ + "/" + run + "/checkpoints/attempt-001")) {
      if (entry.path().filename() != "step-00000002") fs::remove_all(entry.path());
    }
    Child resumed = Train(job, second);
    ASSERT_EQ(resumed.Wait(), 0) << resumed.Err();
    EXPECT_THAT(resumed.Err(), HasSubstr("will not have the same bits"));
    EXPECT_THAT(resumed.Err(), HasSubstr("step-00000002"));
    const std::vector<double> losses = Losses(run, /*attempt=*/2), expected = Losses("whole");
    ASSERT_EQ(expected.size(), 4u);
    ASSERT_EQ(losses.size(), 2u);
    EXPECT_NEAR(losses[0], expected[2], 1e-3) << first;
    EXPECT_NEAR(losses[1], expected[3], 1e-3) << first;
  }
}

// The state of a step is copied beside the next ones, and yet none of theirs.
TEST_F(CudaProgramsTest, ResumesToTheBit) {
  const struct {
    int ranks;
    int stage;
    std::string dtype;
  } cases[] = {{1, 0, "fp32"}, {1, 1, "bf16"}, {2, 0, "bf16"},
               {2, 1, "fp32"}, {2, 2, "fp16"}, {2, 3, "bf16"}};
  for (const auto& c : cases) {
    const std::string run = c.dtype + "_" + std::to_string(c.ranks) + std::to_string(c.stage);
    SCOPED_TRACE(run);
    const std::string job =
        WriteJob(run, 2,
                 "  dtype: " + c.dtype + "\nparallel: {zero_stage: " + std::to_string(c.stage) +
                     "}\ncheckpoint: {every_steps: 1}\n");
    Child whole = Train(job, "cuda", c.ranks);
    ASSERT_EQ(whole.Wait(120), 0) << whole.Err();
    const std::string checkpoints = folder_ + "/" + run + "/checkpoints/attempt-001";
    ASSERT_TRUE(fs::exists(checkpoints + "/step-00000002/manifest.json")) << whole.Err();
    // As if it had ended there.
    for (const auto& entry : fs::directory_iterator(checkpoints)) {
      if (entry.path().filename() != "step-00000002") fs::remove_all(entry.path());
    }
    Child resumed = Train(job, "cuda", c.ranks);
    ASSERT_EQ(resumed.Wait(120), 0) << resumed.Err();
    const std::vector<double> losses = Losses(run, /*attempt=*/2), expected = Losses(run);
    ASSERT_EQ(expected.size(), 4u);
    EXPECT_EQ(losses, (std::vector<double>{expected[2], expected[3]}));
  }
}

// Neither losses nor checkpoints depend on where the optimizer's state is, and a run goes on with
// it elsewhere.
TEST_F(CudaProgramsTest, OffloadedStateChangesNoBit) {
  const auto settings = [](int stage, const std::string& offload) {
    return "  dtype: bf16\nparallel: {zero_stage: " + std::to_string(stage) + offload +
           "}\ncheckpoint: {every_steps: 1}\n";
  };
  const std::string disk = ", offload: disk, offload_dir: " + folder_ + "/scratch";
  const struct {
    int ranks;
    int stage;
    std::string offload;
    // Of the run that goes on.
    std::string then;
  } cases[] = {{1, 0, ", offload: host", disk},
               {2, 1, disk, ""},
               {2, 3, ", offload: host", ", offload: host"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.stage);
    const std::string whole = "whole" + std::to_string(c.stage);
    Child expected = Train(WriteJob(whole, 2, settings(c.stage, "")), "cuda", c.ranks);
    ASSERT_EQ(expected.Wait(120), 0) << expected.Err();
    ASSERT_EQ(Losses(whole).size(), 4u);
    const std::string run = "run" + std::to_string(c.stage);
    Child begun = Train(WriteJob(run, 2, settings(c.stage, c.offload)), "cuda", c.ranks);
    ASSERT_EQ(begun.Wait(120), 0) << begun.Err();
    EXPECT_EQ(Losses(run), Losses(whole));
    EXPECT_EQ(Checksums(run), Checksums(whole));
    // As if it had ended before.
    const std::string checkpoints = folder_ + "/" + run + "/checkpoints/attempt-001";
    for (const auto& entry : fs::directory_iterator(checkpoints)) {
      if (entry.path().filename() != "step-00000002") fs::remove_all(entry.path());
    }
    Child resumed = Train(WriteJob(run, 2, settings(c.stage, c.then)), "cuda", c.ranks);
    ASSERT_EQ(resumed.Wait(120), 0) << resumed.Err();
    EXPECT_EQ(Losses(run, /*attempt=*/2),
              (std::vector<double>{Losses(whole)[2], Losses(whole)[3]}));
  }
}

TEST_F(CudaProgramsTest, StateThatCantBeOffloadedToTheHostIsAnError) {
  const std::string job = WriteJob("host", 1, "parallel: {offload: host}\n");
  setenv("SWINFLEET_CUDA_FAULT", "pinning", 1);
  Child pinning = Train(job, "cuda");
  const int code = pinning.Wait();
  unsetenv("SWINFLEET_CUDA_FAULT");
  EXPECT_EQ(code, 1);
  EXPECT_THAT(pinning.Err(), HasSubstr("can't be pinned"));
  EXPECT_THAT(pinning.Err(), HasSubstr("offloaded state"));
  Child cpu = Train(job, "cpu");
  EXPECT_EQ(cpu.Wait(), 1);
  EXPECT_THAT(cpu.Err(), HasSubstr("would compute on the CPU, and can't: parallel.offload: host"));
  SetMachine("0");
  Child none = Train(job, "auto");
  EXPECT_EQ(none.Wait(), 1);
  EXPECT_THAT(none.Err(), HasSubstr("because there is no GPU"));
  EXPECT_THAT(none.Err(), HasSubstr("and can't: parallel.offload: host"));
  SetMachine("2");
  const std::string program = SWINFLEET_EMULATED_DIR "/swinfleet-bench";
  Child bench = Run({program, "step", "--job", job, "--device", "cpu"});
  EXPECT_NE(bench.Wait(), 0);
  EXPECT_THAT(bench.Err(), HasSubstr("parallel.offload: host"));
}

// A copy of the update that fails ends the attempt; the next one goes on from the last checkpoint.
TEST_F(CudaProgramsTest, AnUpdateThatFailsEndsTheAttempt) {
  Child whole = Train(WriteJob("undisturbed", 2), "cuda");
  EXPECT_EQ(whole.Wait(), 0) << whole.Err();
  for (const std::string offload : {"host", "disk"}) {
    SCOPED_TRACE(offload);
    const std::string dir = offload == "disk" ? ", offload_dir: " + folder_ + "/scratch" : "";
    const std::string job = WriteJob(
        offload, 2, "parallel: {offload: " + offload + dir + "}\ncheckpoint: {every_steps: 1}\n");
    setenv("SWINFLEET_CUDA_FAULT", "copy", 1);
    Child failed = Train(job, "cuda");
    const int code = failed.Wait();
    unsetenv("SWINFLEET_CUDA_FAULT");
    EXPECT_NE(code, 0);
    EXPECT_THAT(failed.Err(), HasSubstr("CUDA: "));
    Child again = Train(job, "cuda");
    EXPECT_EQ(again.Wait(), 0) << again.Err();
    EXPECT_EQ(Losses(offload, 2), Losses("undisturbed"));
  }
}

// Whether the call fails, or the copy itself.
TEST_F(CudaProgramsTest, ACopyThatFailsIsASaveThatFails) {
  for (const std::string fault : {"copying", "copy"}) {
    SCOPED_TRACE(fault);
    setenv("SWINFLEET_CUDA_FAULT", fault.c_str(), 1);
    Child training = Train(WriteJob(fault, 2, "checkpoint: {every_steps: 1}\n"), "cuda");
    const int code = training.Wait();
    unsetenv("SWINFLEET_CUDA_FAULT");
    ASSERT_EQ(code, 0) << training.Err();
    EXPECT_THAT(training.Err(),
                HasSubstr("the checkpoint of step 1 was not saved: rank 0: CUDA: "));
    EXPECT_THAT(training.Err(), Not(HasSubstr("the checkpoint of step 2 was not saved")));
    const std::string checkpoints = folder_ + "/" + fault + "/checkpoints/attempt-001";
    EXPECT_FALSE(fs::exists(checkpoints + "/step-00000001"));
    EXPECT_TRUE(fs::exists(checkpoints + "/step-00000004/manifest.json"));
  }
}

TEST_F(CudaProgramsTest, WithoutPinnedMemorySavesHoldTheTraining) {
  setenv("SWINFLEET_CUDA_FAULT", "pinning", 1);
  Child training = Train(WriteJob("unpinned", 1, "checkpoint: {every_steps: 1}\n"), "cuda");
  const int code = training.Wait();
  unsetenv("SWINFLEET_CUDA_FAULT");
  ASSERT_EQ(code, 0) << training.Err();
  EXPECT_THAT(training.Err(), HasSubstr("can't be pinned for copies from the GPU"));
  EXPECT_THAT(training.Err(), HasSubstr("each save holds the training"));
  for (const char* step : {"1", "2"}) {
    EXPECT_TRUE(fs::exists(folder_ + "/unpinned/checkpoints/attempt-001/step-0000000" + step +
                           "/manifest.json"));
  }
}

TEST_F(CudaProgramsTest, RanksTakeGpusOfTheirOwn) {
  const std::string extra = "parallel: {zero_stage: 3}\n";
  Child gpus = Train(WriteJob("gpus", 1, extra), "auto", 2);
  ASSERT_EQ(gpus.Wait(120), 0) << gpus.Err();
  EXPECT_THAT(gpus.Err(), HasSubstr("computes on emulated GPU, GPU 0"));
  EXPECT_THAT(gpus.Err(), HasSubstr("computes on emulated GPU, GPU 1"));
  Child cpus = Train(WriteJob("cpus", 1, extra), "cpu", 2);
  ASSERT_EQ(cpus.Wait(120), 0) << cpus.Err();
  ExpectSameLosses("gpus", "cpus");
}

// The processes of the workers under mpirun, in the order of their ranks.
std::vector<pid_t> WorkersOf(pid_t launcher) {
  std::map<std::string, pid_t> by_rank;
  std::ifstream children("/proc/" + std::to_string(launcher) + "/task/" + std::to_string(launcher) +
                         "/children");
  for (pid_t child = 0; children >> child;) {
    const std::string environment = ReadAll("/proc/" + std::to_string(child) + "/environ");
    const std::string name = "OMPI_COMM_WORLD_RANK=";
    const size_t at = environment.find(name);
    if (at == std::string::npos) continue;
    by_rank[environment.c_str() + at + name.size()] = child;
  }
  std::vector<pid_t> workers;
  for (const auto& [rank, process] : by_rank) workers.push_back(process);
  return workers;
}

// A rank that takes no part any more: the other one's GPU would wait for ever.
TEST_F(CudaProgramsTest, AStoppedRankEndsARunWhichThenGoesOn) {
  // It is to stop in a step that doesn't follow a save or an evaluation: those have 120 s.
  const std::string job = WriteJob("stopped", 300,
                                   "  eval_every_epochs: 0\nparallel: {zero_stage: 3}\n"
                                   "checkpoint: {every_steps: 20}\n");
  Child training = Train(job, "cuda", 2);
  ASSERT_TRUE(HaveSteps("stopped", 1, 24)) << training.Err();
  const std::vector<pid_t> workers = WorkersOf(training.pid());
  ASSERT_EQ(workers.size(), 2u);
  kill(workers[1], SIGSTOP);
  EXPECT_EQ(training.Wait(60), 4) << training.Err();
  EXPECT_THAT(training.Err(), HasSubstr("rank 0 has waited 10 s in collective "));
  EXPECT_THAT(training.Err(), Not(HasSubstr("the GPU does not end what it waits for")));
  const auto flight = nlohmann::json::parse(
      ReadAll(folder_ + "/stopped/flight/attempt-001/rank-00000.json"), nullptr, false);
  ASSERT_FALSE(flight.is_discarded());
  EXPECT_EQ(flight.at("in_collective"), true);
  EXPECT_GT(flight.at("seconds"), 9);
  // What it waits in is there, posted and begun, and has not ended.
  for (const auto& collective : flight.at("collectives")) {
    if (collective.at("sequence") != flight.at("collective")) continue;
    EXPECT_GT(collective.at("start"), 0);
    EXPECT_EQ(collective.at("end"), 0);
  }
  Child again = Train(job, "cuda", 2);
  EXPECT_TRUE(HaveSteps("stopped", 2, 2)) << again.Err();
  again.Signal(SIGTERM);
  again.Wait();
  EXPECT_THAT(again.Err(), HasSubstr("/stopped/checkpoints/attempt-001/step-"));
}

// Where a driver lets nobody in as long as a thread waits for the GPU, nothing of it can be asked
// or ended; the deadline stands.
TEST_F(CudaProgramsTest, AStoppedRankEndsARunAlsoWhereTheGpuAnswersNobody) {
  setenv("SWINFLEET_CUDA_FAULT", "silence", 1);
  Child training = Train(WriteJob("silent", 300,
                                  "  eval_every_epochs: 0\nparallel: {zero_stage: 3}\n"
                                  "checkpoint: {every_steps: 20}\n"),
                         "cuda", 2);
  unsetenv("SWINFLEET_CUDA_FAULT");
  ASSERT_TRUE(HaveSteps("silent", 1, 24)) << training.Err();
  const std::vector<pid_t> workers = WorkersOf(training.pid());
  ASSERT_EQ(workers.size(), 2u);
  kill(workers[1], SIGSTOP);
  EXPECT_EQ(training.Wait(60), 4) << training.Err();
  EXPECT_THAT(training.Err(), HasSubstr("rank 0 has waited 10 s in collective "));
  EXPECT_THAT(training.Err(), HasSubstr("the GPU does not end what it waits for"));
}

TEST_F(CudaProgramsTest, ARankThatDiesEndsARunWhichThenGoesOn) {
  // Nearly always beside a save.
  const std::string job = WriteJob("died", 300, "checkpoint: {every_steps: 1}\n");
  Child training = Train(job, "cuda", 2);
  ASSERT_TRUE(HaveSteps("died", 1, 6)) << training.Err();
  const std::vector<pid_t> workers = WorkersOf(training.pid());
  ASSERT_EQ(workers.size(), 2u) << training.Err();
  kill(workers[1], SIGKILL);
  EXPECT_GT(training.Wait(60), 0) << training.Err();
  Child again = Train(job, "cuda", 2);
  EXPECT_TRUE(HaveSteps("died", 2, 2)) << again.Err();
}

TEST_F(CudaProgramsTest, WhatCantBeHadIsAnErrorOrLeavesTheCpu) {
  const struct {
    std::string machine;
    int ranks;
    std::string reason;
  } cases[] = {{"0", 1, "there is no GPU"},
               {"old driver", 1, "the NVIDIA driver is for CUDA 11.4, older than CUDA"},
               {"1", 2, "belong to other ranks of its host"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.machine);
    SetMachine(c.machine);
    Child asked = Train(WriteJob("asked", 1), "cuda", c.ranks);
    EXPECT_EQ(asked.Wait(), 1) << asked.Err();
    EXPECT_THAT(asked.Err(), HasSubstr("--device cuda: "));
    EXPECT_THAT(asked.Err(), HasSubstr(c.reason));
    EXPECT_FALSE(fs::exists(folder_ + "/asked"));
  }
  // One rank needs no NCCL, two do.
  const std::string without_nccl = folder_ + "/lib";
  fs::create_directory(without_nccl);
  fs::create_symlink(SWINFLEET_EMULATED_DIR "/../lib/libcuda.so.1", without_nccl + "/libcuda.so.1");
  std::ofstream(without_nccl + "/libnccl.so.2") << "none";
  setenv("LD_LIBRARY_PATH", without_nccl.c_str(), 1);
  SetMachine("2");
  Child one = Train(WriteJob("one", 1), "cuda");
  EXPECT_EQ(one.Wait(), 0) << one.Err();
  Child two = Train(WriteJob("asked", 1), "cuda", 2);
  EXPECT_EQ(two.Wait(), 1) << two.Err();
  EXPECT_THAT(two.Err(), HasSubstr("exchange through NCCL, which can't be opened: "));
  SetMachine("1");
  unsetenv("LD_LIBRARY_PATH");
  Child without = Train(WriteJob("asked", 1), "cuda");
  EXPECT_EQ(without.Wait(), 1);
  EXPECT_THAT(without.Err(), HasSubstr("--device cuda: there is no NVIDIA driver"));
  SetDriver();
  SetMachine("1");
  Child left = Train(WriteJob("left", 1), "auto", 2);
  EXPECT_EQ(left.Wait(120), 0) << left.Err();
  EXPECT_THAT(left.Err(), HasSubstr("computes on the CPU, because rank 1: "));
}

TEST_F(CudaProgramsTest, AJobThatIsNotForGpusIsAnErrorOrTakesTheCpu) {
  const std::string budget = WriteJob("budget", 1, "memory: {budget: 2GiB}\n");
  const std::string heads = WriteJob("heads", 1);
  Replace(heads, "embed_dim: 8", "embed_dim: 68");
  Replace(heads, "num_heads: [2, 2]", "num_heads: [1, 2]");
  const std::pair<std::string, std::string> cases[] = {{budget, "memory.budget"},
                                                       {heads, "more than 64 channels"}};
  for (const auto& [job, reason] : cases) {
    SCOPED_TRACE(reason);
    Child asked = Train(job, "cuda");
    EXPECT_EQ(asked.Wait(), 1);
    EXPECT_THAT(asked.Err(), HasSubstr("can't be computed on GPUs"));
    EXPECT_THAT(asked.Err(), HasSubstr(reason));
  }
  Child left = Train(heads, "auto");
  EXPECT_EQ(left.Wait(), 0) << left.Err();
  EXPECT_THAT(left.Err(), HasSubstr("computes on the CPU, because a head of its attention"));
}

TEST_F(CudaProgramsTest, AModelThatIsTooLargeSaysWhatThereIs) {
  const std::string job = WriteJob("large", 1);
  Replace(job, "embed_dim: 8", "embed_dim: 2048");
  Replace(job, "num_heads: [2, 2]", "num_heads: [32, 64]");
  Child child = Train(job, "cuda");
  EXPECT_EQ(child.Wait(), 1);
  EXPECT_THAT(child.Err(), HasSubstr("of memory needed on the GPU, which has"));
}

TEST_F(CudaProgramsTest, BenchTimesStepsOnAGpu) {
  const std::string job = WriteJob("bench", 1);
  const std::string bench = SWINFLEET_EMULATED_DIR "/swinfleet-bench";
  Child step = Run({bench, "step", "--job", job, "--steps", "2", "--device", "cuda", "--json"});
  ASSERT_EQ(step.Wait(), 0) << step.Err();
  const std::string out = step.Out();
  const auto figures = nlohmann::json::parse(out.substr(out.rfind('{', out.size() - 3)));
  EXPECT_EQ(figures.at("device"), "cuda");
  EXPECT_EQ(figures.at("matmul"), "fp32");
  EXPECT_EQ(figures.at("instruction_set"), "emulated GPU");
  EXPECT_FALSE(figures.contains("gemm_share"));
  const std::vector<std::string> in_tf32 = {
      bench, "step", "--model", "swin_tiny_patch4_window7_224", "--matmul", "tf32"};
  Child on_cpu = Run(in_tf32);
  EXPECT_NE(on_cpu.Wait(), 0);
  EXPECT_THAT(on_cpu.Err(), HasSubstr("train.matmul: tf32 is arithmetic of GPUs"));
  Child in_bf16 = Run({bench, "step", "--matmul", "tf32", "--dtype", "bf16", "--device", "cuda"});
  EXPECT_NE(in_bf16.Wait(), 0);
  EXPECT_THAT(in_bf16.Err(), HasSubstr("--matmul tf32 is for --dtype fp32"));
}

// The events of a trace by row and category, and the rows' names.
struct TraceRows {
  explicit TraceRows(const std::string& path) {
    const auto trace = nlohmann::json::parse(ReadAll(path));
    for (const auto& event : trace.at("traceEvents")) {
      const int row = event.at("tid");
      if (event.at("name") == "thread_name") names[row] = event.at("args").at("name");
      if (event.at("ph") == "X") events[{row, event.at("cat")}].push_back(event);
    }
  }
  std::map<int, std::string> names;
  std::map<std::pair<int, std::string>, std::vector<nlohmann::json>> events;
};

TEST_F(CudaProgramsTest, BenchProfilesStepsOnAGpu) {
  const std::string job = WriteJob("profile", 1), trace = folder_ + "/trace.json";
  const std::string bench = SWINFLEET_EMULATED_DIR "/swinfleet-bench";
  Child step = Run({bench, "step", "--job", job, "--steps", "2", "--device", "cuda", "--profile",
                    "--trace", trace, "--json"});
  ASSERT_EQ(step.Wait(120), 0) << step.Err();
  const std::string out = step.Out();
  EXPECT_THAT(out, HasSubstr("\n| operation"));
  EXPECT_THAT(out, HasSubstr("\n| stage 0 blocks attn, forward"));
  EXPECT_THAT(out, HasSubstr("the GPU outside of operations"));
  const auto figures = nlohmann::json::parse(out.substr(out.rfind("\n{", out.size() - 3)));
  EXPECT_GT(figures.at("gemm_share"), 0);
  EXPECT_FALSE(figures.contains("handover_ns"));
  const auto& profile = figures.at("profile");
  double seconds = 0;
  for (const auto& row : profile.at("operations")) {
    EXPECT_GT(row.at("seconds"), 0) << row;
    EXPECT_GT(row.at("limit_seconds"), 0) << row;
    seconds += row.at("seconds").get<double>();
  }
  EXPECT_LE(seconds, profile.at("step_s"));
  EXPECT_NEAR(seconds + profile.at("outside_s").get<double>(), profile.at("step_s"), 1e-9);
  // The emulator computes when the host waits.
  EXPECT_LT(profile.at("starting_s"), seconds);

  TraceRows rows(trace);
  EXPECT_EQ(rows.names, (std::map<int, std::string>{{1, "computing (GPU)"},
                                                    {3, "starting operations (host)"}}));
  const auto& calls = rows.events[{1, "op"}];
  EXPECT_EQ(calls.size(), profile.at("calls").get<size_t>());
  for (const auto& call : calls) {
    EXPECT_GT(call.at("args").at("limit_us"), 0);
    EXPECT_NE(call.at("args").at("module"), "");
  }
}

// Also what ranks exchange, when their GPUs did.
TEST_F(CudaProgramsTest, BenchTracesRanksOnGpus) {
  const std::string job = WriteJob("ranks", 1, "parallel: {zero_stage: 3}\n");
  const std::string trace = folder_ + "/trace.json";
  Child ranks = Run({"mpirun", "-np", "2", SWINFLEET_EMULATED_DIR "/swinfleet-bench", "ranks",
                     "--job", job, "--steps", "1", "--device", "cuda", "--trace", trace});
  ASSERT_EQ(ranks.Wait(120), 0) << ranks.Err();
  TraceRows rows(trace);
  EXPECT_EQ(rows.names[2], "communication");
  std::map<std::string, int> operations;
  const auto& collectives = rows.events[{2, "collective"}];
  for (const auto& event : collectives) ++operations[event.at("args").at("operation")];
  // Five units, each reduced once and gathered forward and backward.
  EXPECT_EQ(operations["reduce-scatter"], 5);
  EXPECT_GT(operations["all-gather"], 5);
  // What is added in a reduction is within it.
  const auto begin = [](const auto& event) { return event.at("ts").template get<double>(); };
  const auto end = [&](const auto& event) {
    return begin(event) + event.at("dur").template get<double>();
  };
  const auto& additions = rows.events[{2, "op"}];
  EXPECT_GE(additions.size(), 5u);
  for (const auto& addition : additions) {
    int around = 0;
    for (const auto& event : collectives) {
      if (begin(event) - 1e-3 <= begin(addition) && end(addition) <= end(event) + 1e-3) ++around;
    }
    EXPECT_EQ(around, 1) << addition;
  }
}

}  // namespace
}  // namespace swinfleet
