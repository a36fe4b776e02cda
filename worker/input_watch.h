// Notices that training is held up by its pictures, and says what to do.
#ifndef SWINFLEET_WORKER_INPUT_WATCH_H_
#define SWINFLEET_WORKER_INPUT_WATCH_H_

#include <cstdint>
#include <string>

#include "core/config/job_config.h"

namespace swinfleet {

// Told at each line of progress. One line says little, least of all the first one, before which the
// loader has filled its queue.
class InputWatch {
 public:
  // From this share of the time on, in two lines in a row, training is held up; below the second
  // one it no longer is.
  static constexpr double kHigh = 0.1;
  static constexpr double kLow = 0.05;

  // `share` of the time of the last `steps` steps, 0..1, was spent waiting for pictures by `rank`,
  // which waited the longest. What to warn of, once each time that training begins to be held up;
  // otherwise empty.
  std::string Note(double share, int64_t steps, int rank, const DataConfig& data);

 private:
  int high_lines_ = 0;
  bool warned_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_INPUT_WATCH_H_
