// What the worker's programs tell scripts and supervisors.
#ifndef SWINFLEET_WORKER_EXIT_CODES_H_
#define SWINFLEET_WORKER_EXIT_CODES_H_

namespace swinfleet {

inline constexpr int kExitSuccess = 0;
// The job, or the tool, failed.
inline constexpr int kExitFailed = 1;
// Wrong arguments, or a job file that can't work.
inline constexpr int kExitUsage = 2;
// The coordinator refuses this worker.
inline constexpr int kExitRejected = 3;
// Waited in a collective past the deadline: another rank is stuck or out of reach.
inline constexpr int kExitStuck = 4;
// 128 + SIGINT, 128 + SIGTERM.
inline constexpr int kExitCancelled = 130;
inline constexpr int kExitStopped = 143;

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_EXIT_CODES_H_
