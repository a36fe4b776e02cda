#include "coordinator/cli/up.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "coordinator/cli/exit_codes.h"
#include "coordinator/cli/programs.h"
#include "coordinator/supervisor/escape.h"
#include "coordinator/supervisor/launch.h"
#include "coordinator/supervisor/process.h"
#include "coordinator/supervisor/record.h"
#include "coordinator/supervisor/supervisor.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// A store of many jobs takes a while to be read.
constexpr auto kStartPatience = std::chrono::seconds(60);
// What the fleet's job may take to save a checkpoint. The supervisor then ends its mpirun within
// ten seconds, and reports that for five at most.
constexpr int kSaveSeconds = 30;
constexpr auto kStopPatience = std::chrono::seconds(kSaveSeconds + 20);

int Refuse(const std::string& what) {
  std::fprintf(stderr, "swinfleet: %s\n", EscapeForTerminal(what).c_str());
  return kExitRefused;
}

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A child whose output goes to a file.
struct Part {
  std::string log;
  // Where the output of this time begins.
  uint64_t log_begin = 0;
  std::unique_ptr<Launch> launch;
};

class LocalFleet {
 public:
  explicit LocalFleet(UpOptions options) : options_(std::move(options)) {}
  ~LocalFleet() {
    if (signals_ >= 0) close(signals_);
    if (lock_ >= 0) close(lock_);
  }
  LocalFleet(const LocalFleet&) = delete;
  LocalFleet& operator=(const LocalFleet&) = delete;

  int Run();

 private:
  std::string Path(const std::string& name) const { return options_.folder + "/" + name; }
  // Each returns what is wrong; empty: nothing.
  std::string Prepare();
  std::string Lock();
  std::string FindPrograms();
  std::string StartCoordinator();
  std::string TryPort(uint32_t port);
  std::string StartFleet();
  std::string Start(const std::vector<std::string>& arguments, Part* part);
  // What the part has said this time, for a failure.
  std::string Said(const Part& part) const;
  void Announce() const;
  // Waits for at most `milliseconds` for a signal, which is then in signal_, or the end of a part.
  void Wait(int milliseconds);
  static bool Runs(const Part& part) { return part.launch && !part.launch->HasEnded(); }
  void Stop(Part* part);

  UpOptions options_;
  std::string coordinator_program_, worker_program_, mpirun_;
  int lock_ = -1;
  int signals_ = -1;
  // The last one that asked for the end, 0: none.
  int signal_ = 0;
  std::string address_;
  Part coordinator_, fleet_;
};

std::string LocalFleet::Prepare() {
  if (!IsValidFleetName(options_.fleet)) {
    return "a fleet's name has at most 64 letters, digits, and ._- after the first, unlike \"" +
           options_.fleet + "\"";
  }
  std::error_code error;
  options_.folder = fs::absolute(options_.folder, error).lexically_normal().string();
  if (!error) fs::create_directories(options_.folder, error);
  if (error) return "can't make the folder " + options_.folder + ": " + error.message();
  coordinator_.log = Path("coordinator.log");
  fleet_.log = Path("fleet.log");
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  signals_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) return std::string("can't wait for signals: ") + strerror(errno);
  const std::string fault = Lock();
  return fault.empty() ? FindPrograms() : fault;
}

std::string LocalFleet::Lock() {
  const std::string file = Path("lock");
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return "can't write into " + options_.folder + ": " + strerror(errno);
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return "`swinfleet up` already runs in " + options_.folder + " (process " + ReadLine(file) +
           "); stop it, or choose another folder with --dir";
  }
  const std::string owner = std::to_string(getpid()) + "\n";
  // For people only.
  if (ftruncate(lock_, 0) != 0 || pwrite(lock_, owner.data(), owner.size(), 0) < 0) return "";
  return "";
}

std::string LocalFleet::FindPrograms() {
  for (const auto& [program, place] : {std::pair("swinfleet-coordinator", &coordinator_program_),
                                       std::pair("swinfleet-worker", &worker_program_)}) {
    *place = FindSibling(program);
    if (!place->empty()) continue;
    return std::string(program) + " is neither beside this program nor in PATH";
  }
  mpirun_ = FindProgram("mpirun");
  return mpirun_.empty() ? "there is no mpirun in PATH; install Open MPI" : "";
}

std::string LocalFleet::Start(const std::vector<std::string>& arguments, Part* part) {
  const int log = open(part->log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return "can't write " + part->log + ": " + strerror(errno);
  part->log_begin = static_cast<uint64_t>(lseek(log, 0, SEEK_END));
  LaunchCommand command;
  command.arguments = arguments;
  command.output = log;
  command.ends_with_parent = true;
  // Open MPI refuses to run as root unless it is told twice.
  if (geteuid() == 0) {
    command.variables = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  }
  // Whatever the environment says is about another coordinator; this one speaks plain text.
  for (const char* name : {"SWINFLEET_TLS_CA", "SWINFLEET_TLS_CERT", "SWINFLEET_TLS_KEY",
                           "SWINFLEET_COORDINATOR_TLS_CERT", "SWINFLEET_COORDINATOR_TLS_KEY",
                           "SWINFLEET_COORDINATOR_TLS_CLIENT_CA"}) {
    command.variables.emplace_back(name, "");
  }
  std::string error;
  const auto record = [](const ProcessIdentity&, std::string*) { return true; };
  part->launch = Launch::Start(command, record, &error);
  close(log);
  return error;
}

std::string LocalFleet::Said(const Part& part) const {
  std::ifstream file(part.log);
  file.seekg(static_cast<std::streamoff>(part.log_begin));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  constexpr size_t kShown = 2000;
  if (text.size() > kShown) text = "..." + text.substr(text.size() - kShown);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string LocalFleet::TryPort(uint32_t port) {
  std::error_code ignored;
  fs::remove(Path("port"), ignored);
  std::string fault = Start({coordinator_program_, "--listen", "127.0.0.1:" + std::to_string(port),
                             "--port-file", Path("port"), "--store", Path("store")},
                            &coordinator_);
  if (!fault.empty()) return fault;
  const Clock::time_point deadline = Clock::now() + kStartPatience;
  while (Runs(coordinator_) && signal_ == 0 && Clock::now() < deadline) {
    const std::string chosen = ReadLine(Path("port"));
    if (!chosen.empty()) {
      address_ = "127.0.0.1:" + chosen;
      return "";
    }
    Wait(20);
  }
  if (signal_ != 0) return "";
  const bool ended = !Runs(coordinator_);
  Stop(&coordinator_);
  return ended ? "the coordinator can't start: " + Said(coordinator_)
               : "the coordinator does not answer; see " + coordinator_.log;
}

std::string LocalFleet::StartCoordinator() {
  // Workers that survived an earlier time know the port of then.
  const std::string last = options_.port == 0 ? ReadLine(Path("port")) : "";
  const bool known = !last.empty() && last.find_first_not_of("0123456789") == std::string::npos;
  if (known && last.size() <= 5 && TryPort(static_cast<uint32_t>(std::stoul(last))).empty()) {
    return "";
  }
  return TryPort(options_.port);
}

std::string LocalFleet::StartFleet() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return "can't find this program's own file: " + error.message();
  return Start({self.string(),
                "fleet",
                "--name",
                options_.fleet,
                "--state-dir",
                Path("fleet"),
                "--coordinator",
                address_,
                "--save-grace",
                std::to_string(kSaveSeconds),
                "--",
                mpirun_,
                "--oversubscribe",
                "--bind-to",
                "none",
                "-np",
                std::to_string(options_.ranks),
                worker_program_,
                "--coordinator",
                address_},
               &fleet_);
}

void LocalFleet::Announce() const {
  // Where scripts look for it.
  std::ofstream(Path("address.new")) << address_ << "\n";
  std::error_code ignored;
  fs::rename(Path("address.new"), Path("address"), ignored);
  const std::string named = address_ == "127.0.0.1:7077" ? "" : " --coordinator " + address_;
  std::printf(
      "coordinator  %s, log %s\n"
      "store        %s\n"
      "fleet        %s, ranks: %u, log %s\n"
      "Submit jobs with: swinfleet submit JOB.yaml%s\n"
      "Ctrl-C stops both.\n",
      address_.c_str(), EscapeForTerminal(coordinator_.log).c_str(),
      EscapeForTerminal(Path("store")).c_str(), options_.fleet.c_str(), options_.ranks,
      EscapeForTerminal(fleet_.log).c_str(), named.c_str());
  std::fflush(stdout);
}

void LocalFleet::Wait(int milliseconds) {
  pollfd events[3] = {{signals_, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLIN, 0}};
  if (Runs(coordinator_)) events[1].fd = coordinator_.launch->descriptor();
  if (Runs(fleet_)) events[2].fd = fleet_.launch->descriptor();
  poll(events, 3, milliseconds);
  signalfd_siginfo signal;
  while (read(signals_, &signal, sizeof(signal)) == static_cast<ssize_t>(sizeof(signal))) {
    // Once more means: at once, as the supervisor takes it.
    if (signal_ != 0 && Runs(fleet_)) fleet_.launch->Signal(SIGTERM);
    signal_ = static_cast<int>(signal.ssi_signo);
  }
}

void LocalFleet::Stop(Part* part) {
  if (!Runs(*part)) return;
  part->launch->Signal(SIGTERM);
  const Clock::time_point deadline = Clock::now() + kStopPatience;
  while (Runs(*part) && Clock::now() < deadline) Wait(100);
  if (Runs(*part)) part->launch->Signal(SIGKILL);
  while (Runs(*part)) Wait(100);
}

int LocalFleet::Run() {
  std::string fault = Prepare();
  if (!fault.empty()) return Refuse(fault);
  fault = StartCoordinator();
  if (fault.empty() && signal_ == 0) fault = StartFleet();
  if (fault.empty() && signal_ == 0) Announce();
  // 250 ms: where the kernel has no descriptors of processes.
  while (fault.empty() && signal_ == 0 && Runs(coordinator_) && Runs(fleet_)) Wait(250);
  if (fault.empty() && signal_ == 0) {
    const Part& ended = Runs(coordinator_) ? fleet_ : coordinator_;
    fault = std::string(&ended == &fleet_ ? "the fleet" : "the coordinator") + " has ended (" +
            ended.launch->exit() + "): " + Said(ended);
  }
  std::error_code ignored;
  fs::remove(Path("address"), ignored);
  // The fleet first, so that its end is still reported.
  if (Runs(fleet_)) std::printf("stopping the fleet and the coordinator\n");
  std::fflush(stdout);
  Stop(&fleet_);
  Stop(&coordinator_);
  if (!fault.empty()) return Refuse(fault);
  return signal_ == SIGINT ? kExitInterrupted : kExitOk;
}

}  // namespace

std::string DefaultUpFolder() {
  return (fs::path(DefaultStateFolder()).parent_path() / "up").string();
}

int RunUp(const UpOptions& options) {
  BlockStopSignals();
  return LocalFleet(options).Run();
}

}  // namespace swinfleet
