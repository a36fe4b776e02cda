#include "coordinator/child_process.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

extern char** environ;

namespace swinfleet::coordinator {
namespace {

using Clock = std::chrono::steady_clock;

int MillisecondsUntil(Clock::time_point deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(0, left + 1));
}

// Sets up descriptors, signals and the process group; 0 or errno.
int Spawn(const std::vector<std::string>& arguments, int output, pid_t* pid) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  const int error = posix_spawn(pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

// Reads what is there; false at the end of the output.
bool ReadSome(int descriptor, size_t limit, std::string* output) {
  char buffer[4096];
  const ssize_t size = read(descriptor, buffer, sizeof(buffer));
  if (size < 0) return errno == EINTR || errno == EAGAIN;
  if (size == 0) return false;
  output->append(buffer, std::min<size_t>(static_cast<size_t>(size), limit - output->size()));
  return true;
}

// Waits until the child (a pidfd) has ended, taking its output; otherwise says what came before.
ChildResult::End Follow(int child, int output, int stop_event, const ChildLimits& limits,
                        std::string* text) {
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(limits.seconds));
  pollfd events[] = {{child, POLLIN, 0}, {stop_event, POLLIN, 0}, {output, POLLIN, 0}};
  while (true) {
    const int left = MillisecondsUntil(deadline);
    const int ready = poll(events, 3, left);
    if (ready < 0 && errno != EINTR) PLOG(FATAL) << "poll";
    if (ready <= 0) {
      if (Clock::now() >= deadline) return ChildResult::End::kTimedOut;
      continue;
    }
    if (events[1].revents != 0) return ChildResult::End::kStopped;
    if (events[2].revents != 0 && !ReadSome(output, limits.output, text)) events[2].fd = -1;
    if (events[0].revents == 0) continue;
    // It has ended; a grandchild may still hold the pipe, so only what is there already is taken.
    while (events[2].fd >= 0 && poll(&events[2], 1, 0) > 0) {
      if (!ReadSome(output, limits.output, text)) events[2].fd = -1;
    }
    return ChildResult::End::kExited;
  }
}

}  // namespace

ChildResult RunChild(const std::vector<std::string>& arguments, const ChildLimits& limits,
                     int stop_event) {
  ChildResult result;
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
    result.code = errno;
    return result;
  }
  std::vector<std::string> command = arguments;
  if (limits.memory > 0) {
    // posix_spawn can't set limits; the shell sets them and becomes the program.
    command = {"/bin/sh", "-c",
               "ulimit -v " + std::to_string(limits.memory >> 10) + " && exec \"$0\" \"$@\""};
    command.insert(command.end(), arguments.begin(), arguments.end());
  }
  pid_t pid = -1;
  const int error = Spawn(command, pipe_ends[1], &pid);
  close(pipe_ends[1]);
  const int child = error == 0 ? static_cast<int>(syscall(SYS_pidfd_open, pid, 0)) : -1;
  if (error == 0 && child >= 0) {
    fcntl(child, F_SETFD, FD_CLOEXEC);
    result.end = Follow(child, pipe_ends[0], stop_event, limits, &result.output);
    close(child);
  } else {
    result.code = error != 0 ? error : errno;
  }
  close(pipe_ends[0]);
  if (error != 0) return result;
  // Whatever of its group is left goes with it; the pid is still ours until it is waited for.
  kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) CHECK_EQ(errno, EINTR);
  if (result.end != ChildResult::End::kExited) return result;
  if (WIFSIGNALED(status)) result.end = ChildResult::End::kSignalled;
  result.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace swinfleet::coordinator
