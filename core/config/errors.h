// What the parts of validation share.
#ifndef SWINFLEET_CORE_CONFIG_ERRORS_H_
#define SWINFLEET_CORE_CONFIG_ERRORS_H_

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {

// Collects what is wrong, so that a user sees all of it at once. Fields are named as in job files.
class Errors {
 public:
  template <typename... Parts>
  void Add(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    messages_.push_back(text.str());
  }
  // Integers in [low, high].
  void CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    Add(field, " is ", value, "; it must be from ", low, " to ", high);
  }
  // Finite numbers that `fits` holds for (and NaN fits nothing).
  void CheckNumber(const char* field, double value, bool fits, const char* rule) {
    if (fits && std::isfinite(value)) return;
    Add(field, " is ", value, "; it must be ", rule);
  }
  bool empty() const { return messages_.empty(); }
  size_t size() const { return messages_.size(); }
  std::vector<std::string> Take() { return std::move(messages_); }

 private:
  std::vector<std::string> messages_;
};

// "a, b, c".
inline std::string Join(const std::vector<int64_t>& values) {
  std::ostringstream text;
  for (size_t i = 0; i < values.size(); ++i) text << (i == 0 ? "" : ", ") << values[i];
  return text.str();
}

// Divisors of `number` nearest to `wanted`, at most four, for messages.
std::vector<int64_t> NearDivisors(int64_t number, int64_t wanted);

// Sides of pictures.
inline constexpr int64_t kMaxImage = 16384;
inline constexpr int64_t kMaxDepth = 512;
inline constexpr int64_t kMaxWindow = 64;
inline constexpr int64_t kMaxBatch = int64_t{1} << 24;

// Each in a file of its own.
void CheckModel(const ModelConfig& model, Errors& errors);
void CheckMemory(const JobConfig& job, Errors& errors);
void CheckPretrain(const JobConfig& job, Errors& errors);
void CheckData(const JobConfig& job, Errors& errors);
void CheckMix(const JobConfig& job, Errors& errors);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CONFIG_ERRORS_H_
