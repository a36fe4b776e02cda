// MPI in this process: one thread makes all MPI calls.
#ifndef SWINFLEET_DISTRIBUTED_MPI_RUNTIME_H_
#define SWINFLEET_DISTRIBUTED_MPI_RUNTIME_H_

#include <memory>

#include "distributed/communicator.h"

namespace swinfleet {

// Initialises MPI on a thread of its own, which from then on makes every MPI call of the process:
// collectives are queued to it, run in order, and are tested with back-off while they wait (no
// spinning on a core that a rank computes on).
class MpiRuntime {
 public:
  // Throws Error when MPI can't be initialised. argc and argv may be null.
  MpiRuntime();
  // Finalises MPI. All communicators must be gone.
  ~MpiRuntime();

  int world_rank() const;
  int world_size() const;
  // This rank's number among the ranks on its host, and how many there are.
  int local_rank() const;
  int local_size() const;

  // All ranks of the mpirun.
  std::unique_ptr<Communicator> World();
  // World ranks 0 .. ranks - 1, which alone call this (MPI_Comm_create_group). `tag` must differ
  // between groups that are made at the same time.
  std::unique_ptr<Communicator> Group(int ranks, int tag);

  // True when this process was started by mpirun (or a PMIx launcher such as srun).
  static bool StartedByLauncher();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_MPI_RUNTIME_H_
