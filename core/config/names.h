// The names that settings have in job files, in weights and in messages.
#ifndef SWINFLEET_CORE_CONFIG_NAMES_H_
#define SWINFLEET_CORE_CONFIG_NAMES_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {

// Each value with its name, in the order in which messages list them.
template <typename Enum>
using EnumNames = std::vector<std::pair<std::string, Enum>>;

const EnumNames<Architecture>& ArchitectureNames();
// Of train.dtype: "fp32", "bf16", "fp16".
const EnumNames<DType>& DTypeNames();
const EnumNames<Matmul>& MatmulNames();
const EnumNames<Accumulation>& AccumulationNames();
const EnumNames<Reduction>& ReductionNames();
const EnumNames<Offload>& OffloadNames();
const EnumNames<DataConfig::Interpolation>& InterpolationNames();
const EnumNames<OptimizerConfig::Kind>& OptimizerNames();
const EnumNames<ScheduleConfig::Kind>& ScheduleNames();
// Without kNone.
const EnumNames<PretrainConfig::Method>& PretrainMethodNames();
// Of those that train such a model.
EnumNames<PretrainConfig::Method> PretrainMethodNamesFor(Architecture arch);
const EnumNames<MemoryConfig::Checkpointing>& CheckpointingNames();

// The split for evaluation where a job names none: "t10k" of data.format idx, "val" of the others.
const char* UsualEvalSplit(const std::string& format);

// The value's name; empty for a value that has none.
template <typename Enum>
const char* NameIn(const EnumNames<Enum>& names, Enum value) {
  for (const auto& [name, known] : names) {
    if (known == value) return name.c_str();
  }
  return "";
}

// The value of that name, if there is one.
template <typename Enum>
std::optional<Enum> ValueIn(const EnumNames<Enum>& names, const std::string& name) {
  for (const auto& [known, value] : names) {
    if (known == name) return value;
  }
  return std::nullopt;
}

// "a, b, c".
inline std::string ListNames(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

template <typename Enum>
std::vector<std::string> NamesOf(const EnumNames<Enum>& names) {
  std::vector<std::string> all;
  for (const auto& [name, value] : names) all.push_back(name);
  return all;
}

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CONFIG_NAMES_H_
