#include "kernels/cuda/event_clock.h"

#include <glog/logging.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/gpu.h"

namespace swinfleet::cuda {
namespace {

// Each moment is an event, which is used again when the moment is forgotten.
class EventClock final : public DeviceClock {
 public:
  EventClock() = default;
  explicit EventClock(size_t moments) : EventClock() {
    while (events_.size() < moments) free_.push_back(MakeEvent());
  }
  // A GPU that has failed has said so to somebody else.
  ~EventClock() override {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  EventClock(const EventClock&) = delete;
  EventClock& operator=(const EventClock&) = delete;

  size_t Note(void* stream) override {
    if (free_.empty()) free_.push_back(MakeEvent());
    const size_t moment = free_.back();
    CheckCuda(cudaEventRecord(events_[moment], static_cast<cudaStream_t>(stream)),
              "recording an event");
    free_.pop_back();
    return moment;
  }

  double SecondsBetween(size_t from, size_t to) override {
    CHECK_LT(std::max(from, to), events_.size());
    WaitOnHost(events_[to]);
    float milliseconds = 0;
    CheckCuda(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]), "measuring a time");
    return milliseconds * 1e-3;
  }

  void Forget(size_t moment) override {
    CHECK_LT(moment, events_.size());
    free_.push_back(moment);
  }

 private:
  size_t MakeEvent() {
    cudaEvent_t event = nullptr;
    CheckCuda(cudaEventCreateWithFlags(&event, cudaEventDefault), "making an event");
    events_.push_back(event);
    return events_.size() - 1;
  }

  // By number.
  std::vector<cudaEvent_t> events_;
  std::vector<size_t> free_;
};

}  // namespace

std::unique_ptr<DeviceClock> MakeEventClock(size_t moments) {
  return std::make_unique<EventClock>(moments);
}

}  // namespace swinfleet::cuda
