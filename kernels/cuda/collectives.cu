#include "kernels/cuda/collectives.h"

#include <glog/logging.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/nccl_library.h"
#include "kernels/error.h"

namespace swinfleet::cuda {
namespace {

using Clock = std::chrono::steady_clock;

static_assert(sizeof(CollectivesId) == sizeof(ncclUniqueId));

// Between two looks at a call that NCCL goes on with by itself.
constexpr auto kLook = std::chrono::microseconds(50);
// How long the end of a group waits for the other processes.
constexpr auto kPatience = std::chrono::seconds(10);

constexpr char kAborted[] = "the GPU's collectives were given up";

// Events of one kind that are used again and again.
class EventPool {
 public:
  explicit EventPool(unsigned flags) : flags_(flags) {}
  ~EventPool() {
    for (const cudaEvent_t event : all_) cudaEventDestroy(event);
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  cudaEvent_t Take() {
    if (free_.empty()) {
      cudaEvent_t event = nullptr;
      CheckCuda(cudaEventCreateWithFlags(&event, flags_), "making an event");
      all_.push_back(event);
      return event;
    }
    const cudaEvent_t event = free_.back();
    free_.pop_back();
    return event;
  }
  void GiveBack(cudaEvent_t event) { free_.push_back(event); }

 private:
  const unsigned flags_;
  std::vector<cudaEvent_t> all_, free_;
};

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(const CollectivesSetting& setting, const CollectivesId& id, int place,
                  int processes);
  ~NcclCollectives() override;

  uint64_t Begin() override;
  void End() override;
  void ComputeAfter(uint64_t number) override;
  void* stream() const override { return stream_; }
  void Exchange(std::span<const DeviceExchange> exchanges) override;
  void AllGather(void* data, size_t shard_bytes) override;
  void ReduceScatter(float* data, size_t shard) override;
  void AllReduce(float* data, size_t n) override;
  Progress progress() override;
  std::string failure() override;
  void Abort() override;
  double waited_seconds() override;

 private:
  // A collective that the computing thread has not seen to end.
  struct Flight {
    uint64_t number = 0;
    cudaEvent_t begun = nullptr;
    cudaEvent_t ended = nullptr;  // null until End
  };
  // The computing stream before and after it waits.
  struct Wait {
    cudaEvent_t begun = nullptr;
    cudaEvent_t ended = nullptr;
  };

  [[noreturn]] void Throw(const char* what, ncclResult_t result) const;
  // Makes a call of NCCL, and waits until it has got through, however long other processes take.
  // With a deadline throws Error after it.
  template <typename Call>
  void Run(const char* what, const Call& call,
           Clock::time_point deadline = Clock::time_point::max());
  void Close();
  cudaEvent_t Take(EventPool* pool);
  // Called with events_mutex_ held.
  bool HasCome(cudaEvent_t event);
  void LookAtFlights();
  void ReuseFlights();
  void LookAtWaits();

  const CollectivesSetting setting_;
  const int place_;
  const int processes_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t computed_ = nullptr;
  uint64_t number_ = 0;

  // Of every call of NCCL; null after Abort.
  std::mutex nccl_mutex_;
  ncclComm_t comm_ = nullptr;

  // Of the rest. Not held in calls that put something on a stream: they wait as long as the stream
  // is full, and with other ranks that may be for ever.
  std::mutex events_mutex_;
  EventPool flight_events_{cudaEventDisableTiming}, wait_events_{cudaEventDefault};
  std::deque<Flight> flights_;
  std::deque<Wait> waits_;
  Progress progress_;
  // A call waits for other processes.
  bool waits_in_call_ = false;
  double waited_ = 0;
  std::string failure_;
};

NcclCollectives::NcclCollectives(const CollectivesSetting& setting, const CollectivesId& id,
                                 int place, int processes)
    : setting_(setting), place_(place), processes_(processes) {
  // Messages and the small additions between them must not queue behind grids of thousands of
  // blocks.
  int least = 0, greatest = 0;
  CheckCuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for streams' priorities");
  CheckCuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
            "making a stream");
  CheckCuda(cudaEventCreateWithFlags(&computed_, cudaEventDisableTiming), "making an event");
  ncclUniqueId nccl_id;
  std::memcpy(&nccl_id, id.data(), sizeof(nccl_id));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  Run("joining the other ranks' GPUs", [&](ncclComm_t) {
    return Nccl().CommInitRankConfig(&comm_, processes, nccl_id, place, &config);
  });
}

NcclCollectives::~NcclCollectives() {
  // Others may wait for this process in vain, and it must not wait for them.
  if (std::uncaught_exceptions() > 0) Abort();
  try {
    Close();
  } catch (const Error& error) {
    LOG(WARNING) << "the end of the GPU's collectives: " << error.what();
    Abort();
  }
  cudaStreamSynchronize(setting_.computing);
  cudaStreamSynchronize(stream_);
  cudaEventDestroy(computed_);
  cudaStreamDestroy(stream_);
}

void NcclCollectives::Close() {
  if (*setting_.aborted) return;
  CheckCuda(cudaStreamSynchronize(stream_), "the last collectives");
  Run(
      "leaving the other ranks' GPUs", [](ncclComm_t comm) { return Nccl().CommFinalize(comm); },
      Clock::now() + kPatience);
  Run("leaving NCCL", [this](ncclComm_t comm) {
    comm_ = nullptr;
    return Nccl().CommDestroy(comm);
  });
}

void NcclCollectives::Throw(const char* what, ncclResult_t result) const {
  throw Error(std::string("NCCL: ") + what + " failed: " + Nccl().GetErrorString(result) + " (" +
              Nccl().GetLastError(comm_) + ")");
}

template <typename Call>
void NcclCollectives::Run(const char* what, const Call& call, Clock::time_point deadline) {
  const auto note = [this](bool waits) {
    const std::lock_guard lock(events_mutex_);
    waits_in_call_ = waits;
  };
  std::unique_lock lock(nccl_mutex_);
  if (*setting_.aborted) throw Error(kAborted);
  ncclResult_t result = call(comm_);
  for (bool noted = false; result == ncclInProgress; noted = true) {
    if (!noted) note(true);
    lock.unlock();
    std::this_thread::sleep_for(kLook);
    if (Clock::now() > deadline) throw Error(std::string("NCCL: ") + what + " takes too long");
    lock.lock();
    if (*setting_.aborted) throw Error(kAborted);
    const ncclResult_t asked = Nccl().CommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess) Throw(what, asked);
    if (result != ncclInProgress) note(false);
  }
  if (result != ncclSuccess) Throw(what, result);
}

cudaEvent_t NcclCollectives::Take(EventPool* pool) {
  const std::lock_guard lock(events_mutex_);
  return pool->Take();
}

uint64_t NcclCollectives::Begin() {
  CheckCuda(cudaEventRecord(computed_, setting_.computing), "recording an event");
  WaitForEvent(stream_, computed_);
  const cudaEvent_t begun = Take(&flight_events_);
  CheckCuda(cudaEventRecord(begun, stream_), "recording an event");
  const std::lock_guard lock(events_mutex_);
  flights_.push_back({.number = ++number_, .begun = begun});
  return number_;
}

void NcclCollectives::End() {
  const cudaEvent_t ended = Take(&flight_events_);
  CheckCuda(cudaEventRecord(ended, stream_), "recording an event");
  const std::lock_guard lock(events_mutex_);
  flights_.back().ended = ended;
  LookAtFlights();
  ReuseFlights();
}

void NcclCollectives::ComputeAfter(uint64_t number) {
  cudaEvent_t ended = nullptr;
  {
    const std::lock_guard lock(events_mutex_);
    for (const Flight& flight : flights_) {
      if (flight.number == number) ended = flight.ended;
    }
  }
  // No other thread reuses it meanwhile.
  if (ended != nullptr) {
    const Wait wait = {.begun = Take(&wait_events_), .ended = Take(&wait_events_)};
    CheckCuda(cudaEventRecord(wait.begun, setting_.computing), "recording an event");
    WaitForEvent(setting_.computing, ended);
    CheckCuda(cudaEventRecord(wait.ended, setting_.computing), "recording an event");
    const std::lock_guard lock(events_mutex_);
    waits_.push_back(wait);
  }
  const std::lock_guard lock(events_mutex_);
  LookAtWaits();
}

void NcclCollectives::Exchange(std::span<const DeviceExchange> exchanges) {
  Run("messages", [&](ncclComm_t comm) {
    const NcclLibrary& nccl = Nccl();
    ncclResult_t first = nccl.GroupStart();
    const auto note = [&first](ncclResult_t result) {
      if (first == ncclSuccess && result != ncclInProgress) first = result;
    };
    for (const DeviceExchange& e : exchanges) {
      if (e.send_bytes > 0) {
        note(nccl.Send(e.send, e.send_bytes, ncclUint8, e.peer, comm, stream_));
      }
      if (e.receive_bytes > 0) {
        note(nccl.Recv(e.receive, e.receive_bytes, ncclUint8, e.peer, comm, stream_));
      }
    }
    const ncclResult_t end = nccl.GroupEnd();
    return first == ncclSuccess ? end : first;
  });
}

void NcclCollectives::AllGather(void* data, size_t shard_bytes) {
  const char* own = static_cast<char*>(data) + place_ * shard_bytes;
  Run("an all-gather", [&](ncclComm_t comm) {
    return Nccl().AllGather(own, data, shard_bytes, ncclUint8, comm, stream_);
  });
}

void NcclCollectives::ReduceScatter(float* data, size_t shard) {
  Run("a reduce-scatter", [&](ncclComm_t comm) {
    return Nccl().ReduceScatter(data, data + place_ * shard, shard, ncclFloat32, ncclSum, comm,
                                stream_);
  });
}

void NcclCollectives::AllReduce(float* data, size_t n) {
  Run("an all-reduce", [&](ncclComm_t comm) {
    return Nccl().AllReduce(data, data, n, ncclFloat32, ncclSum, comm, stream_);
  });
}

bool NcclCollectives::HasCome(cudaEvent_t event) {
  const cudaError_t state = cudaEventQuery(event);
  if (state != cudaSuccess && state != cudaErrorNotReady && failure_.empty()) {
    failure_ = std::string("CUDA: ") + cudaGetErrorString(state);
  }
  return state == cudaSuccess;
}

void NcclCollectives::LookAtFlights() {
  for (const Flight& flight : flights_) {
    if (flight.number <= progress_.ended) continue;
    if (HasCome(flight.begun)) progress_.begun = flight.number;
    if (flight.ended == nullptr || !HasCome(flight.ended)) return;
    progress_.ended = flight.number;
  }
}

// On the computing thread alone, which may be about to wait for one of these events.
void NcclCollectives::ReuseFlights() {
  while (!flights_.empty()) {
    const Flight flight = flights_.front();
    if (flight.number > progress_.ended || !HasCome(flight.ended)) return;
    flight_events_.GiveBack(flight.begun);
    flight_events_.GiveBack(flight.ended);
    flights_.pop_front();
  }
}

void NcclCollectives::LookAtWaits() {
  while (!waits_.empty() && HasCome(waits_.front().ended)) {
    float milliseconds = 0;
    CheckCuda(cudaEventElapsedTime(&milliseconds, waits_.front().begun, waits_.front().ended),
              "measuring a wait");
    waited_ += milliseconds * 1e-3;
    wait_events_.GiveBack(waits_.front().begun);
    wait_events_.GiveBack(waits_.front().ended);
    waits_.pop_front();
  }
}

DeviceCollectives::Progress NcclCollectives::progress() {
  // A thread that has never said so would wake up the first GPU.
  cudaSetDevice(setting_.gpu);
  const std::lock_guard lock(events_mutex_);
  LookAtFlights();
  Progress progress = progress_;
  if (waits_in_call_) progress.begun = number_;
  return progress;
}

std::string NcclCollectives::failure() {
  std::string failure;
  {
    const std::lock_guard lock(events_mutex_);
    failure = failure_;
  }
  const std::lock_guard lock(nccl_mutex_);
  if (!failure.empty() || comm_ == nullptr) return failure;
  ncclResult_t result = ncclSuccess;
  Nccl().CommGetAsyncError(comm_, &result);
  if (result == ncclSuccess || result == ncclInProgress) return "";
  return std::string("NCCL: ") + Nccl().GetErrorString(result) + " (" + Nccl().GetLastError(comm_) +
         ")";
}

void NcclCollectives::Abort() {
  cudaSetDevice(setting_.gpu);
  const std::lock_guard lock(nccl_mutex_);
  *setting_.aborted = true;
  if (comm_ != nullptr) Nccl().CommAbort(comm_);
  comm_ = nullptr;
}

double NcclCollectives::waited_seconds() {
  cudaSetDevice(setting_.gpu);
  const std::lock_guard lock(events_mutex_);
  LookAtWaits();
  return waited_;
}

}  // namespace

CollectivesId NewNcclId() {
  ncclUniqueId id;
  const ncclResult_t result = Nccl().GetUniqueId(&id);
  if (result != ncclSuccess) {
    throw Error(std::string("NCCL: making an id failed: ") + Nccl().GetErrorString(result));
  }
  CollectivesId bytes;
  std::memcpy(bytes.data(), &id, sizeof(id));
  return bytes;
}

std::unique_ptr<DeviceCollectives> JoinNccl(const CollectivesSetting& setting,
                                            const CollectivesId& id, int place, int processes) {
  return std::make_unique<NcclCollectives>(setting, id, place, processes);
}

}  // namespace swinfleet::cuda
