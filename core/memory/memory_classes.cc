#include "core/memory/memory_classes.h"

#include <glog/logging.h>

#include <cstdio>
#include <fstream>
#include <functional>

#include "kernels/error.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

std::string MiB(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

// A line of /proc/self/status, given in kB there.
size_t StatusBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string word;
  size_t kib = 0;
  while (status >> word) {
    if (word == key + ":" && status >> kib) return kib * 1024;
    std::getline(status, word);
  }
  return 0;
}

Arena ReserveOffloaded(const Arena& planned, Accelerator* gpu) {
  try {
    return ReservePinnedArena(planned.name(), planned.high_water(), gpu);
  } catch (const Error& error) {
    throw Error(
        std::string(error.what()) +
        "; it is for parallel.offload: more ranks take less of it each, offload disk takes " +
        "buffers alone, and none needs none");
  }
}

// Reserves each class; `reserve` those of tensors. `gpu` is null where these are the host's.
MemoryClasses Reserved(const MemoryClasses& planned, Accelerator* gpu,
                       const std::function<Arena(const Arena&)>& reserve) {
  try {
    return {.parameters = reserve(planned.parameters),
            .gradients = reserve(planned.gradients),
            .optimizer = reserve(planned.optimizer),
            .activations = reserve(planned.activations),
            .workspace = reserve(planned.workspace),
            .staging = Arena::OnHost(planned.staging.name(), planned.staging.high_water()),
            .offloaded = ReserveOffloaded(planned.offloaded, gpu),
            .device = planned.device};
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + " (in all " + MiB(planned.TotalHighWater()) + ": " +
                planned.Report() + ")");
  }
}

}  // namespace

MemoryClasses MemoryClasses::DryRun(Device device) {
  return {.parameters = Arena::DryRun("parameters"),
          .gradients = Arena::DryRun("gradients"),
          .optimizer = Arena::DryRun("optimizer"),
          .activations = Arena::DryRun("activations"),
          .workspace = Arena::DryRun("workspace"),
          .staging = Arena::DryRun("staging"),
          .offloaded = Arena::DryRun("offloaded state"),
          .device = device};
}

MemoryClasses MemoryClasses::OnHost(const MemoryClasses& planned) {
  CHECK(planned.device == Device::kCpu);
  return Reserved(planned, nullptr, [](const Arena& arena) {
    return Arena::OnHost(arena.name(), arena.high_water());
  });
}

MemoryClasses MemoryClasses::OnDevice(const MemoryClasses& planned, Accelerator* accelerator) {
  CHECK(planned.device == Device::kCuda);
  return Reserved(planned, accelerator, [accelerator](const Arena& arena) {
    return ReserveArena(arena.name(), arena.high_water(), accelerator);
  });
}

std::string MemoryClasses::Report() const {
  std::string text;
  for (const Arena* arena :
       {&parameters, &gradients, &optimizer, &activations, &workspace, &staging, &offloaded}) {
    const bool beside = arena == &staging || arena == &offloaded;
    if (beside && device == Device::kCpu) continue;
    text += (text.empty() ? "" : ", ") + arena->name() + " " + MiB(arena->high_water());
  }
  return text;
}

size_t MemoryClasses::TensorHighWater() const {
  return parameters.high_water() + gradients.high_water() + optimizer.high_water() +
         activations.high_water() + workspace.high_water();
}

size_t MemoryClasses::HostHighWater() const {
  return staging.high_water() + offloaded.high_water() +
         (device == Device::kCpu ? TensorHighWater() : 0);
}

size_t MemoryClasses::DeviceHighWater() const {
  return device == Device::kCpu ? 0 : TensorHighWater();
}

size_t ProcessPeakBytes() { return StatusBytes("VmHWM"); }

size_t ProcessResidentBytes() { return StatusBytes("VmRSS"); }

}  // namespace swinfleet
