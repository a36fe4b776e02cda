// Between the host, where data comes from and results go, and the device that computes. Where that
// is the host nothing is copied.
//
// Throughout: on the dry-run device memory is counted as it would be taken, and nothing is touched.
#ifndef SWINFLEET_KERNELS_PLACEMENT_H_
#define SWINFLEET_KERNELS_PLACEMENT_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// A block of at least `bytes` of the GPU's memory, which outlives it, or of the host's where there
// is none. Throws Error when there is too little.
Arena ReserveArena(const std::string& name, size_t bytes, Accelerator* gpu);

// A block of at least `bytes` of the host's memory, pinned for copies from and to the GPU, which
// outlives it; where there is none, as it is. Throws Error when there is too little, or when the
// system refuses to pin it.
Arena ReservePinnedArena(const std::string& name, size_t bytes, Accelerator* gpu);

// What operations on the GPU are called with, or on the CPU where there is none; without constants
// of modules.
Context ContextOn(Accelerator* gpu, int threads, Arena* workspace);

// A view of memory of the host, which must outlive what is called with the result: itself where the
// host computes, else a copy at the top of the arena.
TensorView OnDevice(const TensorView& host, Arena* arena, const Context& context);

// A constant of a module, at an address that it keeps: itself where the host computes, else a copy
// that is made once.
TensorView ConstantOnDevice(const TensorView& host, const Context& context);

// Copies a whole tensor into a buffer of the host of as many bytes, and back. The tensor's memory
// may be the host's too.
void CopyToHost(const TensorView& from, void* to, const Context& context);
void CopyFromHost(const void* from, const TensorView& to, const Context& context);
// The first, but the buffer, which has to stay, is only of use after FinishCopies: so several are
// waited for at once.
void CopyToHostLater(const TensorView& from, void* to, const Context& context);
// Also for what else operations leave on the host.
void FinishCopies(const Context& context);

// The constants of modules that are on a device. On the dry-run device it counts them.
class ConstantTables {
 public:
  // The arena is not released while this lives.
  explicit ConstantTables(Arena* arena) : arena_(arena) {}
  TensorView Find(const TensorView& host, const Context& context);

 private:
  Arena* arena_;
  // By the host's address; the same bytes may be seen as tensors of several sizes.
  std::map<std::pair<const void*, size_t>, TensorView> tables_;
};

// A tensor's elements, to be written by the host: the tensor's own memory where the host computes,
// else memory that Publish copies there.
template <typename T>
class HostElements {
 public:
  HostElements(const TensorView& tensor, const Context& context)
      : tensor_(tensor), context_(context) {
    CHECK_EQ(sizeof(T), SizeOf(tensor.dtype));
    if (tensor.device == Device::kCuda) copy_.resize(tensor.NumElements());
  }
  T* data() { return copy_.empty() ? static_cast<T*>(tensor_.data) : copy_.data(); }
  std::span<T> span() { return {data(), static_cast<size_t>(tensor_.NumElements())}; }
  void Publish() {
    if (!copy_.empty()) CopyFromHost(copy_.data(), tensor_, context_);
  }

 private:
  const TensorView tensor_;
  const Context& context_;
  std::vector<T> copy_;
};

// The elements of a tensor that the host reads: where they are, or a copy.
template <typename T>
class ElementsOnHost {
 public:
  ElementsOnHost(const TensorView& tensor, const Context& context) : tensor_(tensor) {
    CHECK_EQ(sizeof(T), SizeOf(tensor.dtype));
    if (tensor.device != Device::kCuda) return;
    copy_.resize(tensor.NumElements());
    CopyToHost(tensor, copy_.data(), context);
  }
  std::span<const T> span() const {
    return {copy_.empty() ? static_cast<const T*>(tensor_.data) : copy_.data(),
            static_cast<size_t>(tensor_.NumElements())};
  }

 private:
  const TensorView tensor_;
  std::vector<T> copy_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_PLACEMENT_H_
