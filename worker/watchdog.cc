#include "worker/watchdog.h"

#include <glog/logging.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/file_ops.h"
#include "worker/host_name.h"

namespace swinfleet {
namespace {

using nlohmann::json;

// A run folder that is out of reach must not keep the process from ending.
constexpr auto kSaveSeconds = std::chrono::seconds(2);
// Nor must a GPU that does not answer.
constexpr auto kGiveUpSeconds = std::chrono::seconds(3);
// Nothing has moved for so long when a process that is told to leave saves its flight recorder.
constexpr double kStandstill = 2;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), seconds < 10 ? "%.1f s" : "%.0f s", seconds);
  return text;
}

std::string Text(const StuckNews& news, int rank, const std::string& failure) {
  if (!failure.empty()) {
    return "rank " + std::to_string(rank) + " can't exchange anything any more after collective " +
           std::to_string(news.position.sequence) + ", " + news.position.name + ", at step " +
           std::to_string(news.step) + " (" + PhaseName(news.phase) + "): " + failure;
  }
  return "rank " + std::to_string(rank) + " has waited " + Seconds(news.waited_seconds) +
         " in collective " + std::to_string(news.position.sequence) + ", " + news.position.name +
         ", at step " + std::to_string(news.step) + " (" + PhaseName(news.phase) +
         "): the deadline is " + Seconds(news.deadline_seconds) +
         ". Another rank does not take part in it, or can't be reached";
}

// Written by a thread that may outlive the caller's patience: it owns what it needs.
bool WriteSoon(const std::string& path, std::string text) {
  std::packaged_task<bool()> task([path, text = std::move(text)] {
    try {
      MakeFolders(FolderOf(path));
      ReplaceFile(path, text);
      return true;
    } catch (const Error& error) {
      LOG(WARNING) << "the flight recorder was not saved: " << error.what();
      return false;
    }
  });
  std::future<bool> written = task.get_future();
  std::thread(std::move(task)).detach();
  if (written.wait_for(kSaveSeconds) == std::future_status::ready) return written.get();
  LOG(WARNING) << "the flight recorder was not saved in time: " << path;
  return false;
}

}  // namespace

std::string FlightPath(const std::string& run_dir, int64_t attempt, int rank) {
  char name[40];
  std::snprintf(name, sizeof(name), "/rank-%05d.json", rank);
  return run_dir + "/flight/" + AttemptName(attempt) + name;
}

Watchdog::Watchdog(const WatchdogOptions& options, Reporter* reporter)
    : options_(options), reporter_(reporter), detector_(options.deadlines) {
  thread_ = std::thread([this] { Watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::SetCommunicator(Communicator* communicator) {
  {
    const std::lock_guard lock(mutex_);
    communicator_ = communicator;
    joined_ = true;
  }
  reporter_->SetCommunicator(communicator);
}

CollectivePosition Watchdog::Position() const {
  if (communicator_ != nullptr) return communicator_->position();
  return {0, "forming the group of the attempt's ranks", !joined_};
}

// On the thread that sets communicator_, without the lock: whoever waits for a GPU here must not
// keep the watchdog from ending it.
double Watchdog::WaitSeconds() const {
  return communicator_ == nullptr ? 0 : communicator_->wait_seconds();
}

void Watchdog::SetPhase(Phase phase) {
  const double waited = WaitSeconds();
  {
    const std::lock_guard lock(mutex_);
    detector_.SetPhase(phase, Now(), waited);
  }
  reporter_->SetPhase(phase);
}

void Watchdog::SetStep(int64_t step) {
  const double waited = WaitSeconds();
  double own = 0;
  int64_t steps = 0;
  {
    const std::lock_guard lock(mutex_);
    detector_.SetStep(step, Now(), waited);
    own = detector_.times().own_seconds();
    steps = detector_.times().own_steps();
  }
  reporter_->SetStep(step);
  reporter_->SetOwnWork(own, steps);
}

void Watchdog::SetStateBytes(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  detector_.SetStateBytes(bytes);
}

void Watchdog::ReportProgress(const TrainingProgress& progress) {
  reporter_->ReportProgress(progress);
}

void Watchdog::ReportCheckpoint(const std::string& path, int64_t step) {
  reporter_->ReportCheckpoint(path, step);
}

void Watchdog::Watch() {
  const std::chrono::duration<double> period(StuckDetector::kPeriod);
  bool saved = false;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, period, [this] { return stop_; })) {
    const CollectivePosition position = Position();
    const bool stuck = detector_.Observe(Now(), position);
    const std::string failure = communicator_ == nullptr ? "" : communicator_->failure();
    if (stuck || !failure.empty()) {
      StuckNews news = MakeNews(position, failure);
      news.give_up = [this] { GiveUpCommunicator(); };
      // The lock is kept: the communicator must not go away meanwhile.
      news.flight_recorder = SaveFlightRecorder(news, news.text);
      lock.unlock();
      options_.on_stuck(news);
      return;
    }
    if (saved || position.sequence == 0 || detector_.still() < kStandstill) continue;
    if (!reporter_->StopRequested() && !reporter_->CancelRequested()) continue;
    saved = true;
    SaveFlightRecorder(MakeNews(position, ""),
                       "this process was told to leave while nothing moved");
  }
}

void Watchdog::GiveUpCommunicator() {
  const std::lock_guard lock(mutex_);
  if (communicator_ == nullptr) return;
  std::packaged_task<void()> task([communicator = communicator_] { communicator->GiveUp(); });
  std::future<void> done = task.get_future();
  std::thread(std::move(task)).detach();
  if (done.wait_for(kGiveUpSeconds) == std::future_status::ready) return;
  LOG(WARNING) << "the GPU does not end what it waits for";
}

StuckNews Watchdog::MakeNews(const CollectivePosition& position, const std::string& failure) const {
  StuckNews news;
  news.position = position;
  news.phase = detector_.phase();
  news.step = detector_.step();
  news.waited_seconds = detector_.still();
  news.deadline_seconds = detector_.Deadline();
  news.text = Text(news, options_.rank, failure);
  return news;
}

std::string Watchdog::SaveFlightRecorder(const StuckNews& news, const std::string& why) const {
  json collectives = json::array();
  const std::vector<CollectiveRecord> recent =
      communicator_ == nullptr ? std::vector<CollectiveRecord>() : communicator_->recent();
  for (const CollectiveRecord& record : recent) {
    const std::string prefix = record.operation + " ";
    const bool named = record.name.starts_with(prefix);
    collectives.push_back({{"sequence", record.sequence},
                           {"operation", record.operation},
                           {"unit", named ? record.name.substr(prefix.size()) : record.name},
                           {"bytes", record.bytes},
                           {"posted", record.posted},
                           {"start", record.started},
                           {"end", record.ended}});
  }
  const json all = {{"rank", options_.rank},
                    {"host", HostName()},
                    {"process", getpid()},
                    {"attempt", options_.attempt},
                    {"why", why},
                    {"phase", PhaseName(news.phase)},
                    {"step", news.step},
                    {"collective", news.position.sequence},
                    {"in_collective", news.position.in_progress},
                    {"seconds", news.waited_seconds},
                    {"deadline", news.deadline_seconds},
                    {"collectives", std::move(collectives)}};
  const std::string path = FlightPath(options_.run_dir, options_.attempt, options_.rank);
  return WriteSoon(path, all.dump(1, ' ', false, json::error_handler_t::replace) + "\n") ? path
                                                                                         : "";
}

}  // namespace swinfleet
