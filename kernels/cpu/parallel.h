// Static splitting of loops over the CPU backend's threads.
#ifndef SWINFLEET_KERNELS_CPU_PARALLEL_H_
#define SWINFLEET_KERNELS_CPU_PARALLEL_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace swinfleet {

// Calls body(begin, end, part) with contiguous parts of [0, n), one a thread, cut at multiples of
// `grain`. The split is a function of n, threads and grain alone, so results do not depend on
// timing.
template <typename Body>
void ParallelFor(int threads, int64_t n, int64_t grain, const Body& body) {
  const int64_t pieces = (n + grain - 1) / grain;
  const int used = static_cast<int>(std::min<int64_t>(threads, pieces));
  if (used <= 1) {
    if (n > 0) body(int64_t{0}, n, 0);
    return;
  }
  // The team may be smaller than asked (OMP_THREAD_LIMIT): then a thread takes several parts.
#pragma omp parallel num_threads(used)
  for (int part = omp_get_thread_num(); part < used; part += omp_get_num_threads()) {
    const int64_t begin = pieces * part / used * grain;
    const int64_t end = std::min(n, pieces * (part + 1) / used * grain);
    if (begin < end) body(begin, end, part);
  }
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CPU_PARALLEL_H_
