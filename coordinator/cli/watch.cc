#include "coordinator/cli/watch.h"

#include <glog/logging.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>
#include <vector>

#include "coordinator/cli/exit_codes.h"
#include "coordinator/cli/show.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

// A silent stream is asked for a sign of life, so that a coordinator whose machine has vanished is
// noticed too.
constexpr auto kProbeAfter = std::chrono::seconds(15);
constexpr auto kLongestPause = std::chrono::seconds(5);
// Statuses that wait to be shown; of more, the oldest are dropped.
constexpr size_t kMaxWaiting = 256;
constexpr uint32_t kLogPage = 1000;

// One descriptor wakes the main thread, whatever has happened: a signal or a message.
std::atomic<int> wake_descriptor{-1};
std::atomic<bool> interrupted{false};

void Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_descriptor, &one, sizeof(one));
}

void OnSignal(int signal) {
  if (signal == SIGINT) interrupted = true;
  Wake();
}

void TakeSignals() {
  if (wake_descriptor < 0) wake_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK_GE(wake_descriptor, 0);
  struct sigaction action = {};
  action.sa_handler = &OnSignal;
  for (const int signal : {SIGINT, SIGWINCH}) sigaction(signal, &action, nullptr);
}

void WaitForEvent(std::chrono::milliseconds timeout) {
  pollfd event = {wake_descriptor, POLLIN, 0};
  poll(&event, 1, static_cast<int>(timeout.count()));
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(wake_descriptor, &count, sizeof(count));
}

// One WatchJob stream, read by a thread.
class JobStream {
 public:
  JobStream(const Client& client, const std::string& job_id) {
    thread_ = std::thread([this, &client, job_id] { Read(client, job_id); });
  }
  JobStream(const JobStream&) = delete;
  JobStream& operator=(const JobStream&) = delete;
  ~JobStream() {
    cancelled_ = true;
    context_.TryCancel();
    thread_.join();
  }

  // The statuses that came since the last call.
  std::deque<JobStatus> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(waiting_, {});
  }
  // How the stream ended, once it has.
  std::optional<grpc::Status> end() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    // What was received before the end is shown before it.
    return waiting_.empty() ? end_ : std::nullopt;
  }

 private:
  void Read(const Client& client, const std::string& job_id) {
    grpc::Status status = client.Connect(&cancelled_);
    if (status.ok()) {
      GetJobRequest request;
      request.set_job_id(job_id);
      const auto reader = client.stub()->WatchJob(&context_, request);
      JobStatus job;
      while (reader->Read(&job)) {
        {
          const std::lock_guard<std::mutex> lock(mutex_);
          waiting_.push_back(job);
          if (waiting_.size() > kMaxWaiting) waiting_.pop_front();
        }
        Wake();
      }
      status = reader->Finish();
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      end_ = status;
    }
    Wake();
  }

  std::atomic<bool> cancelled_{false};
  grpc::ClientContext context_;
  mutable std::mutex mutex_;
  std::deque<JobStatus> waiting_;
  std::optional<grpc::Status> end_;
  std::thread thread_;
};

// A block of lines at the bottom of the terminal that replaces itself.
class Painter {
 public:
  void Paint(const std::vector<std::string>& lines, int width) {
    std::string out;
    // Lines that were painted on a wider terminal may take several rows by now.
    int rows = 0;
    for (const int painted : painted_) rows += std::max((painted + width - 1) / width, 1);
    if (rows > 0) out += "\x1b[" + std::to_string(rows) + "A";
    out += "\r";
    painted_.clear();
    for (const std::string& line : lines) {
      out += line + "\x1b[K\n";
      painted_.push_back(DisplayWidth(line));
    }
    Print(out + "\x1b[J");
  }

 private:
  std::vector<int> painted_;
};

class Watcher {
 public:
  Watcher(const Client& client, const std::string& job_id, bool json)
      : client_(client), job_id_(job_id), json_(json) {}

  int Run() {
    TakeSignals();
    auto stream = std::make_unique<JobStream>(client_, job_id_);
    heard_ = Clock::now();
    for (;;) {
      WaitForEvent(std::chrono::milliseconds(1000));
      if (interrupted) return Interrupted();
      for (const JobStatus& job : stream->Take()) {
        if (!Take(job)) return kExitUsage;
        if (IsEnded(job.state())) return Ended();
      }
      Repaint();
      if (Clock::now() - heard_ > kProbeAfter && last_ && !stream->end()) Probe(&stream);
      const std::optional<grpc::Status> end = stream->end();
      if (!end) continue;
      if (!IsWorthRetrying(*end)) return ReportFailure(*end, client_, "job " + job_id_);
      Lost(*end);
      if (Pause()) return Interrupted();
      stream = std::make_unique<JobStream>(client_, job_id_);
      heard_ = Clock::now();
    }
  }

 private:
  // Takes in a status and shows it; false when the output can't be written.
  bool Take(const JobStatus& job) {
    const bool returned = lost_;
    heard_ = Clock::now();
    lost_ = false;
    pause_ = std::chrono::seconds(1);
    const bool changed = !last_ || Key(*last_) != Key(job);
    last_ = job;
    const Screen screen = DetectScreen();
    if (json_) return Print(ToJsonLine(job));
    if (screen.live) return true;
    if (returned && !Print("the coordinator answers again\n")) return false;
    return !changed || Print(WatchLine(job, screen) + "\n");
  }

  // What makes a status worth a line of its own.
  static std::tuple<int, std::string, uint32_t, uint64_t, uint64_t, uint64_t, std::string> Key(
      const JobStatus& job) {
    return {job.state(),
            job.reason(),
            job.attempt(),
            job.progress().step(),
            job.progress().evaluated_step(),
            job.last_checkpoint_step(),
            job.fleet()};
  }

  void Repaint() {
    const Screen screen = DetectScreen();
    if (json_ || !screen.live || !last_) return;
    std::vector<std::string> lines = WatchBlock(*last_, screen);
    if (lost_) {
      lines.push_back(Shorten("the coordinator doesn't answer; the job goes on; trying again",
                              screen.width - 1, screen));
    }
    painter_.Paint(lines, screen.width);
  }

  // Before the first status there is nothing to come back to.
  bool IsWorthRetrying(const grpc::Status& end) const {
    if (!last_) return false;
    switch (end.error_code()) {
      case grpc::StatusCode::OK:
      case grpc::StatusCode::UNAVAILABLE:
      case grpc::StatusCode::DEADLINE_EXCEEDED:
      case grpc::StatusCode::CANCELLED:
      case grpc::StatusCode::INTERNAL:
      case grpc::StatusCode::UNKNOWN:
        return true;
      default:
        return false;
    }
  }

  void Lost(const grpc::Status& end) {
    if (end.ok() || lost_) return;
    lost_ = true;
    const std::string text = "the coordinator at " + client_.address() +
                             " doesn't answer; the job goes on; trying again\n";
    if (json_) {
      std::fputs(text.c_str(), stderr);
    } else if (!DetectScreen().live) {
      Print(text);
    } else {
      Repaint();
    }
  }

  // Waits before the next connection; true when interrupted.
  bool Pause() {
    const Clock::time_point until = Clock::now() + pause_;
    pause_ = std::min<std::chrono::milliseconds>(2 * pause_, kLongestPause);
    while (!interrupted && Clock::now() < until) {
      WaitForEvent(std::chrono::milliseconds(200));
      Repaint();
    }
    return interrupted;
  }

  void Probe(std::unique_ptr<JobStream>* stream) {
    GetJobRequest request;
    request.set_job_id(job_id_);
    JobStatus job;
    const grpc::Status status = client_.Call(
        static_cast<grpc::Status (Coordinator::Stub::*)(grpc::ClientContext*, const GetJobRequest&,
                                                        JobStatus*)>(&Coordinator::Stub::GetJob),
        request, &job);
    heard_ = Clock::now();
    if (status.ok()) return;
    Lost(status);
    *stream = std::make_unique<JobStream>(client_, job_id_);
  }

  int Interrupted() {
    std::fprintf(stderr,
                 "\nStopped watching; job %s goes on. Watch it again with `swinfleet watch %s`, "
                 "end it with `swinfleet cancel %s`.\n",
                 job_id_.c_str(), job_id_.c_str(), job_id_.c_str());
    return kExitInterrupted;
  }

  int Ended() {
    Repaint();
    const Screen screen = DetectScreen();
    // The block shows the reason shortened.
    if (!json_ && screen.live && !last_->reason().empty()) {
      Print(StateName(last_->state()) + ": " + Safe(last_->reason(), screen) + "\n");
    }
    switch (last_->state()) {
      case SUCCEEDED:
        return kExitOk;
      case CANCELLED:
        return kExitJobCancelled;
      default:
        return kExitJobFailed;
    }
  }

  const Client& client_;
  const std::string job_id_;
  const bool json_;
  Painter painter_;
  std::optional<JobStatus> last_;
  bool lost_ = false;
  Clock::time_point heard_;
  std::chrono::milliseconds pause_ = std::chrono::seconds(1);
};

grpc::Status GetLogPage(const Client& client, const std::string& job_id, uint64_t after,
                        GetLogsResponse* page) {
  GetLogsRequest request;
  request.set_job_id(job_id);
  request.set_after(after);
  request.set_limit(kLogPage);
  return client.Call(static_cast<grpc::Status (Coordinator::Stub::*)(
                         grpc::ClientContext*, const GetLogsRequest&, GetLogsResponse*)>(
                         &Coordinator::Stub::GetLogs),
                     request, page);
}

}  // namespace

int WatchJob(const Client& client, const std::string& job_id, bool json) {
  return Watcher(client, job_id, json).Run();
}

int ShowLogs(const Client& client, const std::string& job_id, bool follow, bool json) {
  TakeSignals();
  const Screen screen = DetectScreen();
  uint64_t after = 0;
  bool connected = false, lost = false;
  while (!interrupted) {
    GetLogsResponse page;
    const grpc::Status status = GetLogPage(client, job_id, after, &page);
    if (!status.ok()) {
      if (!follow || !connected || !IsUnreachable(status)) {
        return ReportFailure(status, client, "job " + job_id);
      }
      if (!std::exchange(lost, true)) {
        std::fprintf(stderr, "swinfleet: the coordinator at %s doesn't answer; trying again\n",
                     client.address().c_str());
      }
      WaitForEvent(std::chrono::milliseconds(1000));
      continue;
    }
    connected = true;
    lost = false;
    const uint64_t before = after;
    for (const LogLine& line : page.lines()) {
      after = std::max(after, line.sequence());
      if (!Print(json ? ToJsonLine(line) : LogText(line, screen))) return kExitUsage;
    }
    if (page.complete()) return kExitOk;
    // A page that brings nothing new ends the list, whatever the peer says.
    if (after > before) continue;
    if (!follow) return kExitOk;
    WaitForEvent(std::chrono::milliseconds(1000));
  }
  return kExitInterrupted;
}

}  // namespace swinfleet
