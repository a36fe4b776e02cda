#include "distributed/mpi_communicator.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <limits>
#include <numeric>

#include "distributed/halving.h"
#include "distributed/shard_layout.h"
#include "kernels/cpu/rows.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

// Elements of a chunk: 1 MiB, so that what arrived is still in cache when it is added.
constexpr size_t kChunk = size_t{1} << 18;
// Chunks under way at a time in each direction.
constexpr int kWindow = 4;
// Bytes that have arrived and wait to be added.
constexpr size_t kWorkspace = kWindow * kChunk * sizeof(float);
// All messages of a communicator are matched in order, so one tag is enough.
constexpr int kTag = 1;

size_t Chunks(size_t elements) { return (elements + kChunk - 1) / kChunk; }

template <typename T>
std::span<T> ChunkOf(std::span<T> data, size_t chunk) {
  const size_t begin = chunk * kChunk;
  return data.subspan(begin, std::min(kChunk, data.size() - begin));
}

// y += x. Which of the two comes first doesn't matter: addition of two floats commutes.
void AddTo(std::span<const float> x, std::span<float> y) {
  const float* __restrict from = x.data();
  float* __restrict to = y.data();
  const size_t n = x.size();
  for (size_t i = 0; i < n; ++i) to[i] += from[i];
}

void AddTo(std::span<const uint16_t> x, std::span<float> y) {
  cpu::AddElements(x.data(), DType::kBF16, y.data(), DType::kF32, std::ssize(x));
}

void Store(std::span<const float> sum, float* to) { std::ranges::copy(sum, to); }

void Store(std::span<const float> sum, uint16_t* to) {
  cpu::ConvertElements(sum.data(), DType::kF32, to, DType::kBF16, std::ssize(sum));
}

template <typename T>
MPI_Datatype TypeOf() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, uint16_t>);
  if constexpr (std::is_same_v<T, float>) return MPI_FLOAT;
  return MPI_UINT16_T;
}

// Rows of `columns` values, one a rank, summed into the first along the tree of the communicator.
void SumRows(std::span<double> rows, size_t columns, int ranks) {
  const auto add = [&](int to, int from) {
    for (size_t i = 0; i < columns; ++i) rows[to * columns + i] += rows[from * columns + i];
  };
  if (!std::has_single_bit(static_cast<unsigned>(ranks))) {
    for (int r = 1; r < ranks; ++r) add(0, r);
    return;
  }
  for (int step = 1; step < ranks; step *= 2) {
    for (int r = 0; r < ranks; r += 2 * step) add(r, r + step);
  }
}

int CheckedCount(size_t count) {
  CHECK_LE(count, static_cast<size_t>(std::numeric_limits<int>::max()));
  return static_cast<int>(count);
}

}  // namespace

size_t CommunicatorBytes(int ranks) { return ranks > 1 ? kWorkspace : 0; }

struct MpiCollectives::Progress {
  // Receives, then sends.
  std::array<MPI_Request, 2 * kWindow> requests;
  std::array<size_t, kWindow> receiving{};
  size_t next_receive = 0;
  size_t next_send = 0;
  // Chunks, both ways, not yet done.
  size_t left = 0;
};

MpiCollectives::MpiCollectives(MpiThread* thread, MPI_Comm comm)
    : thread_(thread), comm_(comm), memory_(Arena::OnHost("messages", kWorkspace)) {
  MpiThread::Check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  MpiThread::Check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  rounds_ = HalvingRounds(size_);
  workspace_ = memory_.AllocateBytes(kWorkspace);
  requests_.assign(2 * static_cast<size_t>(size_), MPI_REQUEST_NULL);
}

void MpiCollectives::Free() {
  if (by_shard_ != MPI_COMM_NULL) MpiThread::Check(MPI_Comm_free(&by_shard_), "MPI_Comm_free");
  MpiThread::Check(MPI_Comm_free(&comm_), "MPI_Comm_free");
}

void MpiCollectives::UseLibrarySums(bool use) {
  library_sums_ = use;
  if (!use || by_shard_ != MPI_COMM_NULL) return;
  // MPI's own call would spin until the last rank is there.
  Barrier();
  MpiThread::Check(MPI_Comm_split(comm_, 0, ShardLayout::ShardIndex(rank_, size_), &by_shard_),
                   "MPI_Comm_split");
}

void MpiCollectives::AllReduce(std::span<float> data) {
  if (!library_sums_) {
    ReduceScatter(data);
    return AllGather(data);
  }
  MPI_Request request = MPI_REQUEST_NULL;
  MpiThread::Check(MPI_Iallreduce(MPI_IN_PLACE, data.data(), CheckedCount(data.size()), MPI_FLOAT,
                                  MPI_SUM, comm_, &request),
                   "MPI_Iallreduce");
  // What it sends at least.
  CountSent(2 * (data.size_bytes() - data.size_bytes() / size_));
  thread_->WaitAll({&request, 1});
}

void MpiCollectives::ReduceScatterByLibrary(std::span<float> data) {
  MPI_Request request = MPI_REQUEST_NULL;
  MpiThread::Check(
      MPI_Ireduce_scatter_block(MPI_IN_PLACE, data.data(), CheckedCount(data.size() / size_),
                                MPI_FLOAT, MPI_SUM, by_shard_, &request),
      "MPI_Ireduce_scatter_block");
  // What it sends at least.
  CountSent(data.size_bytes() - data.size_bytes() / size_);
  thread_->WaitAll({&request, 1});
  const std::span<float> own = ShardOf(data, rank_, size_);
  std::memmove(own.data(), data.data(), own.size_bytes());
}

void MpiCollectives::ReduceScatter(std::span<float> data) {
  if (library_sums_) return ReduceScatterByLibrary(data);
  if (rounds_ < 0) return ReduceScatterDirect(data);
  for (int round = 0; round < rounds_; ++round) {
    const std::span<float> all = Halved(data, round, rank_);
    const size_t half = all.size() / 2;
    const bool upper = (rank_ >> round) & 1;
    Run(Exchange<float>{.peer = rank_ ^ (1 << round),
                        .send = upper ? all.first(half) : all.subspan(half),
                        .receive = upper ? all.subspan(half) : all.first(half),
                        .add = true});
  }
}

template <typename T>
void MpiCollectives::AllGather(std::span<T> data) {
  if (rounds_ < 0) return AllGatherDirect(data);
  for (int round = rounds_ - 1; round >= 0; --round) {
    const std::span<T> all = Halved(data, round, rank_);
    const size_t half = all.size() / 2;
    const bool upper = (rank_ >> round) & 1;
    Run(Exchange<T>{.peer = rank_ ^ (1 << round),
                    .send = upper ? all.subspan(half) : all.first(half),
                    .receive = upper ? all.first(half) : all.subspan(half),
                    .add = false});
  }
}

template <typename T>
void MpiCollectives::StartReceive(const Exchange<T>& exchange, int slot, Progress* progress) {
  if (progress->next_receive == Chunks(exchange.receive.size())) return;
  const size_t chunk = progress->next_receive++;
  const std::span<T> place = ChunkOf(exchange.receive, chunk);
  progress->receiving[slot] = chunk;
  T* into = exchange.add ? static_cast<T*>(workspace_) + slot * kChunk : place.data();
  MpiThread::Check(MPI_Irecv(into, CheckedCount(place.size()), TypeOf<T>(), exchange.peer, kTag,
                             comm_, &progress->requests[slot]),
                   "MPI_Irecv");
}

template <typename T>
void MpiCollectives::StartSend(const Exchange<T>& exchange, int slot, Progress* progress) {
  if (progress->next_send == Chunks(exchange.send.size())) return;
  const std::span<const T> chunk = ChunkOf(exchange.send, progress->next_send++);
  MpiThread::Check(MPI_Isend(chunk.data(), CheckedCount(chunk.size()), TypeOf<T>(), exchange.peer,
                             kTag, comm_, &progress->requests[kWindow + slot]),
                   "MPI_Isend");
  CountSent(chunk.size_bytes());
}

template <typename T>
void MpiCollectives::Run(const Exchange<T>& exchange) {
  Progress progress;
  progress.requests.fill(MPI_REQUEST_NULL);
  progress.left = Chunks(exchange.receive.size()) + Chunks(exchange.send.size());
  for (int slot = 0; slot < kWindow; ++slot) StartReceive(exchange, slot, &progress);
  for (int slot = 0; slot < kWindow; ++slot) StartSend(exchange, slot, &progress);
  std::array<int, 2 * kWindow> done;
  while (progress.left > 0) {
    const int count = thread_->WaitSome(progress.requests, done);
    progress.left -= count;
    for (const int i : std::span(done).first(count)) {
      if (i >= kWindow) {
        StartSend(exchange, i - kWindow, &progress);
        continue;
      }
      if constexpr (std::is_same_v<T, float>) {
        if (exchange.add) {
          const std::span<float> place = ChunkOf(exchange.receive, progress.receiving[i]);
          AddTo(std::span<const float>(static_cast<float*>(workspace_) + i * kChunk, place.size()),
                place);
        }
      }
      StartReceive(exchange, i, &progress);
    }
  }
}

template <typename T>
std::span<T> MpiCollectives::Contribution(int rank, size_t chunk) {
  return {static_cast<T*>(workspace_) + (rank < rank_ ? rank : rank - 1) * chunk, chunk};
}

template <typename T>
void MpiCollectives::ExchangeContributions(std::span<T> data, size_t begin, size_t chunk) {
  std::ranges::fill(requests_, MPI_REQUEST_NULL);
  const size_t own = ShardOf(data, rank_, size_).size();
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    if (begin < own) {
      const size_t count = std::min(chunk, own - begin);
      MpiThread::Check(MPI_Irecv(Contribution<T>(r, chunk).data(), CheckedCount(count), TypeOf<T>(),
                                 r, kTag, comm_, &requests_[r]),
                       "MPI_Irecv");
    }
    const std::span<T> part = ShardOf(data, r, size_);
    if (begin < part.size()) {
      const size_t count = std::min(chunk, part.size() - begin);
      MpiThread::Check(MPI_Isend(part.data() + begin, CheckedCount(count), TypeOf<T>(), r, kTag,
                                 comm_, &requests_[size_ + r]),
                       "MPI_Isend");
      CountSent(count * sizeof(T));
    }
  }
}

template <typename T>
void MpiCollectives::ReduceScatterDirect(std::span<T> data) {
  if (size_ == 1) return;
  const std::span<T> own = ShardOf(data, rank_, size_);
  // Shards differ by one element at most.
  const size_t largest = (data.size() + size_ - 1) / size_;
  const size_t chunk = kWorkspace / sizeof(T) / (size_ - 1);
  std::array<float, 1024> sum;
  for (size_t begin = 0; begin < largest; begin += chunk) {
    ExchangeContributions(data, begin, chunk);
    thread_->WaitAll(requests_);
    if (begin >= own.size()) continue;
    const std::span<T> mine = own.subspan(begin, std::min(chunk, own.size() - begin));
    for (size_t at = 0; at < mine.size(); at += sum.size()) {
      const std::span<float> part = std::span(sum).first(std::min(sum.size(), mine.size() - at));
      // Negative zero keeps every number that it is added to.
      std::ranges::fill(part, -0.0f);
      for (int r = 0; r < size_; ++r) {
        const std::span<T> all = r == rank_ ? mine : Contribution<T>(r, chunk);
        AddTo(std::span<const T>(all.subspan(at, part.size())), part);
      }
      Store(part, mine.data() + at);
    }
  }
}

template <typename T>
void MpiCollectives::AllGatherDirect(std::span<T> data) {
  const size_t largest = (data.size() + size_ - 1) / size_;
  for (size_t chunk = 0; chunk < Chunks(largest); ++chunk) {
    std::ranges::fill(requests_, MPI_REQUEST_NULL);
    const std::span<T> own = ShardOf(data, rank_, size_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const std::span<T> part = ShardOf(data, r, size_);
      if (chunk < Chunks(part.size())) {
        const std::span<T> place = ChunkOf(part, chunk);
        MpiThread::Check(MPI_Irecv(place.data(), CheckedCount(place.size()), TypeOf<T>(), r, kTag,
                                   comm_, &requests_[r]),
                         "MPI_Irecv");
      }
      if (chunk < Chunks(own.size())) {
        const std::span<T> piece = ChunkOf(own, chunk);
        MpiThread::Check(MPI_Isend(piece.data(), CheckedCount(piece.size()), TypeOf<T>(), r, kTag,
                                   comm_, &requests_[size_ + r]),
                         "MPI_Isend");
        CountSent(piece.size_bytes());
      }
    }
    thread_->WaitAll(requests_);
  }
}

void MpiCollectives::ReduceScatterBf16(std::span<uint16_t> data) { ReduceScatterDirect(data); }

void MpiCollectives::AllGather(std::span<const double> values, std::span<double> result) {
  const int count = CheckedCount(values.size());
  MPI_Request request = MPI_REQUEST_NULL;
  MpiThread::Check(MPI_Iallgather(values.data(), count, MPI_DOUBLE, result.data(), count,
                                  MPI_DOUBLE, comm_, &request),
                   "MPI_Iallgather");
  CountSent(values.size_bytes() * (size_ - 1));
  thread_->WaitAll({&request, 1});
}

void MpiCollectives::AllReduceSum(std::span<double> values) {
  const size_t all = values.size() * size_;
  if (gathered_.size() < all) gathered_.resize(all);
  AllGather(values, std::span(gathered_).first(all));
  SumRows(gathered_, values.size(), size_);
  std::copy_n(gathered_.begin(), values.size(), values.begin());
}

std::vector<std::string> MpiCollectives::AllGatherText(const std::string& text) {
  const double length = static_cast<double>(text.size());
  std::vector<double> lengths(size_);
  AllGather({&length, 1}, lengths);
  std::vector<int> counts(size_);
  std::vector<int> begins(size_);
  size_t total = 0;
  for (int r = 0; r < size_; ++r) {
    begins[r] = CheckedCount(total);
    counts[r] = CheckedCount(static_cast<size_t>(lengths[r]));
    total += counts[r];
  }
  std::string all(total, '\0');
  MPI_Request request = MPI_REQUEST_NULL;
  MpiThread::Check(MPI_Iallgatherv(text.data(), counts[rank_], MPI_CHAR, all.data(), counts.data(),
                                   begins.data(), MPI_CHAR, comm_, &request),
                   "MPI_Iallgatherv");
  CountSent(text.size() * (size_ - 1));
  thread_->WaitAll({&request, 1});
  std::vector<std::string> texts;
  for (int r = 0; r < size_; ++r) texts.push_back(all.substr(begins[r], counts[r]));
  return texts;
}

void MpiCollectives::Barrier() {
  MPI_Request request = MPI_REQUEST_NULL;
  MpiThread::Check(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
  thread_->WaitAll({&request, 1});
}

namespace {

// Adds the time of a scope to the seconds that callers have waited.
class WaitTimer {
 public:
  explicit WaitTimer(MpiCommunicator::Status* status) : status_(status) {}
  ~WaitTimer() {
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin_;
    const std::lock_guard lock(status_->mutex);
    status_->wait_seconds += waited.count();
  }
  WaitTimer(const WaitTimer&) = delete;
  WaitTimer& operator=(const WaitTimer&) = delete;

 private:
  MpiCommunicator::Status* status_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

class MpiHandle : public CollectiveHandle {
 public:
  MpiHandle(MpiThread* thread, std::shared_ptr<MpiOperation> operation,
            std::shared_ptr<MpiCommunicator::Status> status)
      : thread_(thread), operation_(std::move(operation)), status_(std::move(status)) {}
  ~MpiHandle() override {
    if (waited_) return;
    // The buffer goes away with the caller, and its peers may wait for this rank's next collective
    // in vain: an error under way must not turn into waiting for them.
    if (std::uncaught_exceptions() > 0) thread_->GiveUp("this rank is leaving after an error");
    operation_->WaitQuietly();
  }
  void Wait() override {
    if (waited_) return;
    const WaitTimer timer(status_.get());
    waited_ = true;
    operation_->Wait();
  }

 private:
  MpiThread* thread_;
  std::shared_ptr<MpiOperation> operation_;
  std::shared_ptr<MpiCommunicator::Status> status_;
  bool waited_ = false;
};

}  // namespace

MpiCommunicator::MpiCommunicator(MpiThread* thread, int ranks, int tag)
    : thread_(thread), status_(std::make_shared<Status>()) {
  thread_
      ->Post([this, ranks, tag] {
        collectives_ = std::make_shared<MpiCollectives>(thread_, thread_->CreateGroup(ranks, tag));
      })
      ->Wait();
}

MpiCommunicator::~MpiCommunicator() {
  if (std::uncaught_exceptions() > 0) thread_->GiveUp("this rank is leaving after an error");
  thread_->Post([collectives = collectives_] { collectives->Free(); })->WaitQuietly();
}

std::shared_ptr<MpiOperation> MpiCommunicator::Post(const Label& label,
                                                    std::function<void()> work) {
  const uint64_t sequence = status_->recorder.Post(label.operation, label.name, label.bytes);
  return thread_->Post([work = std::move(work), name = label.name, sequence, status = status_,
                        rank = rank(), size = size()] {
    status->recorder.Start(sequence, name);
    try {
      work();
    } catch (const Error& error) {
      throw Error("collective \"" + name + "\" on rank " + std::to_string(rank) + " of " +
                  std::to_string(size) + ": " + error.what());
    }
    status->recorder.End(sequence);
  });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::PostAsync(const Label& label,
                                                             std::function<void()> work) {
  auto handle = std::make_unique<MpiHandle>(thread_, Post(label, std::move(work)), status_);
  if (wait_at_once_) handle->Wait();
  return handle;
}

void MpiCommunicator::RunBlocking(const Label& label, std::function<void()> work) {
  PostAsync(label, std::move(work))->Wait();
}

void MpiCommunicator::UseLibrarySums(bool use) {
  RunBlocking({"switch", "who sums"}, [this, use] { collectives_->UseLibrarySums(use); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::ReduceScatter(std::span<float> data,
                                                                 const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return PostAsync({"reduce-scatter", name, data.size_bytes()},
                   [c = collectives_, data] { c->ReduceScatter(data); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::AllGather(std::span<float> data,
                                                             const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return PostAsync({"all-gather", name, data.size_bytes()},
                   [c = collectives_, data] { c->AllGather(data); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::AllGather(std::span<uint16_t> data,
                                                             const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return PostAsync({"all-gather", name, data.size_bytes()},
                   [c = collectives_, data] { c->AllGather(data); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::AllReduce(std::span<float> data,
                                                             const std::string& name) {
  return PostAsync({"all-reduce", name, data.size_bytes()},
                   [c = collectives_, data] { c->AllReduce(data); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::ReduceScatterBf16(std::span<uint16_t> data,
                                                                     const std::string& name) {
  CHECK_EQ(data.size() % size(), 0u) << name;
  return PostAsync({"reduce-scatter", name, data.size_bytes()},
                   [c = collectives_, data] { c->ReduceScatterBf16(data); });
}

std::unique_ptr<CollectiveHandle> MpiCommunicator::AllReduceBf16(std::span<uint16_t> data,
                                                                 const std::string& name) {
  return PostAsync({"all-reduce", name, data.size_bytes()}, [c = collectives_, data] {
    c->ReduceScatterBf16(data);
    c->AllGather(data);
  });
}

void MpiCommunicator::AllReduceSum(std::span<double> values, const std::string& name) {
  RunBlocking({"all-reduce", name, values.size_bytes()},
              [this, values] { collectives_->AllReduceSum(values); });
}

void MpiCommunicator::AllGather(std::span<const double> values, std::span<double> result,
                                const std::string& name) {
  CHECK_EQ(result.size(), values.size() * size()) << name;
  RunBlocking({"all-gather", name, values.size_bytes()},
              [this, values, result] { collectives_->AllGather(values, result); });
}

std::vector<std::string> MpiCommunicator::AllGatherText(const std::string& text,
                                                        const std::string& name) {
  std::vector<std::string> result;
  RunBlocking({"all-gather", name, text.size()},
              [this, &text, &result] { result = collectives_->AllGatherText(text); });
  return result;
}

void MpiCommunicator::Barrier(const std::string& name) {
  RunBlocking({"barrier", name}, [this] { collectives_->Barrier(); });
}

double MpiCommunicator::wait_seconds() const {
  const std::lock_guard lock(status_->mutex);
  return status_->wait_seconds;
}

}  // namespace swinfleet
