#include "worker/signals.h"

#include <glog/logging.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kRepeatGrace = std::chrono::milliseconds(500);

}  // namespace

SignalWatcher::SignalWatcher() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  PCHECK(signal_fd_ >= 0 && stop_fd_ >= 0) << "can't watch signals";
}

SignalWatcher::~SignalWatcher() {
  Stop();
  close(signal_fd_);
  close(stop_fd_);
}

void SignalWatcher::Stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  PCHECK(write(stop_fd_, &one, sizeof(one)) == sizeof(one)) << "eventfd";
  thread_.join();
}

void SignalWatcher::Start(std::function<void(int signal)> on_signal) {
  CHECK(!thread_.joinable()) << "started twice";
  thread_ = std::thread([this, on_signal = std::move(on_signal)] { Watch(on_signal); });
}

void SignalWatcher::Watch(const std::function<void(int signal)>& on_signal) {
  std::optional<Clock::time_point> first;
  while (true) {
    pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) {
      PCHECK(errno == EINTR) << "poll";
      continue;
    }
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
    const int signal = static_cast<int>(info.ssi_signo);
    if (!first) {
      first = Clock::now();
      LOG(WARNING) << "got signal " << signal << " (" << strsignal(signal)
                   << "); a second one ends this process at once";
      on_signal(signal);
    } else if (Clock::now() - *first >= kRepeatGrace) {
      _exit(128 + signal);
    }
  }
}

}  // namespace swinfleet
