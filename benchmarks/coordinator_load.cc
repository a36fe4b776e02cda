// Ranks, users and submitters beside a coordinator, all over real connections: what they wait for
// and what it costs the coordinator. Prints one JSON document.
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "proto/connection.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string coordinator;
  // Of users, and with another token of the ranks.
  ConnectionOptions connection;
  std::string fleet_token_file;
  Credentials user, fleet;
  // The coordinator's process, on this machine.
  int pid = 0;
  uint32_t ranks = 0;
  uint32_t ranks_per_fleet = 250;
  uint32_t jobs = 0;
  uint32_t submitters = 32;
  double seconds = 10;
  // Of users who ask for the status of a job, all together.
  double questions_per_second = 50;
};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

Clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "coordinator_load: " << what << std::endl;
  _exit(1);
}

// A connection of its own, as each process has one.
std::shared_ptr<grpc::Channel> Connect(const std::string& address, const Credentials& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return credentials.Connect(address, arguments);
}

Credentials ReadCredentials(const ConnectionOptions& options, const std::string& address) {
  Credentials credentials;
  const std::string fault = Credentials::Read(options, address, &credentials);
  if (!fault.empty()) Die(fault);
  return credentials;
}

// Seconds that calls took.
class Latencies {
 public:
  void Add(double seconds) {
    const std::lock_guard lock(mutex_);
    seconds_.push_back(seconds);
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return seconds_.size();
  }
  double Percentile(double share) {
    const std::lock_guard lock(mutex_);
    if (seconds_.empty()) return 0;
    std::sort(seconds_.begin(), seconds_.end());
    const auto place = static_cast<size_t>(share * static_cast<double>(seconds_.size()));
    return seconds_[std::min(place, seconds_.size() - 1)];
  }

 private:
  std::mutex mutex_;
  std::vector<double> seconds_;
};

// What the kernel says of a process.
struct Usage {
  double cpu_seconds = 0;
  double resident_mib = 0;
};

Usage UsageOf(int pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  Usage usage;
  std::string text;
  std::getline(std::ifstream(folder + "/stat"), text);
  if (text.empty()) Die("there is no process " + std::to_string(pid));
  // What follows the name: utime and stime are the 12th and 13th.
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  double ticks = 0;
  for (int i = 1; fields >> field && i <= 13; ++i) {
    if (i >= 12) ticks += std::stod(field);
  }
  usage.cpu_seconds = ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::ifstream status(folder + "/status");
  while (std::getline(status, text)) {
    if (text.rfind("VmRSS:", 0) == 0) usage.resident_mib = std::stod(text.substr(6)) / 1024;
  }
  return usage;
}

// ---- Submitters ----

SubmitJobRequest Request(uint32_t number) {
  SubmitJobRequest request;
  request.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  request.set_submission_id("load-" + std::to_string(number));
  request.set_user("user" + std::to_string(number % 10));
  request.mutable_spec()->set_name("job" + std::to_string(number));
  request.mutable_spec()->set_run_dir("/runs/" + std::to_string(number));
  request.mutable_spec()->mutable_data()->set_path("/data/fashion_mnist");
  request.mutable_spec()->mutable_train()->set_global_batch(1024);
  return request;
}

struct Submitted {
  std::vector<std::string> ids;
  double seconds = 0;
  Latencies latencies;
};

void Submit(const Arguments& arguments, Submitted* submitted) {
  submitted->ids.resize(arguments.jobs);
  std::atomic<uint32_t> next{0};
  const auto work = [&] {
    const auto stub = Coordinator::NewStub(Connect(arguments.coordinator, arguments.user));
    for (uint32_t number; (number = next++) < arguments.jobs;) {
      grpc::ClientContext context;
      SubmitJobResponse response;
      const Clock::time_point began = Clock::now();
      const grpc::Status status = stub->SubmitJob(&context, Request(number), &response);
      if (!status.ok()) Die("a job is refused: " + status.error_message());
      submitted->latencies.Add(Seconds(Clock::now() - began));
      submitted->ids[number] = response.job_id();
    }
  };
  const Clock::time_point began = Clock::now();
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < arguments.submitters; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  submitted->seconds = Seconds(Clock::now() - began);
}

// ---- Ranks ----

// The stream of one rank. It takes on what it is assigned, and says a heartbeat when it is told to.
class RankStream final : public grpc::ClientBidiReactor<WorkerMessage, WorkerCommand> {
 public:
  RankStream(const Arguments& arguments, uint32_t number)
      : number_(number % arguments.ranks_per_fleet),
        stub_(FleetService::NewStub(Connect(arguments.coordinator, arguments.fleet))) {
    const uint32_t fleet = number / arguments.ranks_per_fleet;
    Hello* hello = Queue()->mutable_hello();
    hello->set_protocol_version(PROTOCOL_VERSION_CURRENT);
    hello->set_fleet("fleet" + std::to_string(fleet));
    hello->set_launch_id("launch" + std::to_string(fleet));
    hello->set_rank(number_);
    hello->set_world_size(
        std::min(arguments.ranks_per_fleet, arguments.ranks - fleet * arguments.ranks_per_fleet));
    hello->set_host("node" + std::to_string(number / 8));
    hello->set_pid(1000 + number);
    hello->set_software_version("load");
    stub_->async()->ConnectWorker(&context_, this);
    StartRead(&command_);
    StartCall();
    Proceed(std::unique_lock(mutex_));
  }

  void Beat() {
    std::unique_lock lock(mutex_);
    if (ended_) return;
    ++step_;
    Heartbeat* beat = Queue()->mutable_heartbeat();
    beat->set_job_id(job_id_);
    beat->set_attempt(attempt_);
    beat->set_phase(job_id_.empty() ? "idle" : "train");
    beat->set_step(step_);
    beat->set_collective_sequence(100 * step_);
    beat->set_collective("reduce-scatter layers.2.blocks.17");
    beat->set_memory_bytes(uint64_t{11} << 30);
    beat->set_own_seconds(0.5 * static_cast<double>(step_));
    beat->set_own_steps(step_);
    if (number_ == 0 && !job_id_.empty()) {
      ProgressReport* report = Queue()->mutable_progress();
      report->set_job_id(job_id_);
      report->set_attempt(attempt_);
      report->mutable_progress()->set_step(step_);
      report->mutable_progress()->set_total_steps(100000);
      report->mutable_progress()->set_loss(1.5);
    }
    Proceed(std::move(lock));
  }
  bool welcome() {
    const std::lock_guard lock(mutex_);
    return welcome_;
  }
  std::string job_id() {
    const std::lock_guard lock(mutex_);
    return job_id_;
  }
  void Leave() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    left_.wait(lock, [this] { return ended_; });
  }

 private:
  WorkerMessage* Queue() { return &queue_.emplace_back(); }
  void Proceed(std::unique_lock<std::mutex>) {
    if (writing_ || queue_.empty()) return;
    writing_ = true;
    StartWrite(&queue_.front());
  }
  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    queue_.pop_front();
    if (ok) Proceed(std::move(lock));
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      const std::lock_guard lock(mutex_);
      if (command_.has_welcome()) welcome_ = true;
      if (command_.has_rejected()) Die("a rank is turned away: " + command_.rejected().reason());
      if (command_.has_assignment()) {
        job_id_ = command_.assignment().job_id();
        attempt_ = command_.assignment().attempt();
      }
    }
    StartRead(&command_);
  }
  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    left_.notify_all();
  }

  const uint32_t number_;
  const std::unique_ptr<FleetService::Stub> stub_;
  grpc::ClientContext context_;
  WorkerCommand command_;
  std::mutex mutex_;
  std::condition_variable left_;
  std::deque<WorkerMessage> queue_;  // the front one is being written when writing_
  bool writing_ = false, welcome_ = false, ended_ = false;
  std::string job_id_;
  uint32_t attempt_ = 0;
  uint64_t step_ = 0;
};

using Ranks = std::vector<std::unique_ptr<RankStream>>;

// All of them, welcomed and at work as far as there are jobs. Returns the seconds that it took.
double ConnectRanks(const Arguments& arguments, Ranks* ranks) {
  const Clock::time_point began = Clock::now();
  for (uint32_t i = 0; i < arguments.ranks; ++i) {
    ranks->push_back(std::make_unique<RankStream>(arguments, i));
  }
  const uint32_t fleets =
      (arguments.ranks + arguments.ranks_per_fleet - 1) / arguments.ranks_per_fleet;
  const bool all_work = arguments.jobs >= fleets;
  for (const auto& rank : *ranks) {
    while (!rank->welcome() || (all_work && rank->job_id().empty())) {
      if (Clock::now() > began + std::chrono::seconds(60)) Die("ranks are not taken");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return Seconds(Clock::now() - began);
}

// Each rank beats once a second, one after the other.
void BeatUntil(const Ranks& ranks, Clock::time_point end, uint64_t* beats) {
  if (ranks.empty()) return;
  const Clock::time_point began = Clock::now();
  const double pause = 1.0 / static_cast<double>(ranks.size());
  for (*beats = 0; Clock::now() < end; ++*beats) {
    std::this_thread::sleep_until(began + Duration(pause * static_cast<double>(*beats)));
    ranks[*beats % ranks.size()]->Beat();
  }
}

// ---- Users ----

// Asks for jobs that run and jobs that wait, by turns, at a steady rate; answers that are late do
// not slow it down.
class Questioner {
 public:
  Questioner(const Arguments& arguments, std::vector<std::string> running,
             std::vector<std::string> all)
      : arguments_(arguments),
        running_(std::move(running)),
        all_(std::move(all)),
        stub_(Coordinator::NewStub(Connect(arguments.coordinator, arguments.user))) {}

  void AskUntil(Clock::time_point end) {
    const Clock::time_point began = Clock::now();
    for (uint64_t i = 0; Clock::now() < end; ++i) {
      std::this_thread::sleep_until(
          began + Duration(static_cast<double>(i) / arguments_.questions_per_second));
      const auto& from = i % 2 == 0 && !running_.empty() ? running_ : all_;
      if (!from.empty()) Ask(from[i * 7919 % from.size()]);
    }
    std::unique_lock lock(mutex_);
    answered_.wait(lock, [this] { return open_ == 0; });
  }
  // The newest hundred, once a second, one after the other.
  void ListUntil(Clock::time_point end) {
    while (Clock::now() < end) {
      grpc::ClientContext context;
      ListJobsResponse response;
      const Clock::time_point began = Clock::now();
      const grpc::Status status = stub_->ListJobs(&context, {}, &response);
      if (!status.ok()) Die("no list: " + status.error_message());
      lists.Add(Seconds(Clock::now() - began));
      std::this_thread::sleep_until(began + std::chrono::seconds(1));
    }
  }

  Latencies statuses, lists;

 private:
  struct Question {
    grpc::ClientContext context;
    GetJobRequest request;
    JobStatus answer;
    Clock::time_point asked = Clock::now();
  };
  void Ask(const std::string& job_id) {
    auto question = std::make_shared<Question>();
    question->request.set_job_id(job_id);
    {
      const std::lock_guard lock(mutex_);
      ++open_;
    }
    stub_->async()->GetJob(&question->context, &question->request, &question->answer,
                           [this, question](const grpc::Status& status) {
                             if (!status.ok()) Die("no status: " + status.error_message());
                             statuses.Add(Seconds(Clock::now() - question->asked));
                             const std::lock_guard lock(mutex_);
                             --open_;
                             answered_.notify_all();
                           });
  }

  const Arguments& arguments_;
  const std::vector<std::string> running_, all_;
  const std::unique_ptr<Coordinator::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable answered_;
  int open_ = 0;
};

int Run(const Arguments& arguments) {
  Submitted submitted;
  Submit(arguments, &submitted);
  Ranks ranks;
  const double connecting = ConnectRanks(arguments, &ranks);
  std::vector<std::string> running;
  for (size_t i = 0; i < ranks.size(); i += arguments.ranks_per_fleet) {
    if (!ranks[i]->job_id().empty()) running.push_back(ranks[i]->job_id());
  }
  Questioner questioner(arguments, running, submitted.ids);

  const Usage before = UsageOf(arguments.pid);
  const Clock::time_point began = Clock::now(), end = began + Duration(arguments.seconds);
  uint64_t beats = 0;
  std::thread beating([&] { BeatUntil(ranks, end, &beats); });
  std::thread listing([&] { questioner.ListUntil(end); });
  questioner.AskUntil(end);
  beating.join();
  listing.join();
  const double seconds = Seconds(Clock::now() - began);
  const Usage after = UsageOf(arguments.pid);
  for (const auto& rank : ranks) rank->Leave();

  const double rate = arguments.jobs == 0 ? 0 : arguments.jobs / submitted.seconds;
  std::printf(
      "{\"ranks\": %u, \"jobs\": %u, \"submissions_per_s\": %.1f, \"submit_p50_ms\": %.2f, "
      "\"submit_p99_ms\": %.2f, \"connecting_s\": %.2f, \"heartbeats_per_s\": %.1f, "
      "\"statuses\": %zu, \"status_p50_ms\": %.2f, \"status_p99_ms\": %.2f, "
      "\"list_p50_ms\": %.2f, \"list_max_ms\": %.2f, \"cores\": %.3f, \"resident_mib\": %.1f}\n",
      arguments.ranks, arguments.jobs, rate, 1e3 * submitted.latencies.Percentile(0.5),
      1e3 * submitted.latencies.Percentile(0.99), connecting, static_cast<double>(beats) / seconds,
      questioner.statuses.count(), 1e3 * questioner.statuses.Percentile(0.5),
      1e3 * questioner.statuses.Percentile(0.99), 1e3 * questioner.lists.Percentile(0.5),
      1e3 * questioner.lists.Percentile(1), (after.cpu_seconds - before.cpu_seconds) / seconds,
      after.resident_mib);
  return 0;
}

int Main(int argc, char** argv) {
  // Each rank has a connection.
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  Arguments arguments;
  CLI::App app("Loads a coordinator with ranks, jobs and questions, and measures it.");
  app.add_option("--coordinator", arguments.coordinator, "HOST:PORT")->required();
  app.add_option("--pid", arguments.pid, "Of the coordinator, on this machine")->required();
  for (const ConnectionFlag& flag : kConnectionFlags) {
    app.add_option(flag.flag, arguments.connection.*flag.file, flag.help)->type_name("FILE");
  }
  app.add_option("--fleet-token-file", arguments.fleet_token_file, "Of the ranks, as --token-file");
  app.add_option("--ranks", arguments.ranks, "That are connected and beat once a second");
  app.add_option("--ranks-per-fleet", arguments.ranks_per_fleet)
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  app.add_option("--jobs", arguments.jobs, "That are submitted first, concurrently");
  app.add_option("--submitters", arguments.submitters, "Clients that submit")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", arguments.seconds, "Of the measurement")->capture_default_str();
  app.add_option("--questions", arguments.questions_per_second,
                 "Statuses that are asked for a second")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  arguments.user = ReadCredentials(arguments.connection, arguments.coordinator);
  ConnectionOptions fleet = arguments.connection;
  fleet.token_file = arguments.fleet_token_file;
  arguments.fleet = ReadCredentials(fleet, arguments.coordinator);
  return Run(arguments);
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) { return swinfleet::Main(argc, argv); }
