// Collectives of a GPU's memory through the host's.
#ifndef SWINFLEET_DISTRIBUTED_STAGED_COMMUNICATOR_H_
#define SWINFLEET_DISTRIBUTED_STAGED_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// Copies what is on the device to the host, exchanges it there and copies what came back. Each
// collective has ended when the call that starts it returns. The blocking ones, of the host's
// memory, are the host communicator's own. The sums are its sums, to the bit.
class StagedCommunicator : public Communicator {
 public:
  // For tensors of at most `most_bytes`, for which memory is taken from `staging`. All outlive it.
  // On the dry-run device nothing is copied.
  StagedCommunicator(Communicator* host, size_t most_bytes, Arena* staging, const Context* context);

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void UseLibrarySums(bool use) override { host_->UseLibrarySums(use); }
  void WaitAtOnce(bool at_once) override { host_->WaitAtOnce(at_once); }

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

  void AllReduceSum(std::span<double> values, const std::string& name) override {
    host_->AllReduceSum(values, name);
  }
  void AllGather(std::span<const double> values, std::span<double> result,
                 const std::string& name) override {
    host_->AllGather(values, result, name);
  }
  std::vector<std::string> AllGatherText(const std::string& text,
                                         const std::string& name) override {
    return host_->AllGatherText(text, name);
  }
  void Barrier(const std::string& name) override { host_->Barrier(name); }

  CollectivePosition position() const override { return host_->position(); }
  std::vector<CollectiveRecord> recent() const override { return host_->recent(); }
  double wait_seconds() const override { return host_->wait_seconds(); }
  uint64_t bytes_sent() const override { return host_->bytes_sent(); }

 private:
  // What of the data goes to the host, or comes back.
  enum class Part { kAll, kOwnShard };
  template <typename T>
  std::unique_ptr<CollectiveHandle> Exchange(
      std::span<T> data, Part out, Part back,
      const std::function<std::unique_ptr<CollectiveHandle>(std::span<T> staged)>& collective);
  // The part of `data`, which is on the device, as a tensor.
  template <typename T>
  TensorView PartOf(std::span<T> data, Part part) const;

  Communicator* host_;
  const Context* context_;
  const size_t most_bytes_;
  void* staged_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_STAGED_COMMUNICATOR_H_
