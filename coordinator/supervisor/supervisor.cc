#include "coordinator/supervisor/supervisor.h"

#include <glog/logging.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "coordinator/supervisor/escape.h"
#include "coordinator/supervisor/hosts.h"
#include "coordinator/supervisor/leftovers.h"
#include "coordinator/supervisor/uuid.h"

namespace swinfleet {
namespace {

constexpr double kLongestPause = 60;
constexpr double kSteadySeconds = 60;
// Looking through /proc costs milliseconds; workers and what they share appear within the first
// seconds.
constexpr auto kObservePeriod = std::chrono::seconds(2);
constexpr auto kFirstObservePeriod = std::chrono::milliseconds(250);
constexpr auto kFirstObservations = std::chrono::seconds(10);
// How long a supervisor that was told to stop tries to report its launch's end. The record on disk
// keeps what the coordinator couldn't be told.
constexpr auto kStopPatience = std::chrono::seconds(5);
// How long the coordinator may take to say that it has understood that a fleet is given back.
constexpr auto kAnswerPatience = std::chrono::seconds(3);
// How long an mpirun that ranks have left may take to end by itself.
constexpr auto kEndingPatience = std::chrono::seconds(5);
constexpr auto kKillPatience = std::chrono::seconds(30);

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // A hang-up is ignored when the caller wants so (nohup).
  struct sigaction hang_up = {};
  sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
  return signals;
}

template <typename Duration>
double Seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// "--option" or "--option=VALUE" is among the words.
bool HasOption(const std::vector<std::string>& words, const std::string& option) {
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return word == option || word.starts_with(option + "=");
  });
}

std::string Join(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  // A reader of our output that has gone away must not end the fleet.
  signal(SIGPIPE, SIG_IGN);
}

Supervisor::Supervisor(const SupervisorOptions& options, std::shared_ptr<grpc::Channel> channel)
    : options_(options), channel_(std::move(channel)), pause_seconds_(options.backoff_seconds) {
  CHECK(!options_.command.empty());
  const sigset_t signals = StopSignals();
  signals_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  CHECK_GE(signals_, 0) << std::strerror(errno);
}

Supervisor::~Supervisor() { close(signals_); }

SupervisorResult Supervisor::Run() {
  if (!Prepare()) return SupervisorResult::kRefused;
  SettlePrevious();
  while (stop_signal_ == 0) {
    const Clock::time_point began = Clock::now();
    if (StartLaunch()) Supervise();
    const Clock::time_point resume = Clock::now() + NextPause(Seconds(Clock::now() - began));
    if (!WaitForAcknowledgement()) break;
    if (ended_cleanly_) {
      LOG(INFO) << "the fleet was told to shut down; it stays down";
      return SupervisorResult::kStopped;
    }
    if (options_.max_restarts >= 0 && restarts_ >= options_.max_restarts) {
      LOG(ERROR) << "gives up after " << restarts_ << " restarts (--max-restarts)";
      return SupervisorResult::kGaveUp;
    }
    PauseUntil(resume);
    ++restarts_;
  }
  return stop_signal_ == SIGINT ? SupervisorResult::kInterrupted : SupervisorResult::kStopped;
}

bool Supervisor::Prepare() {
  std::string error;
  if (FindProgram(options_.command[0]).empty()) {
    LOG(ERROR) << "there is no program " << EscapeForTerminal(options_.command[0])
               << " to start; is it installed, and in PATH?";
    return false;
  }
  if (!file_.Open(options_.state_folder, options_.fleet, &error, options_.earlier_is_gone) ||
      !output_.Open(options_.state_folder + "/" + options_.fleet + ".log", &error)) {
    LOG(ERROR) << EscapeForTerminal(error);
    return false;
  }
  reporter_ = std::make_unique<LaunchReporter>(channel_, options_.fleet, HostName());
  LOG(INFO) << "supervises fleet " << options_.fleet << "; record " << file_.path();
  return true;
}

// What the last supervisor of this fleet has left: nothing, a living launch, or an unreported end.
void Supervisor::SettlePrevious() {
  if (!file_.found() || file_.found()->acknowledged) return;
  record_ = *file_.found();
  const bool same_boot = record_.boot_id == BootId();
  if (same_boot && record_.exit.empty() && IsAlive(record_.leader)) {
    LOG(INFO) << "launch " << record_.launch_id << " (process " << record_.leader.pid
              << ") still runs: adopted";
    launch_ = Launch::Adopt(record_.leader);
    Supervise();
  } else {
    std::string exit = record_.exit;
    if (exit.empty()) exit = same_boot ? "gone, exit code unknown" : "gone after a reboot";
    if (record_.host != HostName() && !same_boot) {
      exit = "gone, says whoever has started the fleet again on another host (--earlier-is-gone)";
      // These are names and numbers of that host.
      record_.processes.clear();
      record_.shared_memory.clear();
    }
    LOG(INFO) << "launch " << record_.launch_id << " of an earlier supervisor: " << exit;
    FinishLaunch(exit, /*gently=*/true, /*fault=*/false);
  }
  WaitForAcknowledgement();
  // An adopted fleet that ended while this supervisor runs is started again like any other.
  ended_cleanly_ = false;
}

bool Supervisor::StartLaunch() {
  record_ = LaunchRecord();
  record_.fleet = options_.fleet;
  record_.host = HostName();
  record_.boot_id = BootId();
  record_.launch_id = NewUuid();
  record_.started_at = Seconds(std::chrono::system_clock::now().time_since_epoch());
  const std::vector<std::string> excluded = reporter_->excluded_hosts();
  const HostsExcluded hosts = ExcludeHosts(options_.command, excluded, options_.state_folder);
  for (const std::string& note : hosts.notes) LOG(INFO) << EscapeForTerminal(note);

  LaunchCommand command;
  command.arguments = hosts.arguments;
  for (const std::string& argument :
       {std::string("--fleet"), options_.fleet, std::string("--launch-id"), record_.launch_id,
        std::string("--supervised")}) {
    command.arguments.push_back(argument);
  }
  for (const auto& [option, value] : options_.worker_options) {
    if (HasOption(options_.command, option)) continue;
    command.arguments.push_back(option);
    command.arguments.push_back(value);
  }
  command.variables = {{kLaunchIdVariable, record_.launch_id},
                       {"SWINFLEET_EXCLUDE_HOSTS", Join(excluded, ",")}};
  command.output = output_.fd();
  std::string error;
  launch_ = Launch::Start(
      command,
      [this](const ProcessIdentity& leader, std::string* failure) {
        record_.leader = leader;
        record_.processes = {leader};
        return file_.Save(record_, failure);
      },
      &error);
  if (launch_ == nullptr) {
    LOG(ERROR) << "the fleet can't be started: " << EscapeForTerminal(error);
    // The record may name a process that has done nothing; nobody was told of this launch.
    record_.exit = "never started";
    record_.acknowledged = true;
    SaveRecord();
    return false;
  }
  LOG(INFO) << "launch " << record_.launch_id << " started (process " << launch_->leader().pid
            << "): " << EscapeForTerminal(Join(command.arguments, " "));
  return true;
}

// From a running launch to the report of its end.
void Supervisor::Supervise() {
  reporter_->Running(record_.launch_id);
  const Clock::time_point began = Clock::now();
  Clock::time_point next_look = began;
  std::optional<Clock::time_point> ending;
  while (!launch_->HasEnded() && stop_signal_ == 0 && !reporter_->IsFenced() && !IsIdle()) {
    if (!ending && reporter_->IsEnding()) ending = Clock::now();
    if (ending && Clock::now() > *ending + kEndingPatience) break;
    if (Clock::now() >= next_look) {
      Observe();
      const bool young = Clock::now() - began < kFirstObservations;
      next_look = Clock::now() + (young ? Clock::duration(kFirstObservePeriod) : kObservePeriod);
    }
    Pump(250);
  }
  const bool idle = !launch_->HasEnded() && stop_signal_ == 0 && IsIdle();
  if (stop_signal_ != 0 || idle) GiveBack();
  std::string exit;
  if (launch_->HasEnded()) {
    exit = launch_->exit();
    ended_cleanly_ = launch_->exited_with_zero();
  } else if (stop_signal_ != 0) {
    exit = "the supervisor was stopped by signal " + std::to_string(stop_signal_);
  } else if (reporter_->IsFenced()) {
    exit = "fenced by an operator";
  } else if (idle) {
    exit = "it had no job";
  } else {
    exit = "ranks waited for others in vain, and mpirun did not end by itself";
  }
  // As agreed, however it went.
  ended_cleanly_ = ended_cleanly_ || idle;
  const bool fault = (launch_->HasEnded() || ending) && !ended_cleanly_ && stop_signal_ == 0 &&
                     !reporter_->IsFenced();
  LOG(INFO) << "launch " << record_.launch_id << ": " << exit;
  FinishLaunch(exit, /*gently=*/!ending, fault);
}

bool Supervisor::IsIdle() const {
  return options_.max_idle_seconds > 0 && reporter_->idle_seconds() >= options_.max_idle_seconds;
}

// Returns when the launch has ended, or has to be ended by signals.
void Supervisor::GiveBack() {
  if (options_.save_seconds == 0 || launch_->HasEnded()) return;
  LOG(INFO) << "gives the fleet back, and waits for " << options_.save_seconds
            << " s at most until its job has saved a checkpoint";
  reporter_->GiveBack();
  const Clock::time_point began = Clock::now();
  const auto patience = std::chrono::duration<double>(options_.save_seconds);
  // A second signal means: at once.
  while (!launch_->HasEnded() && stop_count_ < 2 && Clock::now() < began + patience) {
    const std::optional<bool> leaving = reporter_->IsLeaving();
    if (leaving.has_value() && !*leaving) break;
    if (!leaving.has_value() && Clock::now() > began + kAnswerPatience) break;
    Pump(100);
  }
  LOG_IF(WARNING, !launch_->HasEnded())
      << "the fleet does not end by itself; its job goes on from the last checkpoint that it has";
}

// Notes the launch's processes and shared memory while they can still be seen.
void Supervisor::Observe() {
  const std::vector<ProcessIdentity> now = FindLaunchProcesses(record_.launch_id);
  std::set<ProcessIdentity> processes(record_.processes.begin(), record_.processes.end());
  std::set<std::string> shared(record_.shared_memory.begin(), record_.shared_memory.end());
  const size_t before = processes.size() + shared.size();
  processes.insert(now.begin(), now.end());
  for (const std::string& file : SharedMemoryOf(now)) shared.insert(file);
  // Bounded: a command that starts processes without end must not grow the record with them.
  if (processes.size() + shared.size() == before || processes.size() + shared.size() > 4096) return;
  record_.processes.assign(processes.begin(), processes.end());
  record_.shared_memory.assign(shared.begin(), shared.end());
  SaveRecord();
}

// Ends what is left of the launch, and only then calls it ended.
void Supervisor::FinishLaunch(const std::string& exit, bool gently, bool fault) {
  if (!EndProcesses(gently && launch_ != nullptr && !launch_->HasEnded())) {
    LOG(ERROR) << "processes of launch " << record_.launch_id
               << " can't be killed; its end is not reported";
    return;
  }
  launch_.reset();
  output_.Forward();
  for (const std::string& path : RemoveLeftovers(record_)) {
    LOG(INFO) << "removed what the ended launch has left: " << EscapeForTerminal(path);
  }
  record_.exit = exit;
  SaveRecord();
  reporter_->Ended(record_.launch_id, exit, fault);
}

// Returns false when this was given up because the supervisor itself has to stop.
bool Supervisor::EndProcesses(bool gently) {
  Observe();
  if (gently) {
    const auto deadline = Clock::now() + std::chrono::duration<double>(options_.grace_seconds);
    launch_->Signal(SIGTERM);
    // A second signal to the supervisor means: at once. It may have come with the first.
    while (!launch_->HasEnded() && Clock::now() < deadline && stop_count_ < 2) {
      Pump(50);
    }
  }
  if (launch_ != nullptr) launch_->Signal(SIGKILL);
  const Clock::time_point began = Clock::now();
  Clock::time_point next_log = began + kKillPatience / 3;
  for (;;) {
    const std::vector<ProcessIdentity> left = FindLaunchProcesses(record_.launch_id);
    if (left.empty() && (launch_ == nullptr || launch_->HasEnded())) return true;
    for (const ProcessIdentity& process : left) {
      LOG_IF(INFO, launch_ == nullptr || process != launch_->leader())
          << "kills process " << process.pid << " of launch " << record_.launch_id;
      SignalProcess(process, SIGKILL);
    }
    if (Clock::now() > next_log) {
      LOG(WARNING) << left.size() << " processes of launch " << record_.launch_id
                   << " don't end; the fleet can't be started again before they do";
      next_log = Clock::now() + kKillPatience / 3;
    }
    if (stop_signal_ != 0 && Clock::now() > began + kKillPatience) return false;
    Pump(50);
  }
}

// Returns false when the supervisor has to stop.
bool Supervisor::WaitForAcknowledgement() {
  // Nothing was reported of a launch that never started.
  if (record_.acknowledged) return stop_signal_ == 0;
  if (record_.exit.empty()) return false;
  Clock::time_point deadline = Clock::now() + kStopPatience;
  while (!reporter_->IsAcknowledged()) {
    if (stop_signal_ == 0) deadline = Clock::now() + kStopPatience;
    if (Clock::now() > deadline) {
      LOG(WARNING) << "the coordinator could not be told of the end of launch " << record_.launch_id
                   << "; the next supervisor of this fleet will do so";
      return false;
    }
    Pump(100);
  }
  record_.acknowledged = true;
  SaveRecord();
  return stop_signal_ == 0;
}

void Supervisor::PauseUntil(Clock::time_point when) {
  while (stop_signal_ == 0 && Clock::now() < when) {
    const double left = Seconds(when - Clock::now());
    Pump(static_cast<int>(std::clamp(left * 1000, 1.0, 250.0)));
  }
}

Supervisor::Clock::duration Supervisor::NextPause(double lasted_seconds) {
  if (lasted_seconds >= kSteadySeconds) pause_seconds_ = options_.backoff_seconds;
  const double pause = pause_seconds_;
  pause_seconds_ = std::min(2 * pause, std::max(kLongestPause, options_.backoff_seconds));
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(pause));
}

void Supervisor::Pump(int milliseconds) {
  pollfd events[3] = {{signals_, POLLIN, 0},
                      {reporter_->event(), POLLIN, 0},
                      {launch_ == nullptr ? -1 : launch_->descriptor(), POLLIN, 0}};
  // A launch that has ended keeps its descriptor readable: then only time passes here.
  if (launch_ != nullptr && launch_->HasEnded()) events[2].fd = -1;
  poll(events, 3, milliseconds);
  signalfd_siginfo signal;
  while (read(signals_, &signal, sizeof(signal)) == static_cast<ssize_t>(sizeof(signal))) {
    stop_signal_ = static_cast<int>(signal.ssi_signo);
    if (++stop_count_ == 1) {
      LOG(INFO) << "stops the fleet (signal " << stop_signal_ << "); once more kills it at once";
    }
  }
  uint64_t count;
  while (read(reporter_->event(), &count, sizeof(count)) > 0) {
  }
  output_.Forward();
}

void Supervisor::SaveRecord() {
  std::string error;
  // The record on disk still names the launch, which is what counts.
  if (!file_.Save(record_, &error)) LOG(WARNING) << EscapeForTerminal(error);
}

}  // namespace swinfleet
