#include "distributed/staged_communicator.h"

#include <glog/logging.h>

#include "distributed/shard_layout.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// Of a collective that has ended.
class Ended : public CollectiveHandle {
 public:
  void Wait() override {}
};

}  // namespace

StagedCommunicator::StagedCommunicator(Communicator* host, size_t most_bytes, Arena* staging,
                                       const Context* context)
    : host_(host),
      context_(context),
      most_bytes_(most_bytes),
      staged_(staging->AllocateBytes(most_bytes)) {}

template <typename T>
TensorView StagedCommunicator::PartOf(std::span<T> data, Part part) const {
  const auto all = static_cast<int64_t>(data.size());
  const TensorView view = {data.data(), Shape{all}, sizeof(T) == 4 ? DType::kF32 : DType::kU16,
                           context_->accelerator == nullptr ? Device::kDryRun : Device::kCuda};
  if (part == Part::kAll) return view;
  CHECK_EQ(all % size(), 0);
  return view.Rows(ShardLayout::ShardIndex(rank(), size()) * (all / size()), all / size());
}

template <typename T>
std::unique_ptr<CollectiveHandle> StagedCommunicator::Exchange(
    std::span<T> data, Part out, Part back,
    const std::function<std::unique_ptr<CollectiveHandle>(std::span<T> staged)>& collective) {
  CHECK_LE(data.size_bytes(), most_bytes_);
  const std::span<T> staged(static_cast<T*>(staged_), data.size());
  const auto on_host = [&](const TensorView& part) {
    return staged.data() + (static_cast<T*>(part.data) - data.data());
  };
  const TensorView sent = PartOf(data, out), received = PartOf(data, back);
  CopyToHost(sent, on_host(sent), *context_);
  collective(staged)->Wait();
  CopyFromHost(on_host(received), received, *context_);
  return std::make_unique<Ended>();
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::ReduceScatter(std::span<float> data,
                                                                    const std::string& name) {
  return Exchange<float>(data, Part::kAll, Part::kOwnShard, [&](std::span<float> staged) {
    return host_->ReduceScatter(staged, name);
  });
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::AllGather(std::span<float> data,
                                                                const std::string& name) {
  return Exchange<float>(data, Part::kOwnShard, Part::kAll,
                         [&](std::span<float> staged) { return host_->AllGather(staged, name); });
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::AllGather(std::span<uint16_t> data,
                                                                const std::string& name) {
  return Exchange<uint16_t>(data, Part::kOwnShard, Part::kAll, [&](std::span<uint16_t> staged) {
    return host_->AllGather(staged, name);
  });
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::AllReduce(std::span<float> data,
                                                                const std::string& name) {
  return Exchange<float>(data, Part::kAll, Part::kAll,
                         [&](std::span<float> staged) { return host_->AllReduce(staged, name); });
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::ReduceScatterBf16(std::span<uint16_t> data,
                                                                        const std::string& name) {
  return Exchange<uint16_t>(data, Part::kAll, Part::kOwnShard, [&](std::span<uint16_t> staged) {
    return host_->ReduceScatterBf16(staged, name);
  });
}

std::unique_ptr<CollectiveHandle> StagedCommunicator::AllReduceBf16(std::span<uint16_t> data,
                                                                    const std::string& name) {
  return Exchange<uint16_t>(data, Part::kAll, Part::kAll, [&](std::span<uint16_t> staged) {
    return host_->AllReduceBf16(staged, name);
  });
}

}  // namespace swinfleet
