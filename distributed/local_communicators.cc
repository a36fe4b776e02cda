// Communicators that talk to nobody: of one process, and of the dry run.
#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>

#include "distributed/communicator.h"

namespace swinfleet {
namespace {

class DoneHandle : public CollectiveHandle {
 public:
  void Wait() override {}
};

// Counts the bytes that recursive halving and doubling would send.
class SilentCommunicator : public Communicator {
 public:
  // `traffic` may be null.
  SilentCommunicator(int rank, int size, Traffic* traffic)
      : rank_(rank), size_(size), traffic_(traffic) {
    CHECK(rank >= 0 && rank < size) << rank << " of " << size;
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void UseLibrarySums(bool use) override {}
  void WaitAtOnce(bool at_once) override {}

  std::unique_ptr<CollectiveHandle> ReduceScatter(std::span<float> data,
                                                  const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Count(name, &Traffic::reduce_scatter, OthersShare(data.size_bytes()));
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<float> data,
                                              const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Count(name, &Traffic::all_gather, OthersShare(data.size_bytes()));
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<uint16_t> data,
                                              const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Count(name, &Traffic::all_gather, OthersShare(data.size_bytes()));
  }
  std::unique_ptr<CollectiveHandle> AllReduce(std::span<float> data,
                                              const std::string& name) override {
    return Count(name, &Traffic::all_reduce, 2 * OthersShare(data.size_bytes()));
  }
  std::unique_ptr<CollectiveHandle> ReduceScatterBf16(std::span<uint16_t> data,
                                                      const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Count(name, &Traffic::reduce_scatter, OthersShare(data.size_bytes()));
  }
  std::unique_ptr<CollectiveHandle> AllReduceBf16(std::span<uint16_t> data,
                                                  const std::string& name) override {
    return Count(name, &Traffic::all_reduce, 2 * OthersShare(data.size_bytes()));
  }
  void AllReduceSum(std::span<double> values, const std::string& name) override {
    Count(name, &Traffic::small, values.size_bytes() * (size_ - 1));
  }
  void AllGather(std::span<const double> values, std::span<double> result,
                 const std::string& name) override {
    CHECK_EQ(result.size(), values.size() * size_) << name;
    Count(name, &Traffic::small, values.size_bytes() * (size_ - 1));
  }
  std::vector<std::string> AllGatherText(const std::string& text,
                                         const std::string& name) override {
    Count(name, &Traffic::small, text.size() * (size_ - 1));
    return std::vector<std::string>(size_, text);
  }
  void Barrier(const std::string& name) override { Count(name, &Traffic::small, 0); }

  CollectivePosition position() const override {
    const std::lock_guard lock(mutex_);
    return position_;
  }
  double wait_seconds() const override { return 0; }
  uint64_t bytes_sent() const override { return bytes_sent_; }

 private:
  // What a rank sends in one pass of halving or doubling.
  uint64_t OthersShare(uint64_t bytes) const { return bytes / size_ * (size_ - 1); }

  std::unique_ptr<CollectiveHandle> Count(const std::string& name, uint64_t Traffic::*kind,
                                          uint64_t bytes) {
    bytes_sent_ += bytes;
    if (traffic_ != nullptr) traffic_->*kind += bytes;
    const std::lock_guard lock(mutex_);
    position_ = {position_.sequence + 1, name, false};
    return std::make_unique<DoneHandle>();
  }

  int rank_;
  int size_;
  Traffic* traffic_;
  std::atomic<uint64_t> bytes_sent_ = 0;
  mutable std::mutex mutex_;
  CollectivePosition position_;
};

// Sums and gathers over one rank are what that rank gives.
class SelfCommunicator : public SilentCommunicator {
 public:
  SelfCommunicator() : SilentCommunicator(0, 1, nullptr) {}
  using SilentCommunicator::AllGather;
  void AllGather(std::span<const double> values, std::span<double> result,
                 const std::string& name) override {
    SilentCommunicator::AllGather(values, result, name);
    std::ranges::copy(values, result.begin());
  }
};

}  // namespace

std::unique_ptr<Communicator> MakeSelfCommunicator() {
  return std::make_unique<SelfCommunicator>();
}

std::unique_ptr<Communicator> MakeDryRunCommunicator(int rank, int size, Traffic* traffic) {
  return std::make_unique<SilentCommunicator>(rank, size, traffic);
}

}  // namespace swinfleet
