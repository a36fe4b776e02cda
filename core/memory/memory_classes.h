// The process's tensor memory, planned per class and reserved once: the host's or a GPU's.
#ifndef SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_
#define SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_

#include <string>

#include "kernels/arena.h"

namespace swinfleet {

class Accelerator;

struct MemoryClasses {
  Arena parameters;
  Arena gradients;
  Arena optimizer;
  Arena activations;
  Arena workspace;
  // The host's, where the others are a GPU's: what the host itself reads and writes.
  Arena staging;
  // The host's too, pinned: what is offloaded of the optimizer's state to it, or what passes
  // through it between a GPU and a disk.
  Arena offloaded;
  // Where the others are, or would be: kCpu or kCuda.
  Device device = Device::kCpu;

  // Counts only: what the dry run of a step is given.
  static MemoryClasses DryRun(Device device = Device::kCpu);
  // Reserves for each class what `planned`'s high-water mark says. Throws Error when the machine
  // can't give that much, naming the class and the sizes.
  static MemoryClasses OnHost(const MemoryClasses& planned);
  // The same on a GPU, which outlives them. Throws Error too when the system refuses to pin memory.
  static MemoryClasses OnDevice(const MemoryClasses& planned, Accelerator* accelerator);

  // For what operations and collectives give to the host: the workspace, if it is the host's.
  Arena& host_workspace() { return device == Device::kCpu ? workspace : staging; }

  // "parameters 113.2 MiB, gradients ...": high-water marks.
  std::string Report() const;
  // Of all classes, and of those in the host's memory.
  size_t TotalHighWater() const { return DeviceHighWater() + HostHighWater(); }
  size_t HostHighWater() const;
  size_t DeviceHighWater() const;

 private:
  size_t TensorHighWater() const;
};

// The process's largest resident size so far (VmHWM of /proc/self/status), in bytes.
size_t ProcessPeakBytes();
// Its present resident size (VmRSS), in bytes.
size_t ProcessResidentBytes();

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_MEMORY_MEMORY_CLASSES_H_
