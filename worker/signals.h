// SIGINT, SIGTERM and SIGUSR1 (what batch systems send before the time limit, and mpirun passes on
// to its ranks) as ordinary function calls on a thread of their own.
#ifndef SWINFLEET_WORKER_SIGNALS_H_
#define SWINFLEET_WORKER_SIGNALS_H_

#include <functional>
#include <thread>

namespace swinfleet {

// Made before any other thread, because all threads must block these signals. The first of them
// calls `on_signal`; another one, half a second later or more, ends the process at once with exit
// code 128 + signal. (Launchers repeat a signal within moments; people do not.)
class SignalWatcher {
 public:
  SignalWatcher();
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

  // Starts watching; signals that came before are seen now. Called once.
  void Start(std::function<void(int signal)> on_signal);
  // Afterwards `on_signal` is not called any more, and these signals do nothing.
  void Stop();

 private:
  void Watch(const std::function<void(int signal)>& on_signal);

  int signal_fd_ = -1;
  int stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_SIGNALS_H_
