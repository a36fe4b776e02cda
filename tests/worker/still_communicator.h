// A communicator that moves nothing.
#ifndef SWINFLEET_TESTS_WORKER_STILL_COMMUNICATOR_H_
#define SWINFLEET_TESTS_WORKER_STILL_COMMUNICATOR_H_

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"

namespace swinfleet {

// Of rank 3 of 4: says where the rank is, and how it came there, and nothing else.
class StillCommunicator : public Communicator {
 public:
  explicit StillCommunicator(bool in_progress, const std::string& failure = "")
      : in_progress_(in_progress), failure_(failure) {}
  bool given_up() const { return given_up_; }
  int rank() const override { return 3; }
  int size() const override { return 4; }
  void UseLibrarySums(bool) override {}
  void WaitAtOnce(bool) override {}
  std::unique_ptr<CollectiveHandle> ReduceScatter(std::span<float>, const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<float>, const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<uint16_t>, const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<CollectiveHandle> AllReduce(std::span<float>, const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<CollectiveHandle> ReduceScatterBf16(std::span<uint16_t>,
                                                      const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<CollectiveHandle> AllReduceBf16(std::span<uint16_t>,
                                                  const std::string&) override {
    return nullptr;
  }
  void AllReduceSum(std::span<double>, const std::string&) override {}
  void AllGather(std::span<const double>, std::span<double>, const std::string&) override {}
  std::vector<std::string> AllGatherText(const std::string&, const std::string&) override {
    return {};
  }
  void Barrier(const std::string&) override {}
  CollectivePosition position() const override { return {17, "reduce-scatter head", in_progress_}; }
  std::vector<CollectiveRecord> recent() const override {
    return {{16, "all-reduce", "losses and flags", 72, 1.5, 2.5, 3.5},
            {17, "reduce-scatter", "reduce-scatter head", 4096, 4.5, 5.5, 0}};
  }
  std::string failure() const override { return failure_; }
  void GiveUp() override { given_up_ = true; }
  // With a gate, returns when it opens.
  double wait_seconds() const override {
    if (gate_.valid()) gate_.wait();
    return 0;
  }
  void SetGate(const std::shared_future<void>& gate) { gate_ = gate; }
  uint64_t bytes_sent() const override { return 0; }

 private:
  const bool in_progress_;
  const std::string failure_;
  std::atomic<bool> given_up_ = false;
  std::shared_future<void> gate_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_STILL_COMMUNICATOR_H_
