// The last collectives of a rank: what is looked at when one of them does not end.
#ifndef SWINFLEET_DISTRIBUTED_FLIGHT_RECORDER_H_
#define SWINFLEET_DISTRIBUTED_FLIGHT_RECORDER_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "distributed/communicator.h"

namespace swinfleet {

// Keeps the last kRecords collectives that were posted. Thread-safe; every call returns at once.
class FlightRecorder {
 public:
  static constexpr uint64_t kRecords = 256;

  // Numbers go on from `before`.
  explicit FlightRecorder(uint64_t before = 0) : first_(before + 1), posted_(before) {
    last_.sequence = before;
  }

  // A collective is to come, after all that were posted before; its number, from 1.
  uint64_t Post(const std::string& operation, const std::string& name, uint64_t bytes);
  // It has its turn.
  void Start(uint64_t sequence, const std::string& name);
  void End(uint64_t sequence);

  // By the first of those in progress, or the one that was started last.
  CollectivePosition position() const;
  // Oldest first.
  std::vector<CollectiveRecord> recent() const;

 private:
  CollectiveRecord& At(uint64_t sequence) { return records_[sequence % kRecords]; }

  mutable std::mutex mutex_;
  const uint64_t first_;
  uint64_t posted_;
  // Started last, and in progress.
  CollectivePosition last_;
  std::vector<CollectivePosition> under_way_;
  std::array<CollectiveRecord, kRecords> records_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_FLIGHT_RECORDER_H_
