#include "worker/input_watch.h"

#include <cmath>

namespace swinfleet {

std::string InputWatch::Note(double share, int64_t steps, int rank, const DataConfig& data) {
  if (share < kLow) warned_ = false;
  high_lines_ = share < kHigh ? 0 : high_lines_ + 1;
  if (high_lines_ < 2 || warned_) return "";
  warned_ = true;
  std::string text = "training waits for pictures: " + std::to_string(std::lround(100 * share)) +
                     "% of the last " + std::to_string(steps) + " steps on rank " +
                     std::to_string(rank) + ". Raise data.loader_threads (now " +
                     std::to_string(data.loader_threads) + ") where the host has cores to spare";
  // Fewer batches than threads: some of them have nothing to do.
  if (data.prefetch <= data.loader_threads) {
    text += ", and data.prefetch (now " + std::to_string(data.prefetch) + ") above it";
  }
  return text +
         "; or give steps fewer threads (parallel.threads_per_rank), or store smaller pictures";
}

}  // namespace swinfleet
