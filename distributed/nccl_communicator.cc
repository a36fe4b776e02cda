#include "distributed/nccl_communicator.h"

#include <glog/logging.h>

#include <algorithm>
#include <exception>

#include "distributed/halving.h"
#include "distributed/shard_layout.h"
#include "kernels/error.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// More scratch would not make messages any faster.
constexpr size_t kMostScratch = size_t{32} << 20;
// Pieces start where the widest accesses do.
constexpr size_t kPieceElements = 64;

using Clock = std::chrono::steady_clock;
// Between two looks at what the GPU has done.
constexpr auto kLook = std::chrono::milliseconds(100);
// A GPU that has not answered for so long does not answer.
constexpr auto kSilence = std::chrono::seconds(1);

template <typename T>
std::span<T> Piece(std::span<T> data, size_t begin, size_t size) {
  begin = std::min(begin, data.size());
  return data.subspan(begin, std::min(size, data.size() - begin));
}

}  // namespace

// Waits with what the GPU computes, not with the host.
class NcclCommunicator::Handle : public CollectiveHandle {
 public:
  Handle(DeviceCollectives* collectives, uint64_t number)
      : collectives_(collectives), number_(number) {}
  ~Handle() override {
    // Nothing is computed any more that would have to wait.
    if (waited_ || std::uncaught_exceptions() > 0) return;
    try {
      Wait();
    } catch (const Error& error) {
      LOG(ERROR) << error.what();
    }
  }
  void Wait() override {
    if (!waited_) collectives_->ComputeAfter(number_);
    waited_ = true;
  }

 private:
  DeviceCollectives* collectives_;
  const uint64_t number_;
  bool waited_ = false;
};

size_t NcclCommunicator::ScratchBytes(size_t most_bytes, int ranks) {
  // The largest needs are those of sums in rank order: the others' parts of a shard and the sum.
  const size_t least = (ranks + 1) * kPieceElements * sizeof(float);
  return std::clamp(most_bytes, least, std::max(least, kMostScratch));
}

NcclCommunicator::NcclCommunicator(Communicator* host, const TensorView& scratch,
                                   const Context* context)
    : host_(host),
      scratch_(scratch),
      context_(context),
      exchange_context_(*context),
      recorder_(host->position().sequence) {
  CHECK_GT(size(), 1);
  CHECK_GE(scratch.Bytes(), ScratchBytes(0, size()));
  CHECK(context->accelerator != nullptr);
}

NcclCommunicator::~NcclCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (watch_.joinable()) watch_.join();
}

int NcclCommunicator::PlaceOf(int rank) const { return ShardLayout::ShardIndex(rank, size()); }

template <typename T>
TensorView NcclCommunicator::ViewOf(std::span<T> data) const {
  static_assert(sizeof(T) == 4 || sizeof(T) == 2);
  return {const_cast<std::remove_const_t<T>*>(data.data()),
          Shape{static_cast<int64_t>(data.size())}, sizeof(T) == 4 ? DType::kF32 : DType::kBF16,
          Device::kCuda};
}

void NcclCommunicator::Connect() {
  if (collectives_ != nullptr) return;
  OnHost("join", "join the ranks' GPUs", 0, [this] {
    const CollectivesId none = {};
    const CollectivesId own = rank() == 0 ? context_->accelerator->NewCollectivesId() : none;
    const std::string id =
        host_->AllGatherText(std::string(own.data(), own.size()), "NCCL's id").front();
    CollectivesId shared;
    std::ranges::copy(id, shared.begin());
    std::unique_ptr<DeviceCollectives> joined =
        context_->accelerator->Join(shared, PlaceOf(rank()), size());
    exchange_context_.stream = joined->stream();
    const std::lock_guard lock(mutex_);
    collectives_ = std::move(joined);
  });
  watch_ = std::thread([this] { Watch(); });
}

DeviceCollectives* NcclCommunicator::collectives() const {
  const std::lock_guard lock(mutex_);
  return collectives_.get();
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::Post(const std::string& operation,
                                                         const std::string& name, size_t bytes,
                                                         const std::function<void()>& work) {
  Connect();
  const uint64_t sequence = recorder_.Post(operation, name, bytes);
  const uint64_t number = collectives_->Begin();
  {
    const std::lock_guard lock(mutex_);
    flights_.push_back({number, sequence, name});
  }
  // As they are during this step.
  exchange_context_.ops = context_->ops;
  exchange_context_.profile = context_->profile;
  const auto exchange = [&] {
    work();
    collectives_->End();
  };
  if (context_->profile == nullptr) {
    exchange();
  } else {
    context_->profile->RecordExchange(sequence, exchange_context_, exchange);
  }
  auto handle = std::make_unique<Handle>(collectives_.get(), number);
  if (wait_at_once_) {
    handle->Wait();
    context_->accelerator->Wait();
  }
  Look();
  return handle;
}

void NcclCommunicator::OnHost(const std::string& operation, const std::string& name, size_t bytes,
                              const std::function<void()>& work) {
  if (given_up_) throw Error("collective \"" + name + "\": the exchange of the GPUs was given up");
  const uint64_t sequence = recorder_.Post(operation, name, bytes);
  recorder_.Start(sequence, name);
  work();
  recorder_.End(sequence);
  if (collectives_ != nullptr) Look();
}

void NcclCommunicator::Look() {
  const DeviceCollectives::Progress progress = collectives_->progress();
  const std::lock_guard lock(mutex_);
  for (Flight& flight : flights_) {
    if (flight.number > progress.begun) break;
    if (!flight.begun) recorder_.Start(flight.sequence, flight.name);
    flight.begun = true;
  }
  while (!flights_.empty() && flights_.front().number <= progress.ended) {
    recorder_.End(flights_.front().sequence);
    flights_.pop_front();
  }
}

void NcclCommunicator::Watch() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    asked_ = Clock::now();
    lock.unlock();
    Look();
    const std::string failure = collectives_->failure();
    lock.lock();
    asked_.reset();
    if (failure_.empty()) failure_ = failure;
    changed_.wait_for(lock, kLook, [this] { return stop_; });
  }
}

void NcclCommunicator::SendAll(std::span<const DeviceExchange> exchanges) {
  for (const DeviceExchange& exchange : exchanges) bytes_sent_ += exchange.send_bytes;
  collectives_->Exchange(exchanges);
}

void NcclCommunicator::ExchangeAndAdd(int peer, std::span<const float> send,
                                      std::span<float> add_to) {
  const std::span<float> scratch(scratch_.f32(), static_cast<size_t>(scratch_.NumElements()));
  const size_t all = std::max(send.size(), add_to.size());
  for (size_t begin = 0; begin < all; begin += scratch.size()) {
    const std::span<const float> out = Piece(send, begin, scratch.size());
    const std::span<float> sum = Piece(add_to, begin, scratch.size());
    const std::span<float> in = scratch.first(sum.size());
    const DeviceExchange exchange = {.peer = PlaceOf(peer),
                                     .send = out.data(),
                                     .send_bytes = out.size_bytes(),
                                     .receive = in.data(),
                                     .receive_bytes = in.size_bytes()};
    SendAll({&exchange, 1});
    if (sum.empty()) continue;
    exchange_context_.ops->add({.x = ViewOf(in), .y = ViewOf(sum)}, exchange_context_);
  }
}

void NcclCommunicator::Halve(std::span<float> data) {
  for (int round = 0; round < HalvingRounds(size()); ++round) {
    const std::span<float> all = Halved(data, round, rank());
    const size_t half = all.size() / 2;
    const bool upper = (rank() >> round) & 1;
    ExchangeAndAdd(rank() ^ (1 << round), upper ? all.first(half) : all.subspan(half),
                   upper ? all.subspan(half) : all.first(half));
  }
}

template <typename T>
void NcclCommunicator::SumDirectly(std::span<T> data) {
  const std::span<T> own = ShardOf(data, rank(), size());
  const size_t largest = (data.size() + size() - 1) / size();
  // Of the scratch: the sum, and the others' parts.
  const size_t element = sizeof(float) + (size() - 1) * sizeof(T);
  const size_t piece = scratch_.Bytes() / element / kPieceElements * kPieceElements;
  const std::span<float> sums(scratch_.f32(), piece);
  const std::span<T> parts(reinterpret_cast<T*>(scratch_.f32() + piece), (size() - 1) * piece);
  std::vector<std::span<T>> of_ranks(size());
  std::vector<DeviceExchange> exchanges;
  for (size_t begin = 0; begin < largest; begin += piece) {
    const std::span<T> mine = Piece(own, begin, piece);
    exchanges.clear();
    for (int r = 0; r < size(); ++r) {
      of_ranks[r] = mine;
      if (r == rank()) continue;
      of_ranks[r] = parts.subspan(exchanges.size() * piece, mine.size());
      const std::span<T> theirs = Piece(ShardOf(data, r, size()), begin, piece);
      exchanges.push_back({.peer = PlaceOf(r),
                           .send = theirs.data(),
                           .send_bytes = theirs.size_bytes(),
                           .receive = of_ranks[r].data(),
                           .receive_bytes = of_ranks[r].size_bytes()});
    }
    SendAll(exchanges);
    if (mine.empty()) continue;
    const TensorView sum = ViewOf(sums.first(mine.size()));
    exchange_context_.ops->cast({.x = ViewOf(of_ranks[0]), .y = sum}, exchange_context_);
    for (int r = 1; r < size(); ++r) {
      exchange_context_.ops->add({.x = ViewOf(of_ranks[r]), .y = sum}, exchange_context_);
    }
    exchange_context_.ops->cast({.x = sum, .y = ViewOf(mine)}, exchange_context_);
  }
}

template <typename T>
void NcclCommunicator::Gather(std::span<T> data) {
  if (data.empty()) return;
  const size_t shard_bytes = data.size_bytes() / size();
  if (data.size() % size() == 0) {
    bytes_sent_ += shard_bytes * (size() - 1);
    return collectives_->AllGather(data.data(), shard_bytes);
  }
  const std::span<T> own = ShardOf(data, rank(), size());
  std::vector<DeviceExchange> exchanges;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const std::span<T> theirs = ShardOf(data, r, size());
    exchanges.push_back({.peer = PlaceOf(r),
                         .send = own.data(),
                         .send_bytes = own.size_bytes(),
                         .receive = theirs.data(),
                         .receive_bytes = theirs.size_bytes()});
  }
  SendAll(exchanges);
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::ReduceScatter(std::span<float> data,
                                                                  const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return Post("reduce-scatter", name, data.size_bytes(), [&] {
    if (data.empty()) return;
    if (!library_sums_) return HalvingRounds(size()) < 0 ? SumDirectly(data) : Halve(data);
    bytes_sent_ += data.size_bytes() / size() * (size() - 1);
    collectives_->ReduceScatter(data.data(), data.size() / size());
  });
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::AllGather(std::span<float> data,
                                                              const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return Post("all-gather", name, data.size_bytes(), [&] { Gather(data); });
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::AllGather(std::span<uint16_t> data,
                                                              const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return Post("all-gather", name, data.size_bytes(), [&] { Gather(data); });
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::AllReduce(std::span<float> data,
                                                              const std::string& name) {
  return Post("all-reduce", name, data.size_bytes(), [&] {
    if (data.empty()) return;
    if (library_sums_) {
      // What it sends at least.
      bytes_sent_ += 2 * (data.size_bytes() / size() * (size() - 1));
      return collectives_->AllReduce(data.data(), data.size());
    }
    HalvingRounds(size()) < 0 ? SumDirectly(data) : Halve(data);
    Gather(data);
  });
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::ReduceScatterBf16(std::span<uint16_t> data,
                                                                      const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return Post("reduce-scatter", name, data.size_bytes(), [&] { SumDirectly(data); });
}

std::unique_ptr<CollectiveHandle> NcclCommunicator::AllReduceBf16(std::span<uint16_t> data,
                                                                  const std::string& name) {
  return Post("all-reduce", name, data.size_bytes(), [&] {
    SumDirectly(data);
    Gather(data);
  });
}

void NcclCommunicator::AllReduceSum(std::span<double> values, const std::string& name) {
  OnHost("all-reduce", name, values.size_bytes(), [&] { host_->AllReduceSum(values, name); });
}

void NcclCommunicator::AllGather(std::span<const double> values, std::span<double> result,
                                 const std::string& name) {
  OnHost("all-gather", name, values.size_bytes(), [&] { host_->AllGather(values, result, name); });
}

std::vector<std::string> NcclCommunicator::AllGatherText(const std::string& text,
                                                         const std::string& name) {
  std::vector<std::string> texts;
  OnHost("all-gather", name, text.size(), [&] { texts = host_->AllGatherText(text, name); });
  return texts;
}

void NcclCommunicator::Barrier(const std::string& name) {
  OnHost("barrier", name, 0, [&] { host_->Barrier(name); });
}

CollectivePosition NcclCommunicator::position() const {
  const CollectivePosition known = recorder_.position();
  const std::lock_guard lock(mutex_);
  const bool answers = !asked_ || Clock::now() - *asked_ < kSilence;
  if (known.in_progress || answers || flights_.empty()) return known;
  return {flights_.front().sequence, flights_.front().name, true};
}

std::vector<CollectiveRecord> NcclCommunicator::recent() const { return recorder_.recent(); }

std::string NcclCommunicator::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void NcclCommunicator::GiveUp() {
  given_up_ = true;
  if (DeviceCollectives* const joined = collectives()) joined->Abort();
}

double NcclCommunicator::wait_seconds() const {
  DeviceCollectives* const joined = collectives();
  return host_->wait_seconds() + (joined == nullptr ? 0 : joined->waited_seconds());
}

}  // namespace swinfleet
