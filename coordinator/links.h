// How the control loop speaks to those who are connected. Both are thread-safe and never block.
#ifndef SWINFLEET_COORDINATOR_LINKS_H_
#define SWINFLEET_COORDINATOR_LINKS_H_

#include <grpcpp/support/status.h>

#include <cstdint>

#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

// The connection of one rank.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  // Numbers connections in the order in which they were opened, from 1.
  virtual uint64_t id() const = 0;
  // Queues a command. A peer that reads nothing is cut off when its queue is full.
  virtual void Send(const WorkerCommand& command) = 0;
  // Asks for the rank's next message; the one before has been dealt with. So a slow coordinator
  // holds up its peers, and not ever more memory.
  virtual void ReadNext() = 0;
  // Ends the connection once the queue is written.
  virtual void Close(const grpc::Status& status) = 0;
};

// Somebody who watches one job.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;
  // Shows a status. One that is slow sees only the newest. After the last one the stream ends.
  virtual void Offer(const JobStatus& status, bool last) = 0;
  virtual void Close(const grpc::Status& status) = 0;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_LINKS_H_
