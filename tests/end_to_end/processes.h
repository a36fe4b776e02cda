// Child processes of an end-to-end test. They, and all that they start, carry a mark of the test in
// their environment, by which they are found and killed at its end, also if the test itself is
// killed.
#ifndef SWINFLEET_TESTS_END_TO_END_PROCESSES_H_
#define SWINFLEET_TESTS_END_TO_END_PROCESSES_H_

#include <sys/types.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace swinfleet {

// The whole file, or an empty text if it can't be read.
std::string ReadFile(const std::string& path);

// Checks with pauses until `condition` holds; false when it doesn't in time. The time is for a
// machine that is busy with other things: on an idle one nothing here takes a tenth of it.
bool WaitUntil(const std::function<bool()>& condition, double seconds = 120,
               double pause_seconds = 0.003);

// A program that runs in a process group of its own; what it prints goes to files in `folder`.
class Process {
 public:
  Process(const std::vector<std::string>& arguments, const std::string& folder,
          const std::string& name);

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  bool Ended() const;
  // The exit code, 128 + signal, or -1 when it has not ended in time.
  int Wait(double seconds = 120) const;
  std::string Out() const { return ReadFile(base_ + ".out"); }
  std::string Err() const { return ReadFile(base_ + ".err"); }
  // Waits until it has printed the text to standard error.
  bool WaitForErr(const std::string& text) const;

 private:
  std::string base_;
  pid_t pid_ = -1;
};

// Everything that was started by this test and still runs.
class ProcessTree {
 public:
  ProcessTree();
  // Kills all of it.
  ~ProcessTree();
  ProcessTree(const ProcessTree&) = delete;
  ProcessTree& operator=(const ProcessTree&) = delete;

  // Processes whose program has this name; all, with an empty name.
  std::vector<pid_t> Find(const std::string& program) const;
  // SIGKILL to all of them at once; returns when they are gone.
  void KillAll();

 private:
  std::string mark_;
  // Files in shared memory that the killed ones have left, for the end to remove.
  std::set<std::string> leftovers_;
  // Its other end is held by a process that kills the tree when this one is gone.
  int guardian_pipe_ = -1;
  pid_t guardian_ = -1;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_END_TO_END_PROCESSES_H_
