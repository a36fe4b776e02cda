#include "core/memory/memory_classes.h"

#include <glog/logging.h>

#include <cstdio>
#include <fstream>

#include "kernels/error.h"

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

}  // namespace

MemoryClasses MemoryClasses::DryRun() {
  return {Arena::DryRun("parameters"), Arena::DryRun("gradients"), Arena::DryRun("optimizer"),
          Arena::DryRun("activations"), Arena::DryRun("workspace")};
}

MemoryClasses MemoryClasses::OnHost(const MemoryClasses& planned) {
  const auto reserve = [](const Arena& arena) {
    return Arena::OnHost(arena.name(), arena.high_water());
  };
  try {
    return {reserve(planned.parameters), reserve(planned.gradients), reserve(planned.optimizer),
            reserve(planned.activations), reserve(planned.workspace)};
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + " (in all " + MiB(planned.TotalHighWater()) + ": " +
                planned.Report() + ")");
  }
}

std::string MemoryClasses::Report() const {
  std::string text;
  for (const Arena* arena : {&parameters, &gradients, &optimizer, &activations, &workspace}) {
    text += (text.empty() ? "" : ", ") + arena->name() + " " + MiB(arena->high_water());
  }
  return text;
}

size_t MemoryClasses::TotalHighWater() const {
  return parameters.high_water() + gradients.high_water() + optimizer.high_water() +
         activations.high_water() + workspace.high_water();
}

size_t ProcessPeakBytes() { return StatusBytes("VmHWM"); }

size_t ProcessResidentBytes() { return StatusBytes("VmRSS"); }

}  // namespace swinfleet
