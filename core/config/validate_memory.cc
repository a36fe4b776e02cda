// What can be known to be wrong with the settings that hold memory down.
#include "core/config/errors.h"

namespace swinfleet {

void CheckMemory(const JobConfig& job, Errors& errors) {
  const MemoryConfig& memory = job.memory;
  const auto stages = static_cast<size_t>(job.model.num_stages());
  const auto check_count = [&](const char* field, size_t count) {
    if (count == 0 || count == stages) return;
    errors.Add(field, " has ", count, " entries; give one for all stages, or one for each of the ",
               stages);
  };
  check_count("memory.checkpointing", memory.checkpointing.size());
  check_count("memory.sequential_windows", memory.sequential_windows.size());
  for (const int64_t windows : memory.sequential_windows) {
    errors.CheckRange("memory.sequential_windows", windows, 0, int64_t{1} << 32);
  }
  if (memory.budget < 0) {
    errors.Add("memory.budget is ", memory.budget, " bytes; it must be above 0");
  }
  if (memory.budget > 0 && !(memory.checkpointing.empty() && memory.sequential_windows.empty())) {
    errors.Add("memory.budget chooses checkpointing and sequential attention by itself; leave out",
               " memory.checkpointing and memory.sequential_windows, or the budget");
  }
}

}  // namespace swinfleet
