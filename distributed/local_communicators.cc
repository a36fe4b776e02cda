// Communicators that talk to nobody: of one process, of the dry run, and of a model of links.
#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <utility>

#include "distributed/communicator.h"
#include "distributed/link_model.h"

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
    return Begin(CollectiveForm::kReduceScatter, data.size_bytes(), name);
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<float> data,
                                              const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Begin(CollectiveForm::kAllGather, data.size_bytes(), name);
  }
  std::unique_ptr<CollectiveHandle> AllGather(std::span<uint16_t> data,
                                              const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Begin(CollectiveForm::kAllGather, data.size_bytes(), name);
  }
  std::unique_ptr<CollectiveHandle> AllReduce(std::span<float> data,
                                              const std::string& name) override {
    return Begin(CollectiveForm::kAllReduce, data.size_bytes(), name);
  }
  std::unique_ptr<CollectiveHandle> ReduceScatterBf16(std::span<uint16_t> data,
                                                      const std::string& name) override {
    CHECK_EQ(data.size() % size_, 0u) << name;
    return Begin(CollectiveForm::kReduceScatterBf16, data.size_bytes(), name);
  }
  std::unique_ptr<CollectiveHandle> AllReduceBf16(std::span<uint16_t> data,
                                                  const std::string& name) override {
    return Begin(CollectiveForm::kAllReduceBf16, data.size_bytes(), name);
  }
  void AllReduceSum(std::span<double> values, const std::string& name) override {
    Begin(CollectiveForm::kSmall, values.size_bytes(), name)->Wait();
  }
  void AllGather(std::span<const double> values, std::span<double> result,
                 const std::string& name) override {
    CHECK_EQ(result.size(), values.size() * size_) << name;
    Begin(CollectiveForm::kSmall, values.size_bytes(), name)->Wait();
  }
  std::vector<std::string> AllGatherText(const std::string& text,
                                         const std::string& name) override {
    Begin(CollectiveForm::kSmall, text.size(), name)->Wait();
    return std::vector<std::string>(size_, text);
  }
  void Barrier(const std::string& name) override { Begin(CollectiveForm::kSmall, 0, name)->Wait(); }

  CollectivePosition position() const override {
    const std::lock_guard lock(mutex_);
    return position_;
  }
  double wait_seconds() const override { return 0; }
  uint64_t bytes_sent() const override { return bytes_sent_; }

 protected:
  // `bytes`: of the buffer.
  virtual std::unique_ptr<CollectiveHandle> Begin(CollectiveForm form, uint64_t bytes,
                                                  const std::string& name) {
    Count(form, bytes);
    const std::lock_guard lock(mutex_);
    position_ = {position_.sequence + 1, name, false};
    return std::make_unique<DoneHandle>();
  }

 private:
  void Count(CollectiveForm form, uint64_t bytes) {
    // What a rank sends in one pass of halving or doubling.
    const uint64_t others_share = bytes / size_ * (size_ - 1);
    switch (form) {
      case CollectiveForm::kReduceScatter:
      case CollectiveForm::kReduceScatterBf16:
        return Add(&Traffic::reduce_scatter, others_share);
      case CollectiveForm::kAllGather:
        return Add(&Traffic::all_gather, others_share);
      case CollectiveForm::kAllReduce:
      case CollectiveForm::kAllReduceBf16:
        return Add(&Traffic::all_reduce, 2 * others_share);
      case CollectiveForm::kSmall:
        return Add(&Traffic::small, bytes * (size_ - 1));
    }
  }
  void Add(uint64_t Traffic::*kind, uint64_t sent) {
    bytes_sent_ += sent;
    if (traffic_ != nullptr) traffic_->*kind += sent;
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

// Has a clock for each of a rank's two threads: the one that computes, which stands still while it
// waits, and the one that works off collectives in their order.
class ModelledCommunicator : public SilentCommunicator {
 public:
  ModelledCommunicator(int rank, int size, const Links& links,
                       std::function<double()> computed_seconds, ModelledTraffic* traffic)
      : SilentCommunicator(rank, size, nullptr),
        model_(links, rank, size),
        computed_seconds_(std::move(computed_seconds)),
        traffic_(traffic) {}

  void UseLibrarySums(bool use) override { library_sums_ = use; }
  void WaitAtOnce(bool at_once) override { wait_at_once_ = at_once; }
  double wait_seconds() const override { return waited_; }

 protected:
  std::unique_ptr<CollectiveHandle> Begin(CollectiveForm form, uint64_t bytes,
                                          const std::string& name) override {
    SilentCommunicator::Begin(form, bytes, name);
    const double seconds = model_.Seconds(form, library_sums_, bytes, &traffic_->made);
    traffic_->seconds += seconds;
    free_ = std::max(free_, Now()) + seconds;
    auto handle = std::make_unique<Handle>(this, free_);
    if (wait_at_once_) handle->Wait();
    return handle;
  }

 private:
  class Handle : public CollectiveHandle {
   public:
    Handle(ModelledCommunicator* owner, double ends) : owner_(owner), ends_(ends) {}
    void Wait() override { owner_->WaitUntil(ends_); }

   private:
    ModelledCommunicator* owner_;
    const double ends_;
  };

  double Now() const { return computed_seconds_() + waited_; }
  void WaitUntil(double time) { waited_ += std::max(0.0, time - Now()); }

  const LinkModel model_;
  const std::function<double()> computed_seconds_;
  ModelledTraffic* traffic_;
  bool library_sums_ = false;
  bool wait_at_once_ = false;
  double waited_ = 0;
  // When all collectives so far have ended.
  double free_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> MakeSelfCommunicator() {
  return std::make_unique<SelfCommunicator>();
}

std::unique_ptr<Communicator> MakeDryRunCommunicator(int rank, int size, Traffic* traffic) {
  return std::make_unique<SilentCommunicator>(rank, size, traffic);
}

std::unique_ptr<Communicator> MakeModelledCommunicator(int rank, int size, const Links& links,
                                                       std::function<double()> computed_seconds,
                                                       ModelledTraffic* traffic) {
  return std::make_unique<ModelledCommunicator>(rank, size, links, std::move(computed_seconds),
                                                traffic);
}

}  // namespace swinfleet
