// One attempt at a job, on the ranks of a communicator.
#ifndef SWINFLEET_WORKER_ATTEMPT_H_
#define SWINFLEET_WORKER_ATTEMPT_H_

#include <cstdint>
#include <string>

#include "core/config/job_config.h"
#include "distributed/communicator.h"
#include "proto/roots.h"
#include "worker/compute_device.h"
#include "worker/reporter.h"

namespace swinfleet {

struct AttemptOptions {
  JobConfig config;
  // The job specification as its user wrote it, kept in run.json and in checkpoints.
  std::string spec_text;
  // What the run folder belongs to, if there is no coordinator's job id to tell: the specification
  // without what may change from one start to the next (ranks, stage, checkpoints, threads).
  std::string identity_text;
  std::string job_id;
  int64_t attempt = 1;
  // The checkpoint to resume from, or an older one if it is bad. Empty: the newest good one in the
  // run folder, which is there when weights were imported, or when a report was lost with
  // everything else; without one, from the beginning.
  std::string resume_from;
  // Where its paths may lead; empty: anywhere.
  PathRoots roots;
  // Keeps threads on CPUs where ranks of the attempt share a host.
  bool pin = true;
  // What was asked for, what was taken (ComputeDevice's), and the GPU that this rank has; null: it
  // computes on the CPU. Whether it is one is the same on all ranks.
  DeviceRequest device = DeviceRequest::kCpu;
  std::string device_text = "the CPU";
  Accelerator* gpu = nullptr;
};

// kStopped: the ranks leave (Reporter::StopRequested); the job goes on from its last checkpoint.
enum class Outcome { kSucceeded, kFailed, kCancelled, kStopped };

struct AttemptResult {
  Outcome outcome = Outcome::kSucceeded;
  // Why it failed, for people; empty otherwise.
  std::string message;
  TrainingProgress progress;
  std::string last_checkpoint;
};

// Trains until the job's end. Every rank of `communicator` calls it with the same options and gets
// the same result. Errors that every rank can leave together (a configuration that can't work, data
// that isn't there at the first attempt, a broken picture, a run folder of another job, ten steps
// in a row that are not finite, a path that leads out of the roots) end as kFailed. Any other error
// throws, and the process is to end: one that one rank meets in the midst of a step, because the
// other ranks wait in a collective, and data that a later attempt does not find, because the next
// one may.
AttemptResult RunAttempt(const AttemptOptions& options, Communicator* communicator,
                         Reporter* reporter);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_ATTEMPT_H_
