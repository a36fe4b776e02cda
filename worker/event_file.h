// TensorBoard's event files: `<run>/tensorboard/events.out.tfevents.0000000001.swinfleet` of the
// first attempt, and so on.
#ifndef SWINFLEET_WORKER_EVENT_FILE_H_
#define SWINFLEET_WORKER_EVENT_FILE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "proto/tensorboard.pb.h"
#include "worker/record_file.h"

namespace swinfleet {

struct Scalar {
  const char* tag;
  double value;
};

// Each attempt writes a file of its own, which TensorBoard reads in the order of attempts. Its
// first records say where it goes on, so that steps that a crash undid are not shown twice.
class EventFile {
 public:
  // The attempt goes on after `first_step` steps.
  EventFile(const std::string& run_dir, int64_t attempt, int64_t first_step);

  // Scalars of a step, the number of steps done.
  void Add(int64_t step, std::span<const Scalar> scalars);
  void Flush() { file_.Flush(); }

 private:
  void Write(tensorboard::Event* event);

  RecordFile file_;
};

// One record of a TFRecord file: its length, both with their checksums.
std::string FrameRecord(std::string_view data);

// CRC-32C (Castagnoli).
uint32_t Crc32c(std::string_view data);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_EVENT_FILE_H_
