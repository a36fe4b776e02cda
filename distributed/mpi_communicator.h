// Collectives over MPI messages. Not for use outside of distributed/: see mpi_runtime.h.
#ifndef SWINFLEET_DISTRIBUTED_MPI_COMMUNICATOR_H_
#define SWINFLEET_DISTRIBUTED_MPI_COMMUNICATOR_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/flight_recorder.h"
#include "distributed/mpi_thread.h"
#include "kernels/arena.h"

namespace swinfleet {

// The algorithms; everything but the counters runs on the MPI thread.
//
// With a power of two ranks: recursive halving, nearest rank first, and recursive doubling back.
// Otherwise, and for sums of bfloat16, every two ranks exchange directly and a shard is summed in
// rank order. Messages are cut into chunks, so that the adding of one overlaps with the transfer of
// the next, and no count exceeds MPI's int.
//
// T is float or uint16_t throughout; numbers of the latter are bfloat16 where they are summed.
class MpiCollectives {
 public:
  MpiCollectives(MpiThread* thread, MPI_Comm comm);
  MpiCollectives(const MpiCollectives&) = delete;
  MpiCollectives& operator=(const MpiCollectives&) = delete;
  ~MpiCollectives() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  uint64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }

  void UseLibrarySums(bool use);
  void ReduceScatter(std::span<float> data);
  void AllReduce(std::span<float> data);
  void ReduceScatterBf16(std::span<uint16_t> data);
  template <typename T>
  void AllGather(std::span<T> data);
  void AllReduceSum(std::span<double> values);
  void AllGather(std::span<const double> values, std::span<double> result);
  std::vector<std::string> AllGatherText(const std::string& text);
  void Barrier();
  void Free();

 private:
  // One message each way, cut into chunks. What arrives is added to `receive` (of floats) or
  // overwrites it.
  template <typename T>
  struct Exchange {
    int peer = 0;
    std::span<const T> send;
    std::span<T> receive;
    bool add = false;
  };
  // How far an exchange is: which chunk each slot carries, and the next one to start.
  struct Progress;

  template <typename T>
  void Run(const Exchange<T>& exchange);
  template <typename T>
  void StartReceive(const Exchange<T>& exchange, int slot, Progress* progress);
  template <typename T>
  void StartSend(const Exchange<T>& exchange, int slot, Progress* progress);
  void ReduceScatterByLibrary(std::span<float> data);
  template <typename T>
  void ReduceScatterDirect(std::span<T> data);
  template <typename T>
  void AllGatherDirect(std::span<T> data);
  // Starts the exchange of one chunk with every other rank: parts of the others' shards go out, the
  // others' contributions to ours come into the workspace.
  template <typename T>
  void ExchangeContributions(std::span<T> data, size_t begin, size_t chunk);
  // Where in the workspace a rank's chunk of `chunk` elements comes to.
  template <typename T>
  std::span<T> Contribution(int rank, size_t chunk);
  void CountSent(size_t bytes) { bytes_sent_.fetch_add(bytes, std::memory_order_relaxed); }

  MpiThread* thread_;
  MPI_Comm comm_;
  // The same ranks, numbered by the places of their shards; null until the library sums.
  MPI_Comm by_shard_ = MPI_COMM_NULL;
  bool library_sums_ = false;
  int rank_ = 0;
  int size_ = 1;
  // log2(size), or -1 for other sizes.
  int rounds_ = 0;
  std::atomic<uint64_t> bytes_sent_ = 0;
  // Of an arena, for its huge pages: they make copies between processes twice as fast.
  Arena memory_;
  void* workspace_ = nullptr;
  std::vector<double> gathered_;
  std::vector<MPI_Request> requests_;
};

class MpiCommunicator : public Communicator {
 public:
  // Blocks until all ranks of the group are there.
  MpiCommunicator(MpiThread* thread, int ranks, int tag);
  // Outstanding collectives end first.
  ~MpiCommunicator() override;

  int rank() const override { return collectives_->rank(); }
  int size() const override { return collectives_->size(); }
  void UseLibrarySums(bool use) override;
  void WaitAtOnce(bool at_once) override { wait_at_once_ = at_once; }
  std::unique_ptr<CollectiveHandle> ReduceScatter(std::span<float> data,
                                                  const std::string& name) override;
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
  CollectivePosition position() const override { return status_->recorder.position(); }
  std::vector<CollectiveRecord> recent() const override { return status_->recorder.recent(); }
  double wait_seconds() const override;
  uint64_t bytes_sent() const override { return collectives_->bytes_sent(); }

  // Shared with handles, which may outlive the communicator.
  struct Status {
    FlightRecorder recorder;
    mutable std::mutex mutex;
    double wait_seconds = 0;
  };

 private:
  // What a collective is called, and the size of this rank's buffer.
  struct Label {
    const char* operation;
    const std::string& name;
    size_t bytes = 0;
  };

  std::shared_ptr<MpiOperation> Post(const Label& label, std::function<void()> work);
  std::unique_ptr<CollectiveHandle> PostAsync(const Label& label, std::function<void()> work);
  void RunBlocking(const Label& label, std::function<void()> work);

  MpiThread* thread_;
  std::shared_ptr<MpiCollectives> collectives_;
  std::shared_ptr<Status> status_;
  bool wait_at_once_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_MPI_COMMUNICATOR_H_
