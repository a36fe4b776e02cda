#include "distributed/flight_recorder.h"

#include <algorithm>
#include <chrono>

namespace swinfleet {
namespace {

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint64_t FlightRecorder::Post(const std::string& operation, const std::string& name,
                              uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  ++posted_;
  At(posted_) = {.sequence = posted_,
                 .operation = operation,
                 .name = name,
                 .bytes = bytes,
                 .posted = UnixTime()};
  return posted_;
}

void FlightRecorder::Start(uint64_t sequence, const std::string& name) {
  const std::lock_guard lock(mutex_);
  last_ = {sequence, name, false};
  under_way_.push_back({sequence, name, true});
  // So many may have been posted since that its place was taken.
  if (At(sequence).sequence == sequence) At(sequence).started = UnixTime();
}

void FlightRecorder::End(uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  std::erase_if(under_way_, [sequence](const auto& one) { return one.sequence == sequence; });
  if (At(sequence).sequence == sequence) At(sequence).ended = UnixTime();
}

CollectivePosition FlightRecorder::position() const {
  const std::lock_guard lock(mutex_);
  const auto first = std::ranges::min_element(under_way_, {}, &CollectivePosition::sequence);
  return first == under_way_.end() ? last_ : *first;
}

std::vector<CollectiveRecord> FlightRecorder::recent() const {
  const std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> records;
  const uint64_t count = std::min(posted_ + 1 - first_, kRecords);
  for (uint64_t sequence = posted_ - count + 1; sequence <= posted_; ++sequence) {
    records.push_back(records_[sequence % kRecords]);
  }
  return records;
}

}  // namespace swinfleet
