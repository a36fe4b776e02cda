// Memory that is reserved once and handed out as a stack.
#ifndef SWINFLEET_KERNELS_ARENA_H_
#define SWINFLEET_KERNELS_ARENA_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "kernels/tensor.h"

namespace swinfleet {

// One class of memory (activations, workspace, ...): a block reserved once and given out with stack
// discipline. On the dry-run device it only counts, which is how the block's size becomes known:
// the same code runs dry first.
//
// Every piece is aligned to 64 bytes. Outside of release builds released memory is poisoned with
// NaN, so that a use after release shows.
class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  // Counts only, without limit.
  static Arena DryRun(std::string name);
  // Reserves `capacity` bytes of host memory and touches them, so that the cost of the first touch
  // falls here. Throws Error when the machine can't give that much.
  static Arena OnHost(std::string name, size_t capacity);

  // Gives out memory of the CUDA device, and keeps it as long as it lives. It is never touched from
  // here, so nothing is poisoned.
  static Arena OnDevice(std::string name, std::shared_ptr<void> memory, size_t capacity);

  // Keeps this, which pins the arena's memory of the host, as long as the memory is there.
  void KeepPinned(std::shared_ptr<void> pinned) { pinned_ = std::move(pinned); }
  // Blocks that were reserved on the host in this process so far.
  static int64_t HostBlocks();

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  // A tensor at the top of the stack. Its contents are unspecified. Exceeding the capacity is a
  // broken invariant: the capacity was counted by the dry run.
  TensorView Allocate(const Shape& shape, DType dtype = DType::kF32);
  void* AllocateBytes(size_t bytes);

  // The present top, to be given back to Release, which frees everything allocated since.
  size_t Mark() const { return used_; }
  void Release(size_t mark);

  Device device() const { return device_; }
  // Where its memory begins.
  void* base() const { return base_; }
  const std::string& name() const { return name_; }
  size_t capacity() const { return capacity_; }
  size_t used() const { return used_; }
  // The largest `used` since the arena was made.
  size_t high_water() const { return high_water_; }

 private:
  Arena(std::string name, Device device, char* base, size_t capacity);

  std::string name_;
  Device device_ = Device::kDryRun;
  char* base_ = nullptr;
  std::shared_ptr<void> device_memory_;
  std::shared_ptr<void> pinned_;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t high_water_ = 0;
};

// Releases at the end of a scope what was allocated in it.
class ArenaScope {
 public:
  explicit ArenaScope(Arena* arena) : arena_(arena), mark_(arena->Mark()) {}
  ~ArenaScope() { arena_->Release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena* arena_;
  size_t mark_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_ARENA_H_
