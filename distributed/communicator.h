// Collectives between the ranks of a job.
#ifndef SWINFLEET_DISTRIBUTED_COMMUNICATOR_H_
#define SWINFLEET_DISTRIBUTED_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace swinfleet {

// Where a rank is in its sequence of collectives: what heartbeats and the flight recorder tell.
struct CollectivePosition {
  // Number of the collective that the rank is in, or was in last; 0 before the first.
  uint64_t sequence = 0;
  // "reduce-scatter layers.0.blocks.1"; static or copied storage, never null.
  std::string name;
  bool in_progress = false;
};

// One collective, as the flight recorder keeps it. Times are seconds since 1970; 0: not yet.
struct CollectiveRecord {
  uint64_t sequence = 0;
  // "reduce-scatter", "all-gather", "all-reduce", "barrier", "switch".
  std::string operation;
  // What was given as its name: most often the operation and the unit.
  std::string name;
  // Of this rank's buffer.
  uint64_t bytes = 0;
  double posted = 0;
  double started = 0;
  double ended = 0;
};

// A collective under way. Wait blocks until it is done on this rank: of a GPU's memory what the GPU
// computes from then on, not the host. The destructor of a handle that was not waited for waits.
class CollectiveHandle {
 public:
  virtual ~CollectiveHandle() = default;
  virtual void Wait() = 0;
};

// Every rank calls the same collectives in the same order with equal sizes; `name` tells them apart
// in reports. Sums are reproducible: with a power of two ranks they are those of one binary tree
// whose leaves are the ranks in order, (0 1) (2 3) ... nearest first; with other numbers, in rank
// order.
//
// Buffers of ReduceScatter and AllGather are cut into size() equal shards; rank r's is
// ShardLayout::ShardIndex(r, size()) (bit-reversed for recursive halving).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // With `use` ReduceScatter and AllReduce of floats leave the sums to the library (MPI, NCCL),
  // whose bits are its own; at first they don't. Collective.
  virtual void UseLibrarySums(bool use) = 0;
  // With `at_once` collectives end on this rank before the call that starts them returns, so that
  // nothing runs beside them; at first they don't.
  virtual void WaitAtOnce(bool at_once) = 0;

  // What has to be done before the first collective, which else does it itself. Collective.
  virtual void Connect() {}

  // Sums over ranks; afterwards this rank's shard of `data` holds the sum, the rest is unspecified.
  virtual std::unique_ptr<CollectiveHandle> ReduceScatter(std::span<float> data,
                                                          const std::string& name) = 0;
  // Each rank's shard of `data` goes to all ranks.
  virtual std::unique_ptr<CollectiveHandle> AllGather(std::span<float> data,
                                                      const std::string& name) = 0;
  // The same for elements of 16 bits, whatever they mean.
  virtual std::unique_ptr<CollectiveHandle> AllGather(std::span<uint16_t> data,
                                                      const std::string& name) = 0;
  // The same for a tensor of either size of element.
  std::unique_ptr<CollectiveHandle> AllGather(const TensorView& data, const std::string& name) {
    const auto size = static_cast<size_t>(data.NumElements());
    return data.dtype == DType::kF32 ? AllGather(std::span(data.f32(), size), name)
                                     : AllGather(std::span(data.u16(), size), name);
  }
  // Sums over ranks, on all of them.
  virtual std::unique_ptr<CollectiveHandle> AllReduce(std::span<float> data,
                                                      const std::string& name) = 0;
  // Sums of bfloat16 numbers, at two bytes of traffic an element: made in float32, in rank order,
  // whatever the number of ranks, and rounded once.
  virtual std::unique_ptr<CollectiveHandle> ReduceScatterBf16(std::span<uint16_t> data,
                                                              const std::string& name) = 0;
  virtual std::unique_ptr<CollectiveHandle> AllReduceBf16(std::span<uint16_t> data,
                                                          const std::string& name) = 0;

  // Blocking ones, for small things.
  virtual void AllReduceSum(std::span<double> values, const std::string& name) = 0;
  // Rank i's values are placed at result[i * values.size()].
  virtual void AllGather(std::span<const double> values, std::span<double> result,
                         const std::string& name) = 0;
  // Every rank's text, in rank order, on all ranks.
  virtual std::vector<std::string> AllGatherText(const std::string& text,
                                                 const std::string& name) = 0;
  virtual void Barrier(const std::string& name) = 0;

  // From any thread: returns at once, also when a GPU answers nobody.
  virtual CollectivePosition position() const = 0;
  // The last collectives, oldest first; nothing where none can get stuck. From any thread: returns
  // at once.
  virtual std::vector<CollectiveRecord> recent() const { return {}; }
  // What has gone wrong that no call has been told of, such as a network that is gone; empty when
  // nothing is known. From any thread: returns at once.
  virtual std::string failure() const { return ""; }
  // Ends what a GPU waits for other ranks in, so that the process can end: no collective after it
  // means anything. From any thread; may not return if the GPU answers nobody.
  virtual void GiveUp() {}
  // Seconds that callers, or their GPU, have waited in Wait and in blocking collectives. Asks the
  // GPU, and may wait for it.
  virtual double wait_seconds() const = 0;
  // Bytes that this rank has sent so far.
  virtual uint64_t bytes_sent() const = 0;
};

// Bytes that a rank sends in collectives, by kind.
struct Traffic {
  uint64_t reduce_scatter = 0;
  uint64_t all_gather = 0;
  uint64_t all_reduce = 0;
  // The blocking ones.
  uint64_t small = 0;
};

// One process alone.
std::unique_ptr<Communicator> MakeSelfCommunicator();
// Pretends to be rank `rank` of `size`: moves nothing, touches no memory, counts bytes (into
// `traffic` by kind as well, if that is not null; it outlives the communicator).
std::unique_ptr<Communicator> MakeDryRunCommunicator(int rank, int size,
                                                     Traffic* traffic = nullptr);
// Memory that a rank's communicator takes for messages.
size_t CommunicatorBytes(int ranks);

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_COMMUNICATOR_H_
