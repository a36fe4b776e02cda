// Where the threads of this process run, and which of them give way to others.
#ifndef SWINFLEET_KERNELS_THREAD_PLACEMENT_H_
#define SWINFLEET_KERNELS_THREAD_PLACEMENT_H_

#include <vector>

namespace swinfleet {

// Numbers of logical CPUs as the system has them.
using CpuList = std::vector<int>;

// The CPUs that the calling thread may run on, ascending. Throws Error when the system doesn't say.
CpuList AllowedCpus();

// What a process's threads may run on.
struct ThreadCpus {
  // One list a compute thread: the one that calls the operations, then the others of its team.
  std::vector<CpuList> compute;
  // All other threads.
  CpuList helpers;
};

// Keeps threads on their CPUs as long as it lives. Made and destroyed by the thread that calls the
// operations, which becomes compute thread 0; there is one at a time in a process.
class ThreadPlacement {
 public:
  // Moves the compute threads and all others that there are now. Throws Error when the system
  // refuses; then every thread may run where it might before.
  explicit ThreadPlacement(const ThreadCpus& cpus);
  // From here on every thread may run where the compute thread might before.
  ~ThreadPlacement();
  ThreadPlacement(const ThreadPlacement&) = delete;
  ThreadPlacement& operator=(const ThreadPlacement&) = delete;

 private:
  void Restore();

  const CpuList before_;
};

// For a new thread that computes no part of an operation. It begins on the CPUs of the thread that
// started it, which may be one that computes and has a single core; this moves it to the helpers'.
void LeaveComputeCpus();
// The same, and from here on this thread gives way: where it competes with a compute thread it gets
// about a tenth of the core, and all of what nobody else wants.
void WorkInBackground();

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_THREAD_PLACEMENT_H_
