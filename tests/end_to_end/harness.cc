#include "tests/end_to_end/harness.h"

#include <stdlib.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSide = 12;
// Between two questions to the coordinator; each is a process of its own.
constexpr double kStatusPause = 0.2;

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

bool IsEnded(const std::string& state) {
  return state == "SUCCEEDED" || state == "FAILED" || state == "CANCELLED";
}

}  // namespace

// ---- Files ----

EndToEndTest::EndToEndTest() {
  std::string pattern = (fs::temp_directory_path() / "swinfleet-end-to-end-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no folder " + pattern);
  folder_ = pattern;
  // Debian's Open MPI refuses to run as root unless it is told twice.
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  // In a build with sanitizers: Open MPI itself leaks at its end.
  setenv("ASAN_OPTIONS", "detect_leaks=0", 0);
  // Open MPI's session folders and the like go where they are removed.
  if (const char* outer = getenv("TMPDIR")) outer_tmpdir_ = outer;
  fs::create_directory(Path("tmp"));
  setenv("TMPDIR", Path("tmp").c_str(), 1);
  WriteData("data");
}

EndToEndTest::~EndToEndTest() {
  processes_.KillAll();
  if (HasFailure()) Show();
  if (outer_tmpdir_) {
    setenv("TMPDIR", outer_tmpdir_->c_str(), 1);
  } else {
    unsetenv("TMPDIR");
  }
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

// The ends of all that the programs have said, for whoever looks into a failure.
void EndToEndTest::Show() const {
  constexpr size_t kShown = 4000;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    const std::string kind = entry.path().extension().string();
    if (kind != ".out" && kind != ".err" && kind != ".jsonl") continue;
    const std::string text = ReadFile(entry.path().string());
    if (text.empty()) continue;
    std::cerr << "==== " << entry.path().filename().string() << "\n"
              << text.substr(text.size() > kShown ? text.size() - kShown : 0) << "\n";
  }
}

std::string EndToEndTest::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream file(Path(name), std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file) throw std::runtime_error("can't write " + Path(name));
  return Path(name);
}

std::string EndToEndTest::WriteData(const std::string& name, int classes) const {
  fs::create_directory(Path(name));
  uint32_t random = 1;
  for (const auto& [split, count] : {std::pair("train", 256), std::pair("t10k", 96)}) {
    std::string images = BigEndian(0x803) + BigEndian(count) + BigEndian(kSide) + BigEndian(kSide);
    std::string labels = BigEndian(0x801) + BigEndian(count);
    for (int i = 0; i < count; ++i) {
      labels += static_cast<char>(i % classes);
      for (int pixel = 0; pixel < kSide * kSide; ++pixel) {
        random = random * 1664525 + 1013904223;
        images += static_cast<char>(55 * (i % classes) % 220 + static_cast<int>(random >> 27));
      }
    }
    Write(name + "/" + split + "-images-idx3-ubyte", images);
    Write(name + "/" + split + "-labels-idx1-ubyte", labels);
  }
  return Path(name);
}

std::string EndToEndTest::RunDir(const TestJob& job) const {
  return job.run_dir.empty() ? Path("runs/" + job.name) : job.run_dir;
}

std::string EndToEndTest::Yaml(const TestJob& job) const {
  const bool offloads = !job.offloaded_moments.empty();
  std::ostringstream yaml;
  yaml << "name: " << job.name << "\nrun_dir: " << RunDir(job)
       << "\nmodel:\n  image_size: 12\n  in_chans: 1\n  num_classes: 4\n  patch_size: 2\n"
          "  embed_dim: "
       << job.embed_dim
       << "\n  depths: [2, 1]\n  num_heads: [1, 2]\n  window_size: 3\n"
          "  mlp_ratio: 2\n  drop_path_rate: 0.1\n"
          "data:\n  path: "
       << (job.data_path.empty() ? Path("data") : job.data_path)
       << "\n  pad: 2\n  random_crop: true\n  flip: 0.5\n  mean: [0.4]\n  std: [0.3]\n"
          "train:\n  epochs: "
       << job.epochs
       << "\n  global_batch: 64\n  micro_batch: 8\n  seed: 7\n  eval_batch: 32\n"
          "  log_every_steps: 1\n  eval_every_epochs: "
       << job.eval_every_epochs << "\n  clip_grad_norm: " << job.clip_grad_norm
       << "\n  optimizer:\n    learning_rate: " << job.learning_rate
       << (offloads ? "\n    moments: " + job.offloaded_moments : "")
       << "\nparallel:\n  threads_per_rank: 1\n  zero_stage: " << job.zero_stage
       << (offloads ? "\n  offload: disk\n  offload_dir: " + Path("offload") : "")
       << "\n  ranks: " << job.ranks << "\ncheckpoint:\n  every_steps: " << job.checkpoint_every
       << "\n  keep_last: " << job.keep_last << "\n"
       << (job.schedule.empty() ? "" : "schedule: " + job.schedule + "\n");
  return yaml.str();
}

std::string EndToEndTest::WriteJob(const TestJob& job) const {
  return Write(job.name + ".yaml", Yaml(job));
}

// ---- Programs ----

std::string EndToEndTest::Program(const std::string& name) {
  return std::string(SWINFLEET_BIN_DIR) + "/" + name;
}

const Process& EndToEndTest::Start(const std::vector<std::string>& arguments) {
  const std::string name =
      std::to_string(started_.size()) + "-" + fs::path(arguments.front()).filename().string();
  started_.push_back(std::make_unique<Process>(arguments, folder_, name));
  return *started_.back();
}

std::vector<std::string> EndToEndTest::Mpirun(int ranks) {
  return {"mpirun", "--oversubscribe", "--bind-to", "none", "-np", std::to_string(ranks)};
}

std::vector<std::string> EndToEndTest::LocalCommand(const std::string& job_file, int ranks) {
  std::vector<std::string> command;
  if (ranks > 1) command = Mpirun(ranks);
  command.insert(command.end(), {Program("swinfleet-worker"), "--job", job_file});
  return command;
}

void EndToEndTest::TrainLocally(const TestJob& job, int ranks) {
  const Process& training = Start(LocalCommand(WriteJob(job), ranks));
  ASSERT_EQ(training.Wait(), 0) << training.Err();
}

std::string EndToEndTest::Weights(const TestJob& job) {
  const std::string out = Path(job.name + ".safetensors");
  const Process& exported = Start({Program("swinfleet-export"), RunDir(job), out, "--force"});
  EXPECT_EQ(exported.Wait(), 0) << exported.Err();
  const std::string bytes = ReadFile(out);
  EXPECT_FALSE(bytes.empty());
  return bytes;
}

std::string EndToEndTest::UndisturbedWeights(TestJob job) {
  job.name = "undisturbed";
  job.run_dir.clear();
  job.ranks = 0;
  TrainLocally(job, 1);
  return Weights(job);
}

// ---- Metrics ----

std::string EndToEndTest::MetricsText(const TestJob& job, int attempt) const {
  char name[40];
  std::snprintf(name, sizeof(name), "/metrics/attempt-%03d.jsonl", attempt);
  std::string text = ReadFile(RunDir(job) + name);
  // How long a step took and waited is never the same twice.
  for (size_t at = 0; (at = text.find("seconds\": ", at)) != std::string::npos;) {
    const size_t begin = text.rfind(", \"", at);
    text.erase(begin, text.find_first_of(",}", at) - begin);
    at = begin;
  }
  return text;
}

std::vector<json> EndToEndTest::Metrics(const TestJob& job, int attempt) const {
  std::vector<json> lines;
  const std::string text = MetricsText(job, attempt);
  // A last line without its end is still being written.
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    lines.push_back(json::parse(text.substr(begin, end - begin)));
  }
  return lines;
}

int64_t EndToEndTest::LastStep(const TestJob& job, int attempt) const {
  const std::vector<json> lines = Metrics(job, attempt);
  return lines.empty() ? 0 : lines.back().at("step").get<int64_t>();
}

bool EndToEndTest::WaitForStep(const TestJob& job, int attempt, int64_t step) const {
  return WaitUntil([&] { return LastStep(job, attempt) >= step; });
}

bool EndToEndTest::WaitForMidEpoch(const TestJob& job, int attempt) const {
  return WaitUntil([&] {
    bool saved = false;
    for (int64_t step = job.checkpoint_every; step <= 20 * job.checkpoint_every; ++step) {
      saved = saved || fs::exists(CheckpointDir(job, attempt, step) + "/manifest.json");
    }
    const int64_t step = LastStep(job, attempt);
    return saved && step % kStepsPerEpoch != 0;
  });
}

std::string EndToEndTest::CheckpointDir(const TestJob& job, int attempt, int64_t step) const {
  char name[64];
  std::snprintf(name, sizeof(name), "/checkpoints/attempt-%03d/step-%08ld", attempt,
                static_cast<long>(step));
  return RunDir(job) + name;
}

// ---- A coordinator and its clients ----

const Process& EndToEndTest::StartCoordinator(const std::vector<std::string>& options) {
  const std::string port_file = Path("port");
  fs::remove(port_file);
  std::vector<std::string> command = {Program("swinfleet-coordinator"),
                                      "--store",
                                      Path("store"),
                                      "--port-file",
                                      port_file,
                                      "--insecure",
                                      "--listen",
                                      address_.empty() ? listen_host_ + ":0" : address_};
  command.insert(command.end(), options.begin(), options.end());
  const Process& coordinator = Start(command);
  EXPECT_TRUE(WaitUntil([&] { return coordinator.Ended() || !ReadFile(port_file).empty(); }));
  EXPECT_FALSE(coordinator.Ended()) << coordinator.Err();
  if (address_.empty()) {
    address_ = listen_host_ + ":" + std::to_string(std::stoi(ReadFile(port_file)));
    setenv("SWINFLEET_COORDINATOR", address_.c_str(), 1);
  }
  return coordinator;
}

std::vector<std::string> EndToEndTest::FleetCommand(int ranks, const std::string& name) const {
  std::vector<std::string> command = {
      Program("swinfleet"), "fleet",     "--name", name, "--state-dir",
      Path("fleet"),        "--backoff", "0.2",    "--"};
  const std::vector<std::string> mpirun = FleetMpirun(ranks);
  command.insert(command.end(), mpirun.begin(), mpirun.end());
  command.insert(command.end(), {Program("swinfleet-worker"), "--coordinator", address_});
  return command;
}

const Process& EndToEndTest::StartFleet(int ranks, const std::string& name) {
  return Start(FleetCommand(ranks, name));
}

const Process& EndToEndTest::Swinfleet(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {Program("swinfleet")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const Process& process = Start(command);
  EXPECT_NE(process.Wait(), -1) << arguments.front() << " does not end";
  return process;
}

std::string EndToEndTest::Submit(const TestJob& job) {
  const Process& submit = Swinfleet({"submit", WriteJob(job), "--json"});
  if (submit.Wait() != 0) throw std::runtime_error("not submitted: " + submit.Err());
  return json::parse(submit.Out()).at("job_id").get<std::string>();
}

json EndToEndTest::Status(const std::string& job_id) {
  // Asked often, and therefore not kept.
  const Process status({Program("swinfleet"), "status", job_id, "--json"}, folder_, "status");
  if (status.Wait() != 0) throw std::runtime_error("no status: " + status.Err());
  return json::parse(status.Out());
}

json EndToEndTest::WaitForState(const std::string& job_id, const std::string& state) {
  json status;
  const auto settled = [&] {
    status = Status(job_id);
    const std::string now = status.at("state");
    return now == state || IsEnded(now);
  };
  const bool reached = WaitUntil(settled, 120, kStatusPause);
  EXPECT_TRUE(reached && status.at("state") == state) << status.dump(1);
  return status;
}

json EndToEndTest::WaitForEnd(const std::string& job_id) {
  json status;
  const auto ended = [&] {
    status = Status(job_id);
    return IsEnded(status.at("state"));
  };
  EXPECT_TRUE(WaitUntil(ended, 120, kStatusPause)) << status.dump(1);
  return status;
}

std::string EndToEndTest::Logs(const std::string& job_id) {
  return Swinfleet({"logs", job_id}).Out();
}

json EndToEndTest::Fleet() {
  const Process list({Program("swinfleet"), "fleets", "--json"}, folder_, "fleets");
  if (list.Wait() != 0) throw std::runtime_error("no fleets: " + list.Err());
  const json fleets = json::parse(list.Out()).at("fleets");
  return fleets.empty() ? json::object({{"state", "none"}}) : fleets.at(0);
}

}  // namespace swinfleet
