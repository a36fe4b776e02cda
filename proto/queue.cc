#include "proto/queue.h"

#include <algorithm>
#include <cstdlib>

namespace swinfleet {
namespace {

constexpr int kMaxPriority = 1000;
constexpr int kMaxAfter = 16;
constexpr size_t kMaxName = 128;
constexpr double kLongest = 10 * 365 * 86400.0;

std::string DurationFault(const std::string& key, const std::string& text,
                          const std::string& allowed) {
  return "schedule." + key + " is \"" + text + "\", but must be " + allowed;
}

std::string AfterFault(const QueueSpec& spec) {
  if (spec.after_size() > kMaxAfter) {
    return "schedule.after names " + std::to_string(spec.after_size()) + " jobs, the limit is " +
           std::to_string(kMaxAfter);
  }
  for (const std::string& name : spec.after()) {
    if (!name.empty() && name.size() <= kMaxName) continue;
    return "schedule.after has an entry of " + std::to_string(name.size()) +
           " bytes, but must name jobs by their ids or names";
  }
  return "";
}

std::string MinRanksFault(const JobSpec& spec) {
  const uint32_t least = spec.schedule().min_ranks();
  const uint32_t wanted = spec.parallel().ranks();
  if (least == 0)
    return "schedule.min_ranks must be at least 1; leave it out to wait for all ranks";
  if (wanted != 0 && least > wanted) {
    return "schedule.min_ranks is " + std::to_string(least) + ", more than parallel.ranks, " +
           std::to_string(wanted);
  }
  const TrainSpec& train = spec.train();
  if (!train.has_global_batch() || train.micro_batch() == 0) return "";
  const uint32_t useful = train.global_batch() / train.micro_batch();
  if (wanted == 0 && least > useful) {
    return "schedule.min_ranks is " + std::to_string(least) + ", but a step has only " +
           std::to_string(useful) + " micro-batches to share; ask for at most as many ranks";
  }
  return "";
}

}  // namespace

bool ParseDuration(const std::string& text, double* seconds) {
  static constexpr struct {
    char unit;
    double seconds;
  } kUnits[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
  double total = 0;
  size_t position = 0, unit = 0;
  while (position < text.size()) {
    const size_t digits = text.find_first_not_of("0123456789", position);
    if (digits == std::string::npos || digits == position || digits - position > 9) return false;
    while (unit < std::size(kUnits) && kUnits[unit].unit != text[digits]) ++unit;
    if (unit == std::size(kUnits)) return false;
    total += std::strtod(text.substr(position, digits - position).c_str(), nullptr) *
             kUnits[unit++].seconds;
    position = digits + 1;
  }
  if (text.empty() || total > kLongest) return false;
  *seconds = total;
  return true;
}

std::vector<std::string> ReadQueueSettings(const JobSpec& spec, QueueSettings* settings) {
  const QueueSpec& from = spec.schedule();
  std::vector<std::string> faults;
  *settings = QueueSettings{};
  if (std::abs(static_cast<int64_t>(from.priority())) > kMaxPriority) {
    faults.push_back("schedule.priority is " + std::to_string(from.priority()) +
                     ", but must lie between -1000 and 1000");
  } else {
    settings->priority = from.priority();
  }
  settings->preemptible = from.preemptible();
  if (from.has_max_restarts()) settings->max_restarts = from.max_restarts();
  if (from.has_max_run_time()) {
    double seconds = 0;
    if (ParseDuration(from.max_run_time(), &seconds) && seconds > 0) {
      settings->max_run_seconds = seconds;
    } else {
      faults.push_back(DurationFault("max_run_time", from.max_run_time(),
                                     "a time above 0 like \"90s\", \"45m\", \"12h\" or \"1d12h\""));
    }
  }
  if (from.has_restart_pause()) {
    double seconds = 0;
    if (ParseDuration(from.restart_pause(), &seconds) && seconds <= 86400) {
      settings->restart_pause = seconds;
    } else {
      faults.push_back(DurationFault("restart_pause", from.restart_pause(),
                                     "a time up to a day like \"0s\", \"30s\" or \"5m\""));
    }
  }
  if (const std::string fault = AfterFault(from); !fault.empty()) faults.push_back(fault);
  if (!from.has_min_ranks()) return faults;
  if (const std::string fault = MinRanksFault(spec); !fault.empty()) {
    faults.push_back(fault);
  } else {
    settings->min_ranks = from.min_ranks();
  }
  return faults;
}

}  // namespace swinfleet
