#include "kernels/thread_placement.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <mutex>
#include <set>
#include <thread>

#include "kernels/cpu/parallel.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

pid_t ThreadId() { return static_cast<pid_t>(syscall(SYS_gettid)); }

CpuList CpusOf(void (*begin)()) {
  CpuList cpus;
  std::thread([&] {
    begin();
    cpus = AllowedCpus();
  }).join();
  return cpus;
}

TEST(ThreadPlacement, ThreadsThatComputeAndOthers) {
  const CpuList all = AllowedCpus();
  const CpuList first = {all.front()}, last = {all.back()};
  {
    const ThreadPlacement placement({.compute = {first, last, first}, .helpers = last});
    EXPECT_EQ(AllowedCpus(), first);
    std::vector<CpuList> team(3);
    ParallelFor(3, 3, 1, [&](int64_t, int64_t, int part) { team[part] = AllowedCpus(); });
    EXPECT_EQ(team, (std::vector<CpuList>{first, last, first}));
    EXPECT_EQ(CpusOf(LeaveComputeCpus), last);
    EXPECT_EQ(CpusOf(WorkInBackground), last);
  }
  EXPECT_EQ(AllowedCpus(), all);
  std::vector<CpuList> team(3);
  ParallelFor(3, 3, 1, [&](int64_t, int64_t, int part) { team[part] = AllowedCpus(); });
  EXPECT_EQ(team, std::vector<CpuList>(3, all));
  EXPECT_EQ(CpusOf(LeaveComputeCpus), all);
}

TEST(ThreadPlacement, CpusThatAreNotThereAreRefused) {
  const CpuList all = AllowedCpus();
  const CpuList none = {8000};
  EXPECT_THROW(ThreadPlacement({.compute = {all}, .helpers = none}), Error);
  EXPECT_THROW(ThreadPlacement({.compute = {all, none}, .helpers = all}), Error);
  EXPECT_EQ(AllowedCpus(), all);
  EXPECT_EQ(CpusOf(LeaveComputeCpus), all);
}

TEST(WorkInBackground, GivesWayToOthers) {
  const int before = getpriority(PRIO_PROCESS, ThreadId());
  std::thread([] {
    WorkInBackground();
    EXPECT_GE(getpriority(PRIO_PROCESS, ThreadId()), 10);
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
  }).join();
  EXPECT_EQ(getpriority(PRIO_PROCESS, ThreadId()), before);
}

// Threads that end take with them what they keep.
TEST(ParallelFor, KeepsItsThreads) {
  const auto team = [](int parts) {
    std::mutex mutex;
    std::set<pid_t> threads;
    ParallelFor(4, parts, 1, [&](int64_t, int64_t, int) {
      const std::lock_guard lock(mutex);
      threads.insert(ThreadId());
    });
    return threads;
  };
  const std::set<pid_t> before = team(4);
  EXPECT_EQ(before.size(), 4u);
  EXPECT_EQ(team(3).size(), 3u);
  EXPECT_EQ(team(1).size(), 1u);
  EXPECT_EQ(team(2).size(), 2u);
  EXPECT_EQ(team(4), before);
}

}  // namespace
}  // namespace swinfleet
