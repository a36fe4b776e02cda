#include "kernels/thread_placement.h"

#include <dirent.h>
#include <glog/logging.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/cpu/parallel.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr int kMaxCpus = 8192;
// Of the ten levels below normal each costs about a fifth of the time.
constexpr int kBackgroundNice = 10;

class CpuMask {
 public:
  CpuMask() : set_(CPU_ALLOC(kMaxCpus), Free) {
    CHECK(set_ != nullptr);
    CPU_ZERO_S(size(), set_.get());
  }
  explicit CpuMask(const CpuList& cpus) : CpuMask() {
    for (const int cpu : cpus) CPU_SET_S(cpu, size(), set_.get());
  }
  cpu_set_t* get() { return set_.get(); }
  static size_t size() { return CPU_ALLOC_SIZE(kMaxCpus); }
  bool Has(int cpu) const { return CPU_ISSET_S(cpu, size(), set_.get()); }

 private:
  static void Free(cpu_set_t* set) { CPU_FREE(set); }
  std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set_;
};

// 0, or the error's number.
int Move(pid_t thread, const CpuList& cpus) {
  CpuMask mask(cpus);
  return sched_setaffinity(thread, CpuMask::size(), mask.get()) == 0 ? 0 : errno;
}

// Moves all threads of the process. A thread that ends meanwhile is none any more.
int MoveAll(const CpuList& cpus) {
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir("/proc/self/task"), closedir);
  if (tasks == nullptr) return errno;
  while (const dirent* entry = readdir(tasks.get())) {
    const pid_t thread = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (thread == 0) continue;
    const int code = Move(thread, cpus);
    if (code != 0 && code != ESRCH) return code;
  }
  return 0;
}

// Of a placement; empty without one.
std::mutex helpers_mutex;
CpuList helpers;

void SetHelpers(const CpuList& cpus) {
  const std::lock_guard lock(helpers_mutex);
  helpers = cpus;
}

}  // namespace

CpuList AllowedCpus() {
  CpuMask mask;
  if (sched_getaffinity(0, CpuMask::size(), mask.get()) != 0) {
    throw Error(std::string("the system doesn't say which CPUs this process may use: ") +
                std::strerror(errno));
  }
  CpuList cpus;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (mask.Has(cpu)) cpus.push_back(cpu);
  }
  return cpus;
}

ThreadPlacement::ThreadPlacement(const ThreadCpus& cpus) : before_(AllowedCpus()) {
  const int threads = static_cast<int>(cpus.compute.size());
  CHECK_GT(threads, 0);
  int code = MoveAll(cpus.helpers);
  SetHelpers(cpus.helpers);
  std::vector<int> codes(threads, code);
  if (code == 0) {
    // The team that operations run on; it stays as it is (ParallelFor).
    ParallelFor(threads, threads, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) codes[i] = Move(0, cpus.compute[i]);
    });
  }
  for (const int found : codes) {
    if (found == 0) continue;
    Restore();
    throw Error(std::string("the system refuses to keep threads on CPUs: ") + std::strerror(found));
  }
}

ThreadPlacement::~ThreadPlacement() { Restore(); }

void ThreadPlacement::Restore() {
  SetHelpers({});
  const int code = MoveAll(before_);
  LOG_IF(WARNING, code != 0) << "threads stay on their CPUs: " << std::strerror(code);
}

void LeaveComputeCpus() {
  const std::lock_guard lock(helpers_mutex);
  if (helpers.empty()) return;
  const int code = Move(0, helpers);
  LOG_IF(WARNING, code != 0) << "a thread stays on a CPU that computes: " << std::strerror(code);
}

void WorkInBackground() {
  LeaveComputeCpus();
  // Linux knows both for a thread. Lowering them needs no rights.
  const pid_t thread = static_cast<pid_t>(syscall(SYS_gettid));
  const int nice = getpriority(PRIO_PROCESS, thread);
  if (nice < kBackgroundNice) setpriority(PRIO_PROCESS, thread, kBackgroundNice);
  const sched_param none = {};
  if (sched_getscheduler(0) == SCHED_OTHER) sched_setscheduler(0, SCHED_BATCH, &none);
}

}  // namespace swinfleet
