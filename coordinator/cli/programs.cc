#include "coordinator/cli/programs.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "coordinator/supervisor/launch.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxOutput = size_t{64} << 10;

std::string OwnFolder() {
  std::error_code failure;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", failure);
  return failure ? "" : self.parent_path().string();
}

[[noreturn]] void RunChild(const std::vector<std::string>& arguments, int output,
                           unsigned long long memory_bytes) {
  setpgid(0, 0);
  const int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
      dup2(output, STDERR_FILENO) < 0) {
    _exit(127);
  }
// AddressSanitizer reserves terabytes of address space.
#ifndef __SANITIZE_ADDRESS__
  const rlimit limit = {memory_bytes, memory_bytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(127);
#endif
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  execv(pointers[0], pointers.data());
  _exit(127);
}

// Reads until the end of the pipe; false when the deadline comes first.
bool ReadOutput(int pipe, Clock::time_point deadline, std::string* output) {
  char buffer[4096];
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd event = {pipe, POLLIN, 0};
    if (poll(&event, 1, static_cast<int>(left)) <= 0) continue;
    const ssize_t got = read(pipe, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return true;
    output->append(buffer, std::min(static_cast<size_t>(got), kMaxOutput - output->size()));
  }
}

}  // namespace

std::string FindSibling(const std::string& program) {
  const std::string folder = OwnFolder();
  if (!folder.empty()) {
    const std::string beside = FindProgram(folder + "/" + program);
    if (!beside.empty()) return beside;
  }
  return FindProgram(program);
}

std::vector<std::string> SiblingCommands() {
  constexpr char kPrefix[] = "swinfleet-";
  std::vector<std::string> commands;
  std::error_code failure;
  for (std::filesystem::directory_iterator entry(OwnFolder(), failure), end;
       !failure && entry != end; entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    if (name.rfind(kPrefix, 0) == 0 && !FindProgram(entry->path().string()).empty()) {
      commands.push_back(name.substr(sizeof(kPrefix) - 1));
    }
  }
  std::sort(commands.begin(), commands.end());
  return commands;
}

ProgramResult RunBounded(const std::vector<std::string>& arguments, double seconds,
                         unsigned long long memory_bytes) {
  ProgramResult result;
  const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                        std::chrono::duration<double>(seconds));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return result;
  const pid_t pid = fork();
  if (pid == 0) RunChild(arguments, ends[1], memory_bytes);
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return result;
  }
  bool in_time = ReadOutput(ends[0], deadline, &result.output);
  close(ends[0]);
  // A program can close its output and go on, so its end is waited for by the same deadline.
  int status = 0;
  pid_t ended = 0;
  while (in_time && (ended = waitpid(pid, &status, WNOHANG)) == 0) {
    in_time = Clock::now() < deadline;
    usleep(5000);
  }
  if (ended != pid) {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    result.kind = ProgramResult::Kind::kTimedOut;
    return result;
  }
  result.kind = WIFEXITED(status) ? ProgramResult::Kind::kExited : ProgramResult::Kind::kSignalled;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
  return result;
}

}  // namespace swinfleet
