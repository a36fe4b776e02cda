// Collectives of GPUs' memory.
#ifndef SWINFLEET_DISTRIBUTED_NCCL_COMMUNICATOR_H_
#define SWINFLEET_DISTRIBUTED_NCCL_COMMUNICATOR_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/flight_recorder.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"

namespace swinfleet {

// Tensors are exchanged by NCCL, on a stream beside the one that computes; the small things of the
// host by the host's communicator. Spans of tensors are the GPU's memory.
//
// Sums are the host communicator's, to the bit: by recursive halving over messages of pairs, or in
// rank order; the additions are the GPU's operations. Messages are cut into pieces of the scratch
// memory. The library's own sums, where they are asked for, and gathers are NCCL's collectives.
//
// All collectives, the small ones too, have numbers of one sequence, which goes on from the host
// communicator's. Of two at once position() tells the first. That one of a GPU has begun or ended
// is noticed with the next one, and by a thread that looks ten times a second: who asks for the
// position, or for a failure, never waits for the GPU. As long as the GPU does not answer that
// thread, the first collective that is not known to have ended is in progress.
class NcclCommunicator : public Communicator {
 public:
  // Scratch memory for tensors of at most `most_bytes`, on so many ranks.
  static size_t ScratchBytes(size_t most_bytes, int ranks);

  // `scratch`: float32, ScratchBytes of the GPU's memory. All outlive it. Several ranks.
  NcclCommunicator(Communicator* host, const TensorView& scratch, const Context* context);
  ~NcclCommunicator() override;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void UseLibrarySums(bool use) override { library_sums_ = use; }
  void WaitAtOnce(bool at_once) override { wait_at_once_ = at_once; }
  // Throws Error when NCCL can't bring the ranks together.
  void Connect() override;

  std::unique_ptr<CollectiveHandle> ReduceScatter(std::span<float> data,
                                                  const std::string& name) override;
  using Communicator::AllGather;
  std::unique_ptr<CollectiveHandle> AllGather(std::span<float> data,
                                              const std::string& name) override;
  std::unique_ptr<CollectiveHandle> AllGather(std::span<uint16_t> data,
                                              const std::string& name) override;
  std::unique_ptr<CollectiveHandle> AllReduce(std::span<float> data,
                                              const std::string& name) override;
  std::unique_ptr<CollectiveHandle> ReduceScatterBf16(std::span<uint16_t> data,
                                                      const std::string& name) override;
  std::unique_ptr<CollectiveHandle> AllReduceBf16(std::span<uint16_t> data,
                                                  const std::string& name) override;

  void AllReduceSum(std::span<double> values, const std::string& name) override;
  void AllGather(std::span<const double> values, std::span<double> result,
                 const std::string& name) override;
  std::vector<std::string> AllGatherText(const std::string& text, const std::string& name) override;
  void Barrier(const std::string& name) override;

  CollectivePosition position() const override;
  std::vector<CollectiveRecord> recent() const override;
  std::string failure() const override;
  void GiveUp() override;
  double wait_seconds() const override;
  uint64_t bytes_sent() const override { return host_->bytes_sent() + bytes_sent_; }

 private:
  // A collective of the GPU that has not been seen to end.
  struct Flight {
    uint64_t number = 0;
    uint64_t sequence = 0;
    std::string name;
    bool begun = false;
  };
  class Handle;

  std::unique_ptr<CollectiveHandle> Post(const std::string& operation, const std::string& name,
                                         size_t bytes, const std::function<void()>& work);
  // A collective of the host, with a record.
  void OnHost(const std::string& operation, const std::string& name, size_t bytes,
              const std::function<void()>& work);
  // Puts what has begun and ended since into the records.
  void Look();
  // Looks until the end.
  void Watch();
  // Null before Connect.
  DeviceCollectives* collectives() const;

  // The place of a rank's shard, by which NCCL numbers the ranks.
  int PlaceOf(int rank) const;
  void SendAll(std::span<const DeviceExchange> exchanges);
  // Sums of this rank's shard.
  void Halve(std::span<float> data);
  template <typename T>
  void SumDirectly(std::span<T> data);
  // Of equal shards by NCCL, of others by messages.
  template <typename T>
  void Gather(std::span<T> data);
  // Sends and adds what comes, in pieces.
  void ExchangeAndAdd(int peer, std::span<const float> send, std::span<float> add_to);
  template <typename T>
  TensorView ViewOf(std::span<T> data) const;

  Communicator* host_;
  const TensorView scratch_;
  const Context* context_;
  // Of operations among collectives; its table and profile are the context's of that time.
  Context exchange_context_;
  bool library_sums_ = false;
  bool wait_at_once_ = false;
  std::atomic<bool> given_up_ = false;
  std::atomic<uint64_t> bytes_sent_ = 0;

  // Of what other threads look at. Never held in a call that may wait for the GPU.
  mutable std::mutex mutex_;
  FlightRecorder recorder_;
  std::deque<Flight> flights_;
  std::unique_ptr<DeviceCollectives> collectives_;
  std::string failure_;
  // When the watching thread has asked the GPU; nothing when it has its answer.
  std::optional<std::chrono::steady_clock::time_point> asked_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread watch_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_NCCL_COMMUNICATOR_H_
