// kill -9 of a process right before or right after one of its writes to the coordinator's database.
#ifndef SWINFLEET_TESTS_COORDINATOR_KILL_POINT_H_
#define SWINFLEET_TESTS_COORDINATOR_KILL_POINT_H_

#include <atomic>
#include <cstdint>

namespace swinfleet::coordinator {

// Lies in memory that the test shares with its coordinators.
struct KillPoint {
  // Writes, cuts and deletions of jobs.sqlite and the files beside it, in all lives.
  std::atomic<uint64_t> writes{0};
  // The one at which to die; 0: none.
  std::atomic<uint64_t> at{0};
  // It is done before.
  std::atomic<bool> after{false};
};

// From now on all that SQLite writes in this process is counted, and ends it where it is to. The
// log is brought into the database every few transactions, so that these writes are many too.
void WatchWrites(KillPoint* point);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_KILL_POINT_H_
