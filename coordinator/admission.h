// Asks `swinfleet-plan --check` whether a job can work at all, in a child process with limits: what
// that takes (the model's code) is not in this program, and no job can take the coordinator down.
#ifndef SWINFLEET_COORDINATOR_ADMISSION_H_
#define SWINFLEET_COORDINATOR_ADMISSION_H_

#include <grpcpp/support/status.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>

#include "coordinator/check_limits.h"
#include "proto/job.pb.h"

namespace swinfleet::coordinator {

struct AdmissionOptions {
  // The program; empty: it is looked for beside this one and in PATH, and without it every job is
  // accepted.
  std::string program;
  double seconds = kCheckSeconds;
  // Address space of the child, in bytes.
  uint64_t memory = kCheckMemory;
};

// Thread-safe. What was found possible is remembered, so that the jobs of a sweep, which differ in
// their names and folders alone, do not wait for a check each.
class Admission {
 public:
  using Reply = std::function<void(const grpc::Status&)>;

  explicit Admission(AdmissionOptions options);
  // Ends a check that is under way; those that wait are answered UNAVAILABLE.
  ~Admission();

  // Calls `reply`, at once or from the thread of the checks: OK, INVALID_ARGUMENT with the
  // program's messages, RESOURCE_EXHAUSTED when it took too long, or why the check could not be
  // made. Any thread.
  void Check(std::shared_ptr<const JobSpec> spec, Reply reply);
  // As the destructor; Check is answered UNAVAILABLE from now on.
  void Stop();

 private:
  struct Request {
    std::shared_ptr<const JobSpec> spec;
    std::string question;
    Reply reply;
  };

  void Work();
  grpc::Status CheckNow(const JobSpec& spec);
  std::string FindProgram() const;
  // What a check of the job depends on, and the program that answers it; empty: too long to keep.
  std::string Question(const JobSpec& spec) const;
  // The caller holds mutex_.
  void Remember(const std::string& question);

  const AdmissionOptions options_;
  // Readable once the checks are to stop.
  const int stop_event_;
  bool warned_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> requests_;
  // Those that were answered with yes, and the order in which they came.
  std::unordered_set<std::string> possible_;
  std::deque<std::string> possible_order_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_ADMISSION_H_
