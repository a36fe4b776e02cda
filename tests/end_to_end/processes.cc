#include "tests/end_to_end/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMark[] = "SWINFLEET_TEST_MARK";

// How the children that have been waited for have ended.
std::map<pid_t, int>& EndedChildren() {
  static std::map<pid_t, int> ended;
  return ended;
}

// Also takes the orphans of killed children, which would otherwise stay as zombies.
void Reap() {
  int status = 0;
  while (true) {
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    EndedChildren()[pid] = status;
  }
}

// Whether the process was started with `variable`, which is NAME=VALUE, in its environment.
bool HasVariable(pid_t pid, const std::string& variable) {
  const std::string all = '\0' + ReadFile("/proc/" + std::to_string(pid) + "/environ");
  return all.find('\0' + variable + '\0') != std::string::npos;
}

std::string ProgramOf(pid_t pid) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe", error)
      .filename()
      .string();
}

std::vector<pid_t> Marked(const std::string& mark) {
  std::vector<pid_t> found;
  DIR* folder = opendir("/proc");
  if (folder == nullptr) throw std::runtime_error("/proc can't be read");
  while (const dirent* entry = readdir(folder)) {
    const pid_t pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid > 0 && HasVariable(pid, mark)) found.push_back(pid);
  }
  closedir(folder);
  return found;
}

// Files of shared memory that the process maps.
std::set<std::string> SharedMemoryOf(pid_t pid) {
  std::set<std::string> files;
  std::istringstream maps(ReadFile("/proc/" + std::to_string(pid) + "/maps"));
  for (std::string line; std::getline(maps, line);) {
    const size_t begin = line.find("/dev/shm/");
    if (begin != std::string::npos) files.insert(line.substr(begin));
  }
  return files;
}

// Returns what they may leave in shared memory.
std::set<std::string> KillMarked(const std::string& mark) {
  std::set<std::string> leftovers;
  // Again and again: what is found may be starting others.
  WaitUntil(
      [&] {
        const std::vector<pid_t> pids = Marked(mark);
        for (const pid_t pid : pids) leftovers.merge(SharedMemoryOf(pid));
        for (const pid_t pid : pids) kill(pid, SIGKILL);
        return pids.empty();
      },
      30);
  return leftovers;
}

[[noreturn]] void ExecChild(std::vector<std::string> arguments, const std::string& base) {
  setpgid(0, 0);
  const int in = open("/dev/null", O_RDONLY);
  const int out = open((base + ".out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err = open((base + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (in < 0 || out < 0 || err < 0) _exit(127);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

}  // namespace

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool WaitUntil(const std::function<bool()>& condition, double seconds, double pause_seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    Reap();
    if (condition()) return true;
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::duration<double>(pause_seconds));
  }
}

Process::Process(const std::vector<std::string>& arguments, const std::string& folder,
                 const std::string& name)
    : base_(folder + "/" + name) {
  pid_ = fork();
  if (pid_ == 0) ExecChild(arguments, base_);
  if (pid_ < 0) throw std::runtime_error("fork failed");
  // The number may have belonged to a child before.
  EndedChildren().erase(pid_);
}

void Process::Signal(int signal) const {
  if (!Ended()) kill(pid_, signal);
}

bool Process::Ended() const {
  Reap();
  return EndedChildren().count(pid_) > 0;
}

int Process::Wait(double seconds) const {
  if (!WaitUntil([this] { return Ended(); }, seconds)) return -1;
  const int status = EndedChildren().at(pid_);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool Process::WaitForErr(const std::string& text) const {
  return WaitUntil([&] { return Err().find(text) != std::string::npos; });
}

ProcessTree::ProcessTree() {
  // Orphans become children of this process, so that they can be waited for.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const std::string value =
      std::to_string(getpid()) + "-" + std::to_string(Clock::now().time_since_epoch().count());
  mark_ = std::string(kMark) + "=" + value;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  guardian_ = fork();
  if (guardian_ == 0) {
    setsid();
    close(ends[1]);
    char byte = 0;
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {
    }
    for (const std::string& file : KillMarked(mark_)) unlink(file.c_str());
    _exit(0);
  }
  close(ends[0]);
  guardian_pipe_ = ends[1];
  setenv(kMark, value.c_str(), 1);
}

ProcessTree::~ProcessTree() {
  KillAll();
  for (const std::string& file : leftovers_) unlink(file.c_str());
  unsetenv(kMark);
  close(guardian_pipe_);
  WaitUntil([this] { return EndedChildren().erase(guardian_) > 0; });
}

std::vector<pid_t> ProcessTree::Find(const std::string& program) const {
  std::vector<pid_t> found;
  for (const pid_t pid : Marked(mark_)) {
    if (program.empty() || ProgramOf(pid) == program) found.push_back(pid);
  }
  return found;
}

void ProcessTree::KillAll() { leftovers_.merge(KillMarked(mark_)); }

}  // namespace swinfleet
