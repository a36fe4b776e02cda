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

// Reserves each class; `reserve` those of tensors.
MemoryClasses Reserved(const MemoryClasses& planned,
                       const std::function<Arena(const Arena&)>& reserve) {
  try {
    return {.parameters = reserve(planned.parameters),
            .gradients = reserve(planned.gradients),
            .optimizer = reserve(planned.optimizer),
            .activations = reserve(planned.activations),
            .workspace = reserve(planned.workspace),
            .staging = Arena::OnHost(planned.staging.name(), planned.staging.high_water()),
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
          .device = device};
}

MemoryClasses MemoryClasses::OnHost(const MemoryClasses& planned) {
  CHECK(planned.device == Device::kCpu);
  return Reserved(
      planned, [](const Arena& arena) { return Arena::OnHost(arena.name(), arena.high_water()); });
}

MemoryClasses MemoryClasses::OnDevice(const MemoryClasses& planned, Accelerator* accelerator) {
  CHECK(planned.device == Device::kCuda);
  return Reserved(planned, [accelerator](const Arena& arena) {
    return ReserveArena(arena.name(), arena.high_water(), accelerator);
  });
}

std::string MemoryClasses::Report() const {
  std::string text;
  for (const Arena* arena :
       {&parameters, &gradients, &optimizer, &activations, &workspace, &staging}) {
    if (arena == &staging && device == Device::kCpu) continue;
    text += (text.empty() ? "" : ", ") + arena->name() + " " + MiB(arena->high_water());
  }
  return text;
}

size_t MemoryClasses::TensorHighWater() const {
  return parameters.high_water() + gradients.high_water() + optimizer.high_water() +
         activations.high_water() + workspace.high_water();
}

size_t MemoryClasses::HostHighWater() const {
  return staging.high_water() + (device == Device::kCpu ? TensorHighWater() : 0);
}

size_t MemoryClasses::DeviceHighWater() const {
  return device == Device::kCpu ? 0 : TensorHighWater();
}

size_t ProcessPeakBytes() { return StatusBytes("VmHWM"); }

size_t ProcessResidentBytes() { return StatusBytes("VmRSS"); }

}  // namespace swinfleet
