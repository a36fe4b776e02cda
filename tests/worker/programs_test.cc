// The worker's programs as their users meet them: exit codes, messages, files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/run_folder.h"
#include "core/checkpoint/safetensors.h"
#include "core/nn/model.h"
#include "proto/job_yaml.h"
#include "tests/worker/child.h"
#include "tests/worker/fake_coordinator.h"
#include "worker/config_from_proto.h"
#include "worker/job_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

std::string Program(const std::string& name) {
  return std::string(SWINFLEET_BIN_DIR) + "/swinfleet-" + name;
}

class ProgramsTest : public testing::Test {
 protected:
  ProgramsTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-worker-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    // mpirun refuses root and fewer cores than ranks otherwise.
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                             "OMPI_MCA_rmaps_base_oversubscribe"}) {
      setenv(name, "1", 1);
    }
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
  }
  ~ProgramsTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  // 64 pictures of 16 x 16 and their labels, for both splits.
  std::string WriteData() {
    const std::string data = folder_ + "/data";
    fs::create_directory(data);
    for (const std::string split : {"train", "t10k"}) {
      std::string images("\0\0\x08\x03\0\0\0\x40\0\0\0\x10\0\0\0\x10", 16);
      std::string labels("\0\0\x08\x01\0\0\0\x40", 8);
      for (int i = 0; i < 64; ++i) {
        images += std::string(256, static_cast<char>(i));
        labels += static_cast<char>(i % 4);
      }
      std::ofstream(data + "/" + split + "-images-idx3-ubyte", std::ios::binary) << images;
      std::ofstream(data + "/" + split + "-labels-idx1-ubyte", std::ios::binary) << labels;
    }
    return data;
  }
  // A job that trains in moments, with `extra` lines under train.
  std::string JobText(const std::string& extra = "") {
    return "name: small\nrun_dir: " + folder_ + "/run\ndata:\n  path: " + folder_ +
           "/data\nmodel:\n  image_size: 16\n  in_chans: 1\n  num_classes: 4\n  patch_size: 2\n"
           "  embed_dim: 8\n  depths: [1, 1]\n  num_heads: [2, 4]\n  window_size: 4\n"
           "train:\n  epochs: 2\n  global_batch: 16\n  micro_batch: 8\n  eval_batch: 16\n"
           "  log_every_steps: 1\n" +
           extra;
  }
  Child Run(std::vector<std::string> arguments) { return Child(std::move(arguments), folder_); }

  std::string folder_;
};

// ---- swinfleet-plan ----

TEST_F(ProgramsTest, PlanDescribesAJobThatCanRun) {
  const std::string job = Write("job.yaml", JobText());
  Child check = Run({Program("plan"), "--check", job});
  EXPECT_EQ(check.Wait(), 0) << check.Err();
  EXPECT_THAT(check.Out(), HasSubstr("can run"));
  EXPECT_THAT(check.Out(), Not(HasSubstr("layers.0.blocks.0")));
  Child full = Run({Program("plan"), job});
  EXPECT_EQ(full.Wait(), 0);
  EXPECT_THAT(full.Out(), HasSubstr("layers.0.blocks.0"));
  Child json = Run({Program("plan"), job, "--json", "--ranks", "2"});
  EXPECT_EQ(json.Wait(), 0);
  const auto plan = nlohmann::json::parse(json.Out());
  EXPECT_TRUE(plan.at("ok"));
  EXPECT_EQ(plan.at("ranks"), 2);
  int64_t total = 0;
  for (const auto& unit : plan.at("units")) total += unit.at("parameters").get<int64_t>();
  EXPECT_EQ(plan.at("parameters"), total);
}

TEST_F(ProgramsTest, PlanKnowsTheParametersOfTheOfficialTinyModel) {
  const std::string job = Write(
      "job.yaml", "run_dir: /r\ndata: {path: /d}\nmodel: {preset: swinv2_tiny_window8_256}\n");
  Child json = Run({Program("plan"), job, "--json"});
  EXPECT_EQ(json.Wait(), 0) << json.Err();
  // timm's count for this model.
  EXPECT_EQ(nlohmann::json::parse(json.Out()).at("parameters"), 28347154);
}

TEST_F(ProgramsTest, PlanNamesEveryProblemOnALineOfItsOwn) {
  const std::string job = Write("job.yaml", JobText("  dtype: fp8\n  epochs: 0\n"));
  Child twice = Run({Program("plan"), "--check", job});
  EXPECT_EQ(twice.Wait(), 2);
  EXPECT_THAT(twice.Err(), HasSubstr("job.yaml:"));  // epochs is there twice
  std::string text = JobText("  dtype: fp8\n");
  text.replace(text.find("window_size: 4"), 14, "window_size: 0");
  const std::string bad = Write("bad.yaml", text);
  Child check = Run({Program("plan"), "--check", bad, "--json"});
  EXPECT_EQ(check.Wait(), 2);
  EXPECT_THAT(check.Err(), HasSubstr("bad.yaml: train.dtype"));
  EXPECT_THAT(check.Err(), HasSubstr("bad.yaml: model.window_size"));
  const auto plan = nlohmann::json::parse(check.Out());
  EXPECT_FALSE(plan.at("ok"));
  EXPECT_EQ(plan.at("problems").size(), 2u);
}

TEST_F(ProgramsTest, PlanSurvivesSizesThatAreNone) {
  const std::string job = Write("job.yaml",
                                "run_dir: /r\ndata: {path: /d}\n"
                                "model: {arch: vit, patch_size: 0, window_size: 14, depths: [1],"
                                " num_heads: [2], patch_norm: false}\n");
  Child check = Run({Program("plan"), "--check", job});
  EXPECT_EQ(check.Wait(), 2);
  EXPECT_THAT(check.Err(), HasSubstr("model.patch_size is 0"));
}

TEST_F(ProgramsTest, PlanRefusesBadUsage) {
  EXPECT_EQ(Run({Program("plan")}).Wait(), 2);
  EXPECT_EQ(Run({Program("plan"), folder_ + "/none.yaml"}).Wait(), 2);
  const std::string job = Write("job.yaml", JobText());
  EXPECT_EQ(Run({Program("plan"), job, "--ranks", "0"}).Wait(), 2);
  EXPECT_EQ(Run({Program("plan"), job, "--ranks", "3"}).Wait(), 2);  // 2 micro-batches
  EXPECT_EQ(Run({Program("plan"), "--nonsense", job}).Wait(), 2);
  EXPECT_EQ(Run({Program("plan"), "--help"}).Wait(), 0);
}

// ---- swinfleet-import and swinfleet-export ----

class WeightsTest : public ProgramsTest {
 protected:
  // A weights file for the model of JobText, and what is in it.
  std::string WriteWeights(bool leave_one_out = false) {
    JobSpec spec;
    JobConfig config;
    EXPECT_TRUE(ParseJobYaml(JobText(), "job.yaml", &spec).ok());
    EXPECT_TRUE(ConfigFromProto(spec, 0, &config).empty());
    const std::unique_ptr<Model> model = MakeModel(config.model, config.pretrain, config.memory);
    std::vector<TensorSpec> specs;
    for (const ParameterInfo& info : model->parameters().parameters()) {
      if (leave_one_out && info.name == "head.bias") continue;
      specs.push_back({info.name, "F32", info.shape});
    }
    const std::string path = folder_ + "/weights.safetensors";
    SafetensorsWriter writer(path, specs, {});
    float next = 0;
    for (const TensorSpec& tensor : specs) {
      std::vector<float>& values = values_[tensor.name];
      values.resize(tensor.shape.NumElements());
      for (float& value : values) value = (next += 0.25f);
      writer.Write(tensor.name, 0, std::span<const float>(values));
    }
    writer.Finish();
    return path;
  }

  std::map<std::string, std::vector<float>> values_;
};

TEST_F(WeightsTest, GoInAndComeOutUnchanged) {
  const std::string weights = WriteWeights();
  const std::string job = Write("job.yaml", JobText());
  const std::string run = folder_ + "/run";
  Child report = Run({Program("import"), weights, "--job", job});
  EXPECT_EQ(report.Wait(), 0) << report.Err();
  EXPECT_FALSE(fs::exists(run));
  Child import = Run({Program("import"), weights, "--job", job, "--out", run});
  ASSERT_EQ(import.Wait(), 0) << import.Err();
  Child again = Run({Program("import"), weights, "--job", job, "--out", run});
  EXPECT_EQ(again.Wait(), 1);
  EXPECT_THAT(again.Err(), HasSubstr("--force"));
  Child forced = Run({Program("import"), weights, "--job", job, "--out", run, "--force"});
  EXPECT_EQ(forced.Wait(), 0) << forced.Err();

  const std::string out = folder_ + "/out.safetensors";
  Child exported = Run({Program("export"), run, out});
  ASSERT_EQ(exported.Wait(), 0) << exported.Err();
  const SafetensorsFile file(out);
  EXPECT_EQ(file.tensors().size(), values_.size());
  for (const auto& [name, values] : values_) EXPECT_EQ(file.ReadF32(name), values) << name;
  EXPECT_EQ(file.metadata().at("step"), "0");
}

TEST_F(WeightsTest, AJobStartsFromThem) {
  const std::string weights = WriteWeights();
  WriteData();
  const std::string job = Write("job.yaml", JobText());
  const std::string run = folder_ + "/run";
  ASSERT_EQ(Run({Program("import"), weights, "--job", job, "--out", run}).Wait(), 0);
  Child train = Run({Program("worker"), "--job", job});
  EXPECT_EQ(train.Wait(), 0) << train.Err();
  EXPECT_THAT(train.Err(), HasSubstr("attempt-000/step-00000000"));
  // A run that has begun is not given other weights.
  Child late = Run({Program("import"), weights, "--job", job, "--out", run, "--force"});
  EXPECT_EQ(late.Wait(), 1);
  EXPECT_THAT(late.Err(), HasSubstr("has begun already"));
}

TEST_F(WeightsTest, WhatMayBeLeftOutIsLeftOutOfSomething) {
  const std::string weights = WriteWeights(/*leave_one_out=*/true);
  WriteData();
  std::string text = JobText();
  text.insert(text.find("train:"), "  init_skip: [\"head.bias\"]\n");
  const std::string job = Write("job.yaml", text);
  const std::string run = folder_ + "/run", other = folder_ + "/other";
  ASSERT_EQ(Run({Program("import"), weights, "--job", job, "--out", run}).Wait(), 0);
  Child train = Run({Program("worker"), "--job", job});
  EXPECT_EQ(train.Wait(), 0) << train.Err();
  Child random = Run({Program("worker"), "--job", job, "--run-dir", other});
  EXPECT_EQ(random.Wait(), 1);
  EXPECT_THAT(random.Err(), HasSubstr("model.init_skip is set"));
  EXPECT_THAT(random.Err(), HasSubstr("imported start in " + other));
}

TEST_F(WeightsTest, AFileThatDoesNotFitIsReported) {
  const std::string weights = WriteWeights(/*leave_one_out=*/true);
  const std::string job = Write("job.yaml", JobText());
  Child import = Run({Program("import"), weights, "--job", job, "--out", folder_ + "/run"});
  EXPECT_EQ(import.Wait(), 1);
  EXPECT_THAT(import.Err(), HasSubstr("head.bias"));
  EXPECT_FALSE(fs::exists(folder_ + "/run"));
  Child none = Run({Program("import"), folder_ + "/none", "--job", job});
  EXPECT_EQ(none.Wait(), 1);
  EXPECT_THAT(none.Err(), HasSubstr(folder_ + "/none"));
  EXPECT_EQ(Run({Program("import"), weights}).Wait(), 2);
}

TEST_F(WeightsTest, TheWholeReportIsJson) {
  const std::string weights = WriteWeights();
  const std::string job = Write("job.yaml", JobText());
  Child good = Run({Program("import"), weights, "--job", job, "--json"});
  ASSERT_EQ(good.Wait(), 0) << good.Err();
  nlohmann::json report = nlohmann::json::parse(good.Out());
  EXPECT_EQ(report.at("ok"), true);
  EXPECT_EQ(report.at("file"), weights);
  EXPECT_TRUE(report.at("checkpoint").is_null());
  EXPECT_EQ(report.at("matched").size(), values_.size());
  EXPECT_GT(values_.size(), 20u) << "more than the text shows";
  EXPECT_TRUE(report.at("missing").empty());
  Child wrote =
      Run({Program("import"), weights, "--job", job, "--json", "--out", folder_ + "/run"});
  ASSERT_EQ(wrote.Wait(), 0) << wrote.Err();
  EXPECT_THAT(nlohmann::json::parse(wrote.Out()).at("checkpoint").get<std::string>(),
              HasSubstr(folder_ + "/run/checkpoints/"));

  WriteWeights(/*leave_one_out=*/true);
  Child bad = Run({Program("import"), weights, "--job", job, "--json"});
  EXPECT_EQ(bad.Wait(), 1);
  report = nlohmann::json::parse(bad.Out());
  EXPECT_EQ(report.at("ok"), false);
  EXPECT_EQ(report.at("missing"), nlohmann::json::array({"head.bias"}));
  // What there is no report of is said in words.
  Child none = Run({Program("import"), folder_ + "/none", "--job", job, "--json"});
  EXPECT_EQ(none.Wait(), 1);
  EXPECT_EQ(none.Out(), "");
  EXPECT_THAT(none.Err(), HasSubstr(folder_ + "/none"));
}

TEST_F(WeightsTest, ExportOverwritesOnlyWhatItIsToldTo) {
  const std::string weights = WriteWeights();
  const std::string job = Write("job.yaml", JobText());
  const std::string run = folder_ + "/run";
  ASSERT_EQ(Run({Program("import"), weights, "--job", job, "--out", run}).Wait(), 0);
  const std::string out = Write("precious", "precious");
  Child refused = Run({Program("export"), run, out});
  EXPECT_EQ(refused.Wait(), 1);
  EXPECT_THAT(refused.Err(), HasSubstr("--force"));
  EXPECT_EQ(ReadAll(out), "precious");
  Child forced = Run({Program("export"), run, out, "--force"});
  EXPECT_EQ(forced.Wait(), 0) << forced.Err();
  EXPECT_NE(ReadAll(out), "precious");
  const std::string nowhere = folder_ + "/no/such/folder/out";
  EXPECT_EQ(Run({Program("export"), run, nowhere}).Wait(), 1);
  EXPECT_FALSE(fs::exists(folder_ + "/no"));
  Child empty = Run({Program("export"), folder_, folder_ + "/x"});
  EXPECT_EQ(empty.Wait(), 1);
  EXPECT_THAT(empty.Err(), HasSubstr("neither manifest.json nor"));
  EXPECT_EQ(Run({Program("export"), folder_ + "/none", folder_ + "/x"}).Wait(), 1);
  EXPECT_EQ(Run({Program("export"), run}).Wait(), 2);
}

TEST_F(WeightsTest, ExportPassesOverABadCheckpoint) {
  const std::string weights = WriteWeights();
  const std::string job = Write("job.yaml", JobText());
  const std::string run = folder_ + "/run";
  ASSERT_EQ(Run({Program("import"), weights, "--job", job, "--out", run}).Wait(), 0);
  for (const auto& entry : fs::recursive_directory_iterator(run)) {
    if (entry.path().extension() == ".safetensors") {
      fs::resize_file(entry.path(), fs::file_size(entry.path()) - 1);
    }
  }
  Child exported = Run({Program("export"), run, folder_ + "/x"});
  EXPECT_EQ(exported.Wait(), 1);
  EXPECT_THAT(exported.Err(), HasSubstr("passed over checkpoint"));
  EXPECT_FALSE(fs::exists(folder_ + "/x"));
}

// ---- swinfleet-worker with a job file ----

TEST_F(ProgramsTest, WorkerRefusesBadUsage) {
  const std::string worker = Program("worker");
  EXPECT_EQ(Run({worker}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--version"}).Wait(), 0);
  EXPECT_EQ(Run({worker, "--coordinator", "nowhere"}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--coordinator", "host:0"}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--coordinator", "host:99999"}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--coordinator", "h:1", "--fleet", "a b"}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--coordinator", "h:1", "--job", "j.yaml"}).Wait(), 2);
  EXPECT_EQ(Run({worker, "--fleet", "a"}).Wait(), 2);
  Child pin = Run({worker, "--job", "j.yaml", "--pin", "on"});
  EXPECT_EQ(pin.Wait(), 2);
  EXPECT_THAT(pin.Err(), HasSubstr("--pin"));
}

TEST_F(ProgramsTest, WorkerNamesWhatIsWrongWithAJobFile) {
  const std::string worker = Program("worker");
  Child unknown = Run({worker, "--job", Write("a.yaml", JobText("  learning: 1\n"))});
  EXPECT_EQ(unknown.Wait(), 2);
  EXPECT_THAT(unknown.Err(), HasSubstr("a.yaml:20"));
  Child ranks = Run({worker, "--job", Write("b.yaml", JobText("parallel: {ranks: 2}\n"))});
  EXPECT_EQ(ranks.Wait(), 2);
  EXPECT_THAT(ranks.Err(), HasSubstr("parallel.ranks"));
  EXPECT_FALSE(fs::exists(folder_ + "/run"));
  Child path = Run({worker, "--job", Write("c.yaml", JobText())});
  EXPECT_EQ(path.Wait(), 1);
  EXPECT_THAT(path.Err(), HasSubstr(folder_ + "/data"));
}

// On a machine without a GPU, by a build without the CUDA backend too: an error with the reason
// where one is asked for, the CPU and a line with the same reason where it is left open.
TEST_F(ProgramsTest, WorkerSaysWhyThereIsNoGpu) {
  if (fs::exists("/dev/nvidiactl")) GTEST_SKIP() << "this machine has a GPU";
  WriteData();
  const bool has_backend =
      fs::exists(std::string(SWINFLEET_BIN_DIR) + "/../lib/libswinfleet_cuda.so");
  const std::string reason = has_backend ? "there is no NVIDIA driver on this machine"
                                         : "build with the CUDA toolkit, or install the library";
  const std::string job = Write("job.yaml", JobText());
  Child cuda = Run({Program("worker"), "--job", job, "--device", "cuda"});
  EXPECT_EQ(cuda.Wait(), 1);
  EXPECT_THAT(cuda.Err(), HasSubstr("--device cuda: "));
  EXPECT_THAT(cuda.Err(), HasSubstr(reason));
  Child open = Run({Program("worker"), "--job", job, "--device", "auto"});
  EXPECT_EQ(open.Wait(), 0) << open.Err();
  EXPECT_THAT(open.Err(), HasSubstr(reason));
}

// Without it the run would be another one, which its folder is not for.
TEST_F(ProgramsTest, WorkerGoesOnWithARunThatHasASettingWithoutEffect) {
  WriteData();
  const std::string job = Write("job.yaml", JobText("  optimizer: {momentum: 0.8}\n"));
  const std::string run = folder_ + "/run", message = "train.optimizer.momentum is set, and adamw";
  Child fresh = Run({Program("worker"), "--job", job});
  EXPECT_EQ(fresh.Wait(), 2);
  EXPECT_THAT(fresh.Err(), HasSubstr("job.yaml: " + message));
  EXPECT_FALSE(fs::exists(run));

  JobSpec spec;
  ASSERT_TRUE(ReadJobFile(job, &spec).ok());
  ClaimRunFolder(run, kLocalJobId, IdentityText(spec));
  Child started = Run({Program("worker"), "--job", job});
  EXPECT_EQ(started.Wait(), 0) << started.Err();
  EXPECT_THAT(started.Err(), HasSubstr("job.yaml: " + message));

  const std::string other = Write("other.yaml", JobText("  optimizer: {momentum: 0.7}\n"));
  EXPECT_EQ(Run({Program("worker"), "--job", other}).Wait(), 2);
  Write("run/run.json", "{");
  Child damaged = Run({Program("worker"), "--job", job});
  EXPECT_EQ(damaged.Wait(), 2);
  EXPECT_THAT(damaged.Err(), HasSubstr("run/run.json is damaged"));
}

TEST_F(ProgramsTest, WorkerTrainsAJobFileAndCanBeAskedAgain) {
  WriteData();
  const std::string job = Write("job.yaml", JobText());
  const std::string run = folder_ + "/other";
  Child train = Run({Program("worker"), "--job", job, "--run-dir", run});
  EXPECT_EQ(train.Wait(), 0) << train.Err();
  EXPECT_THAT(train.Err(), HasSubstr("epoch 2/2 step 8/8"));
  EXPECT_THAT(train.Err(), HasSubstr("done: "));
  EXPECT_FALSE(fs::exists(folder_ + "/run"));
  EXPECT_THAT(ReadAll(run + "/metrics/attempt-001.jsonl"), HasSubstr("\"input_wait_seconds\": "));
  Child again = Run({Program("worker"), "--job", job, "--run-dir", run});
  EXPECT_EQ(again.Wait(), 0) << again.Err();
  Child exported = Run({Program("export"), run, folder_ + "/out.safetensors"});
  EXPECT_EQ(exported.Wait(), 0) << exported.Err();
}

TEST_F(ProgramsTest, WorkerStopsAtASignalWithACheckpoint) {
  WriteData();
  std::string text = JobText();
  text.replace(text.find("epochs: 2"), 9, "epochs: 900000");
  const std::string job = Write("job.yaml", text);
  Child train = Run({Program("worker"), "--job", job});
  ASSERT_TRUE(train.WaitForErr("step 3/"));
  train.Signal(SIGINT);
  EXPECT_EQ(train.Wait(), 130) << train.Err();
  EXPECT_THAT(train.Err(), HasSubstr("goes on from there"));
  Child exported = Run({Program("export"), folder_ + "/run", folder_ + "/out.safetensors"});
  EXPECT_EQ(exported.Wait(), 0) << exported.Err();
  Child resumed = Run({Program("worker"), "--job", job});
  ASSERT_TRUE(resumed.WaitForErr("going on from checkpoint"));
  resumed.Signal(SIGTERM);
  EXPECT_EQ(resumed.Wait(), 130) << resumed.Err();
}

TEST_F(ProgramsTest, RanksTrainAJobFile) {
  WriteData();
  const std::string job = Write("job.yaml", JobText());
  Child train = Run({"mpirun", "-np", "2", Program("worker"), "--job", job});
  EXPECT_EQ(train.Wait(), 0) << train.Err();
  EXPECT_THAT(train.Err(), HasSubstr("step 8/8"));
  EXPECT_THAT(train.Err(), HasSubstr("2 ranks share "));
  EXPECT_THAT(train.Err(), HasSubstr("threads a rank: "));
  Child anywhere = Run({"mpirun", "-np", "2", Program("worker"), "--job", job, "--run-dir",
                        folder_ + "/anywhere", "--pin", "off"});
  EXPECT_EQ(anywhere.Wait(), 0) << anywhere.Err();
  EXPECT_THAT(anywhere.Err(), HasSubstr("--pin is off"));
  Child bad = Run({"mpirun", "-np", "3", Program("worker"), "--job", job});
  EXPECT_EQ(bad.Wait(), 2) << bad.Err();
}

// ---- swinfleet-worker with a coordinator ----

bool IsHeartbeat(const WorkerMessage& message) { return message.has_heartbeat(); }

// Processor seconds of a process so far.
double CpuSeconds(uint32_t pid) {
  const std::string stat = ReadAll("/proc/" + std::to_string(pid) + "/stat");
  std::istringstream fields(stat.substr(stat.rfind(')') + 2));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

TEST_F(ProgramsTest, IdleRanksRegisterAndHardlyUseTheirCores) {
  FakeCoordinator coordinator;
  coordinator.AnswerHello(FakeCoordinator::Welcome(0.5));
  Child fleet =
      Run({"mpirun", "-np", "2", Program("worker"), "--coordinator", coordinator.address()});
  WorkerMessage hellos[2];
  for (uint32_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(coordinator.WaitFor(
        [rank](const WorkerMessage& m) { return m.has_hello() && m.hello().rank() == rank; }, 0,
        &hellos[rank], 30))
        << fleet.Err();
    EXPECT_EQ(hellos[rank].hello().world_size(), 2u);
  }
  EXPECT_EQ(hellos[0].hello().launch_id(), hellos[1].hello().launch_id());
  EXPECT_EQ(hellos[0].hello().launch_id().size(), 36u);
  EXPECT_EQ(hellos[0].hello().fleet(), hellos[1].hello().fleet());
  EXPECT_THAT(hellos[0].hello().fleet(), HasSubstr("fleet-"));
  std::this_thread::sleep_for(500ms);
  const double before[2] = {CpuSeconds(hellos[0].hello().pid()),
                            CpuSeconds(hellos[1].hello().pid())};
  std::this_thread::sleep_for(4s);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_LE(CpuSeconds(hellos[rank].hello().pid()) - before[rank], 0.02 * 4) << "rank " << rank;
  }
  WorkerCommand command;
  command.mutable_shutdown()->set_reason("test");
  coordinator.Send(command);
  EXPECT_EQ(fleet.Wait(), 0) << fleet.Err();
}

TEST_F(ProgramsTest, AFleetTrainsOneJobAfterTheOther) {
  WriteData();
  FakeCoordinator coordinator;
  Child fleet = Run({"mpirun", "-np", "2", Program("worker"), "--coordinator",
                     coordinator.address(), "--fleet", "f1", "--launch-id", "l1"});
  for (uint32_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(coordinator.WaitFor(
        [rank](const WorkerMessage& m) {
          return m.has_hello() && m.hello().rank() == rank && m.hello().fleet() == "f1" &&
                 m.hello().launch_id() == "l1";
        },
        0, nullptr, 30))
        << fleet.Err();
  }
  for (const uint32_t ranks : {2u, 1u, 2u}) {
    const std::string job_id = "job-" + std::to_string(coordinator.Mark());
    std::string text = JobText();
    text.replace(text.find("/run\n"), 5, "/" + job_id + "\n");
    JobSpec spec;
    ASSERT_TRUE(ParseJobYaml(text, "job.yaml", &spec).ok());
    coordinator.SendAssignment(job_id, 1, spec, ranks);
    WorkerMessage message;
    ASSERT_TRUE(coordinator.WaitFor(
        [&job_id](const WorkerMessage& m) { return m.ended().job_id() == job_id; }, 0, &message,
        60))
        << fleet.Err();
    EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED) << message.ended().message();
    EXPECT_EQ(message.ended().progress().step(), 8u);
    coordinator.Acknowledge(job_id, 1);
    EXPECT_TRUE(coordinator.WaitFor([&job_id](const WorkerMessage& m) {
      return m.checkpoint().job_id() == job_id && m.checkpoint().step() == 8;
    }));
    EXPECT_TRUE(coordinator.WaitFor([&job_id](const WorkerMessage& m) {
      return m.log().job_id() == job_id && m.log().lines_size() > 0;
    }));
  }
  fleet.Signal(SIGTERM);
  EXPECT_NE(fleet.Wait(20), -1);
}

TEST_F(ProgramsTest, AWorkerThatIsToldToLeaveSavesAndReportsNoEnd) {
  WriteData();
  FakeCoordinator coordinator;
  Child worker = Run({Program("worker"), "--coordinator", coordinator.address()});
  ASSERT_TRUE(coordinator.WaitFor(IsHeartbeat, 0, nullptr, 30)) << worker.Err();
  std::string text = JobText();
  text.replace(text.find("epochs: 2"), 9, "epochs: 900000");
  JobSpec spec;
  ASSERT_TRUE(ParseJobYaml(text, "job.yaml", &spec).ok());
  coordinator.SendAssignment("job-1", 1, spec, 1);
  ASSERT_TRUE(coordinator.WaitFor(
      [](const WorkerMessage& m) { return m.progress().progress().step() >= 3; }));
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Wait(20), 143) << worker.Err();
  EXPECT_TRUE(coordinator.WaitFor([](const WorkerMessage& m) { return m.has_checkpoint(); }));
  EXPECT_EQ(coordinator.Count([](const WorkerMessage& m) { return m.has_ended(); }), 0);
}

TEST_F(ProgramsTest, AnIdleWorkerLeavesCleanly) {
  FakeCoordinator coordinator;
  Child worker = Run({Program("worker"), "--coordinator", coordinator.address()});
  ASSERT_TRUE(coordinator.WaitFor(IsHeartbeat, 0, nullptr, 30)) << worker.Err();
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Wait(5), 0) << worker.Err();
  // Also one whose coordinator was never there.
  const std::string address = coordinator.address();
  coordinator.Stop();
  Child lonely = Run({Program("worker"), "--coordinator", address});
  ASSERT_TRUE(lonely.WaitForErr("waiting for the coordinator at " + address));
  lonely.Signal(SIGTERM);
  EXPECT_EQ(lonely.Wait(5), 0) << lonely.Err();
}

TEST_F(ProgramsTest, ARefusedWorkerEnds) {
  FakeCoordinator coordinator;
  WorkerCommand command;
  command.mutable_rejected()->set_reason("this launch was fenced");
  coordinator.AnswerHello(command);
  Child worker = Run({Program("worker"), "--coordinator", coordinator.address()});
  EXPECT_EQ(worker.Wait(20), 3);
  EXPECT_THAT(worker.Err(), HasSubstr("this launch was fenced"));
  Child fleet =
      Run({"mpirun", "-np", "2", Program("worker"), "--coordinator", coordinator.address()});
  EXPECT_EQ(fleet.Wait(30), 3) << fleet.Err();
}

}  // namespace
}  // namespace swinfleet
