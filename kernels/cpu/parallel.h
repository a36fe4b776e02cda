// Static splitting of loops over the CPU backend's threads.
#ifndef SWINFLEET_KERNELS_CPU_PARALLEL_H_
#define SWINFLEET_KERNELS_CPU_PARALLEL_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace swinfleet {

// How [0, n) is cut into contiguous parts, one a thread, at multiples of `grain`: a function of n,
// threads and grain alone, so results do not depend on timing.
class StaticSplit {
 public:
  StaticSplit(int threads, int64_t n, int64_t grain)
      : n_(n),
        grain_(grain),
        pieces_((n + grain - 1) / grain),
        parts_(static_cast<int>(std::min<int64_t>(threads, pieces_))) {}

  int parts() const { return parts_; }
  // Calls body(begin, end, part).
  template <typename Body>
  void Run(int part, const Body& body) const {
    const int64_t begin = pieces_ * part / parts_ * grain_;
    const int64_t end = std::min(n_, pieces_ * (part + 1) / parts_ * grain_);
    if (begin < end) body(begin, end, part);
  }

 private:
  int64_t n_, grain_, pieces_;
  int parts_;
};

// Calls body(begin, end, part) for the parts of [0, n), each on a thread of its own.
template <typename Body>
void ParallelFor(int threads, int64_t n, int64_t grain, const Body& body) {
  const StaticSplit split(threads, n, grain);
  if (split.parts() <= 1) {
    if (n > 0) body(int64_t{0}, n, 0);
    return;
  }
  // Always the whole team, also for fewer parts: OpenMP's threads end when a team is smaller than
  // the one before, and what they keep (products, the CPUs that they are on) goes with them. It may
  // be smaller than asked (OMP_THREAD_LIMIT): then a thread takes several parts.
#pragma omp parallel num_threads(threads)
  for (int part = omp_get_thread_num(); part < split.parts(); part += omp_get_num_threads()) {
    split.Run(part, body);
  }
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CPU_PARALLEL_H_
