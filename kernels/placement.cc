#include "kernels/placement.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/accelerator.h"

namespace swinfleet {

Arena ReserveArena(const std::string& name, size_t bytes, Accelerator* gpu) {
  if (gpu == nullptr) return Arena::OnHost(name, bytes);
  // An arena without capacity still has an address.
  bytes = std::max(bytes, Arena::kAlignment);
  const std::shared_ptr<void> memory(gpu->Allocate(bytes),
                                     [gpu](void* taken) { gpu->Free(taken); });
  return Arena::OnDevice(name, memory, bytes);
}

Arena ReservePinnedArena(const std::string& name, size_t bytes, Accelerator* gpu) {
  Arena arena = Arena::OnHost(name, bytes);
  if (gpu == nullptr || bytes == 0) return arena;
  void* memory = arena.base();
  gpu->Pin(memory, arena.capacity());
  arena.KeepPinned({memory, [gpu](void* pinned) { gpu->Unpin(pinned); }});
  return arena;
}

Context ContextOn(Accelerator* gpu, int threads, Arena* workspace) {
  if (gpu == nullptr) return {.ops = &CpuOps(), .workspace = workspace, .threads = threads};
  return {.ops = &gpu->ops(),
          .workspace = workspace,
          .threads = threads,
          .stream = gpu->stream(),
          .device = Device::kCuda,
          .accelerator = gpu};
}

TensorView OnDevice(const TensorView& host, Arena* arena, const Context& context) {
  if (context.device == Device::kCpu || host.empty()) return host;
  const TensorView copy = arena->Allocate(host.shape, host.dtype);
  CopyFromHost(host.data, copy, context);
  return copy;
}

TensorView ConstantOnDevice(const TensorView& host, const Context& context) {
  if (context.device == Device::kCpu) return host;
  CHECK(context.constants != nullptr) << "a device without memory for constants";
  return context.constants->Find(host, context);
}

TensorView ConstantTables::Find(const TensorView& host, const Context& context) {
  const auto [found, is_new] = tables_.try_emplace({host.data, host.Bytes()});
  if (is_new) found->second = OnDevice(host, arena_, context);
  return found->second.Reshape(host.shape);
}

void CopyToHost(const TensorView& from, void* to, const Context& context) {
  CopyToHostLater(from, to, context);
  if (from.device == Device::kCuda) FinishCopies(context);
}

void FinishCopies(const Context& context) {
  if (context.accelerator != nullptr) context.accelerator->Wait();
}

void CopyToHostLater(const TensorView& from, void* to, const Context& context) {
  if (from.device == Device::kDryRun) return;
  if (from.device == Device::kCpu) {
    std::memcpy(to, from.data, from.Bytes());
    return;
  }
  CHECK(context.accelerator != nullptr);
  context.accelerator->CopyOutLater(from.data, to, from.Bytes());
}

void CopyFromHost(const void* from, const TensorView& to, const Context& context) {
  if (to.device == Device::kDryRun) return;
  if (to.device == Device::kCpu) {
    std::memcpy(to.data, from, to.Bytes());
    return;
  }
  CHECK(context.accelerator != nullptr);
  context.accelerator->CopyIn(from, to.data, to.Bytes());
}

}  // namespace swinfleet
