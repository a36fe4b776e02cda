#include "coordinator/supervisor/launch.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace swinfleet {
namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read_end = ends[0];
    write_end = ends[1];
    return true;
  }
  void CloseRead() {
    if (read_end >= 0) close(read_end);
    read_end = -1;
  }
  void CloseWrite() {
    if (write_end >= 0) close(write_end);
    write_end = -1;
  }
  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
};

std::vector<std::string> Environment(const LaunchCommand& command) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    bool replaced = false;
    for (const auto& [name, value] : command.variables) {
      replaced = replaced || text.rfind(name + "=", 0) == 0;
    }
    if (!replaced) variables.push_back(text);
  }
  for (const auto& [name, value] : command.variables) variables.push_back(name + "=" + value);
  return variables;
}

std::vector<char*> Pointers(std::vector<std::string>* strings) {
  std::vector<char*> pointers;
  for (std::string& text : *strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Runs in the child of a process with threads: only async-signal-safe calls from here to exec.
[[noreturn]] void RunChild(const char* program, char* const* arguments, char* const* environment,
                           const LaunchCommand& command, Pipe* go, Pipe* failed) {
  setsid();
  // A parent that is dead already is noticed below, where it does not say to go.
  if (command.ends_with_parent) prctl(PR_SET_PDEATHSIG, SIGTERM);
  // Without this the child itself would keep the pipe open, and never see the parent's death.
  close(go->write_end);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD}) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(command.output, STDOUT_FILENO) < 0 ||
      dup2(command.output, STDERR_FILENO) < 0) {
    _exit(127);
  }
  if (input > STDERR_FILENO) close(input);
  char word = 0;
  ssize_t got;
  do {
    got = read(go->read_end, &word, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) _exit(127);
  execve(program, arguments, environment);
  const int reason = errno;
  // Nobody is left to tell when this fails.
  [[maybe_unused]] const ssize_t told = write(failed->write_end, &reason, sizeof(reason));
  _exit(127);
}

void KillAndReap(pid_t pid) {
  kill(pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

std::string FindProgram(const std::string& name) {
  const auto executable = [](const std::string& path) {
    struct stat status;
    return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
           access(path.c_str(), X_OK) == 0;
  };
  if (name.empty()) return "";
  if (name.find('/') != std::string::npos) return executable(name) ? name : "";
  const char* folders = std::getenv("PATH");
  std::istringstream list(folders == nullptr ? "/usr/bin:/bin" : folders);
  for (std::string folder; std::getline(list, folder, ':');) {
    const std::string path = (folder.empty() ? "." : folder) + "/" + name;
    if (executable(path)) return path;
  }
  return "";
}

std::unique_ptr<Launch> Launch::Start(
    const LaunchCommand& command,
    const std::function<bool(const ProcessIdentity&, std::string*)>& record, std::string* error) {
  const auto failure = [&](const std::string& what) {
    *error = what + ": " + std::strerror(errno);
    return nullptr;
  };
  const std::string program = FindProgram(command.arguments.at(0));
  if (program.empty()) {
    *error = "there is no program " + command.arguments[0];
    return nullptr;
  }
  std::vector<std::string> arguments = command.arguments;
  std::vector<std::string> environment = Environment(command);
  const std::vector<char*> argument_pointers = Pointers(&arguments);
  const std::vector<char*> environment_pointers = Pointers(&environment);
  Pipe go, failed;
  if (!go.Open() || !failed.Open()) return failure("can't make a pipe");
  const pid_t pid = fork();
  if (pid < 0) return failure("can't start a process");
  if (pid == 0) {
    RunChild(program.c_str(), argument_pointers.data(), environment_pointers.data(), command, &go,
             &failed);
  }
  go.CloseRead();
  failed.CloseWrite();
  // The child waits, so it is there to be looked at.
  const std::optional<uint64_t> start_time = StartTimeOf(pid);
  const ProcessIdentity leader = {pid, start_time.value_or(0)};
  if (!start_time || !record(leader, error)) {
    if (!start_time) *error = "the started process ended at once";
    KillAndReap(pid);
    return nullptr;
  }
  int reason = 0;
  const bool told = write(go.write_end, "x", 1) == 1;
  ssize_t got;
  do {
    got = read(failed.read_end, &reason, sizeof(reason));
  } while (got < 0 && errno == EINTR);
  if (!told || got != 0) {
    errno = got == static_cast<ssize_t>(sizeof(reason)) ? reason : EPIPE;
    failure("can't run " + program);
    KillAndReap(pid);
    return nullptr;
  }
  return std::unique_ptr<Launch>(new Launch(leader, true));
}

std::unique_ptr<Launch> Launch::Adopt(const ProcessIdentity& leader) {
  return std::unique_ptr<Launch>(new Launch(leader, false));
}

Launch::Launch(const ProcessIdentity& leader, bool is_child)
    : leader_(leader), is_child_(is_child), descriptor_(OpenProcess(leader.pid)) {}

Launch::~Launch() {
  if (descriptor_ >= 0) close(descriptor_);
  if (is_child_) waitpid(leader_.pid, nullptr, WNOHANG);
}

bool Launch::HasEnded() {
  if (ended_) return true;
  if (!is_child_) {
    ended_ = !IsAlive(leader_);
    if (ended_) exit_ = "ended, exit code unknown";
    return ended_;
  }
  // The zombie stays until the destructor, so that its number, which is also that of the process
  // group, isn't given to others while the group is still being signalled.
  siginfo_t info = {};
  const int result =
      waitid(P_PID, static_cast<id_t>(leader_.pid), &info, WEXITED | WNOHANG | WNOWAIT);
  if (result != 0) {
    CHECK_EQ(errno, EINTR) << "process " << leader_.pid << " is not a child any more";
    return false;
  }
  if (info.si_pid == 0) return false;
  ended_ = true;
  if (info.si_code == CLD_EXITED) {
    exit_ = "exit code " + std::to_string(info.si_status);
    exited_with_zero_ = info.si_status == 0;
  } else {
    exit_ = "killed by signal " + std::to_string(info.si_status) + " (" +
            strsignal(info.si_status) + ")";
  }
  return true;
}

void Launch::Signal(int signal) {
  if (is_child_ || IsAlive(leader_)) kill(-leader_.pid, signal);
}

}  // namespace swinfleet
