// What a worker does with its coordinator's assignments, one after the other.
#ifndef SWINFLEET_WORKER_SERVE_H_
#define SWINFLEET_WORKER_SERVE_H_

#include <functional>
#include <memory>
#include <string>

#include "distributed/communicator.h"
#include "worker/attempt.h"
#include "worker/coordinator_client.h"
#include "worker/reporter.h"
#include "worker/watchdog.h"

namespace swinfleet {

// What Serve needs of the process it runs in.
struct ServeEnvironment {
  int rank = 0;
  int world_size = 1;
  // The communicator of world ranks 0 .. ranks - 1, which alone call it. `tag` tells the groups of
  // attempts that follow each other apart.
  std::function<std::unique_ptr<Communicator>(int ranks, int tag)> make_group;
  // RunAttempt, or a test's own.
  std::function<AttemptResult(const AttemptOptions&, Communicator*, Reporter*)> run_attempt;
  // Ends the process, on the watchdog's thread: this rank has waited past the deadline.
  std::function<void(const StuckNews&)> on_stuck;
};

// Takes assignments until the coordinator shuts the worker down or `client` is told to stop;
// returns an exit code: kExitSuccess when this rank was idle then, kExitStopped when it left an
// attempt with a checkpoint. In the latter case the attempt's end is not reported: the job goes on
// elsewhere once the launch has ended. What run_attempt throws passes through, with the attempt
// still under way in `client`, so that what is logged about it reaches the job's log.
int Serve(const ServeEnvironment& environment, CoordinatorClient* client);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_SERVE_H_
