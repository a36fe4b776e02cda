// glog as all programs of the worker use it: everything to stderr.
#ifndef SWINFLEET_WORKER_LOGGING_H_
#define SWINFLEET_WORKER_LOGGING_H_

namespace swinfleet {

// Called once, first in main.
void InitLogging(const char* program);
// From now on every line names the rank.
void SetLoggedRank(int rank);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_LOGGING_H_
