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

class Admission {
 public:
  using Reply = std::function<void(const grpc::Status&)>;

  explicit Admission(AdmissionOptions options);
  // Ends a check that is under way; those that wait are answered UNAVAILABLE.
  ~Admission();

  // Calls `reply` from the thread of the checks: OK, INVALID_ARGUMENT with the program's messages,
  // RESOURCE_EXHAUSTED when it took too long, or why the check could not be made. Any thread.
  void Check(std::shared_ptr<const JobSpec> spec, Reply reply);
  // As the destructor; Check is answered UNAVAILABLE from now on.
  void Stop();

 private:
  struct Request {
    std::shared_ptr<const JobSpec> spec;
    Reply reply;
  };

  void Work();
  grpc::Status CheckNow(const JobSpec& spec);
  std::string FindProgram() const;

  const AdmissionOptions options_;
  // Readable once the checks are to stop.
  const int stop_event_;
  bool warned_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> requests_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_ADMISSION_H_
