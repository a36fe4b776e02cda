#include "tests/coordinator/nursery.h"

#include <glog/logging.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace swinfleet::coordinator {
namespace {

constexpr size_t kMaxText = 4096;

std::string Receive(int socket) {
  char text[kMaxText];
  ssize_t size;
  do {
    size = read(socket, text, sizeof(text));
  } while (size < 0 && errno == EINTR);
  return {text, size > 0 ? static_cast<size_t>(size) : 0};
}

void Send(int socket, const std::string& text) {
  PCHECK(send(socket, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

// A child that has not ended can't hold up the end of the test.
void DieWithParent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

int WaitFor(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

Nursery::Nursery(Body body) {
  int ends[2];
  // Keeps messages apart.
  PCHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  pid_ = fork();
  PCHECK(pid_ >= 0);
  socket_ = ends[pid_ == 0 ? 1 : 0];
  close(ends[pid_ == 0 ? 0 : 1]);
  if (pid_ == 0) Tend(body);
}

Nursery::~Nursery() {
  close(socket_);
  WaitFor(pid_);
}

void Nursery::Tend(const Body& body) const {
  DieWithParent();
  pid_t child = -1;
  for (;;) {
    // "b" with the argument, or "s" with a signal; nothing when the test has ended.
    const std::string request = Receive(socket_);
    if (request.empty()) break;
    if (request[0] != 'b') {
      kill(child, std::stoi(request.substr(1)));
      Send(socket_, std::to_string(WaitFor(child)));
      child = -1;
      continue;
    }
    int ready[2];
    PCHECK(pipe(ready) == 0);
    child = fork();
    PCHECK(child >= 0);
    if (child == 0) {
      DieWithParent();
      close(ready[0]);
      close(socket_);
      body(request.substr(1), ready[1]);
      // The test's own ends are not this process's business.
      _exit(0);
    }
    close(ready[1]);
    const std::string line = Receive(ready[0]);
    close(ready[0]);
    Send(socket_, "+" + line);
  }
  if (child > 0) {
    kill(child, SIGKILL);
    WaitFor(child);
  }
  _exit(0);
}

std::string Nursery::Ask(const std::string& request) const {
  Send(socket_, request);
  std::string answer = Receive(socket_);
  CHECK(!answer.empty()) << "the nursery has died";
  return answer;
}

std::optional<std::string> Nursery::Begin(const std::string& argument) {
  std::string line = Ask("b" + argument).substr(1);
  if (line.empty()) return std::nullopt;
  return line;
}

// Signal 0 does nothing.
int Nursery::Reap() { return Stop(0); }

int Nursery::Stop(int signal) { return std::stoi(Ask("s" + std::to_string(signal))); }

}  // namespace swinfleet::coordinator
