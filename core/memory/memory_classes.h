// The process's tensor memory, planned per class and reserved once.
#ifndef SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_
#define SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_

#include <string>

#include "kernels/arena.h"

namespace swinfleet {

struct MemoryClasses {
  Arena parameters;
  Arena gradients;
  Arena optimizer;
  Arena activations;
  Arena workspace;

  // Counts only: what the dry run of a step is given.
  static MemoryClasses DryRun();
  // Reserves for each class what `planned`'s high-water mark says. Throws Error when the machine
  // can't give that much, naming the class and the sizes.
  static MemoryClasses OnHost(const MemoryClasses& planned);

  // "parameters 113.2 MiB, gradients ...": high-water marks.
  std::string Report() const;
  size_t TotalHighWater() const;
};

// The process's largest resident size so far (VmHWM of /proc/self/status), in bytes.
size_t ProcessPeakBytes();
// Its present resident size (VmRSS), in bytes.
size_t ProcessResidentBytes();

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_
