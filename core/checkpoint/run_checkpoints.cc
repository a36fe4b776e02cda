#include "core/checkpoint/run_checkpoints.h"

#include <glog/logging.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr char kManifestName[] = "manifest.json";
constexpr char kAttemptName[] = "attempt.json";
constexpr uint64_t kMaxAttemptBytes = 4096;

// The number in "step-00001000" for the prefix "step-"; nothing for any other name.
std::optional<int64_t> NumberAfter(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix) || name.size() == prefix.size()) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(name.data() + prefix.size(), end, number);
  if (code != std::errc() || stop != end || number < 0) return std::nullopt;
  return number;
}

// The names in a folder, in order; none when the folder does not exist.
std::vector<std::string> NamesIn(const std::string& folder) {
  std::error_code code;
  fs::directory_iterator it(folder, code);
  if (code == std::errc::no_such_file_or_directory) return {};
  std::vector<std::string> names;
  for (; !code && it != fs::directory_iterator(); it.increment(code)) {
    names.push_back(it->path().filename().string());
  }
  if (code) throw FileError(code.value(), "list the folder", folder);
  std::sort(names.begin(), names.end());
  return names;
}

// Attempts that have a folder, in order.
std::vector<int> AttemptsOf(const std::string& run_dir) {
  std::vector<int> attempts;
  for (const std::string& name : NamesIn(CheckpointsFolder(run_dir))) {
    const std::optional<int64_t> number = NumberAfter(name, "attempt-");
    if (!number || *number > std::numeric_limits<int>::max()) continue;
    const int attempt = static_cast<int>(*number);
    if (fs::path(AttemptFolder(run_dir, attempt)).filename() == name) attempts.push_back(attempt);
  }
  std::sort(attempts.begin(), attempts.end());
  return attempts;
}

// The step that an attempt went on from; nothing if it did not get as far as to record it.
std::optional<int64_t> ResumedStep(const std::string& run_dir, int attempt) {
  const std::string path = AttemptFolder(run_dir, attempt) + "/" + kAttemptName;
  try {
    const auto record = nlohmann::json::parse(ReadTextFile(path, kMaxAttemptBytes));
    const auto& step = record.at("resumed_step");
    if (!step.is_number_unsigned()) throw Error("\"resumed_step\" is not a step");
    return step.get<int64_t>();
  } catch (const FileError& error) {
    if (error.code() == ENOENT || error.code() == ENOTDIR) return std::nullopt;
    throw;
  } catch (const std::exception& error) {
    // Only its own attempt's word about older ones is lost, and those are verified before use.
    LOG(WARNING) << path << " is damaged and ignored: " << error.what();
    return std::nullopt;
  }
}

void ListAttempt(const std::string& run_dir, int attempt, std::vector<CheckpointInfo>* list) {
  for (const std::string& name : NamesIn(AttemptFolder(run_dir, attempt))) {
    const std::optional<int64_t> step = NumberAfter(name, "step-");
    if (!step) continue;
    CheckpointInfo info;
    info.dir = CheckpointDir(run_dir, attempt, *step);
    if (fs::path(info.dir).filename() != name) continue;
    info.attempt = attempt;
    info.step = *step;
    std::error_code code;
    info.complete = fs::is_regular_file(info.dir + "/" + kManifestName, code);
    if (!info.complete) {
      info.problem = std::string("it has no ") + kManifestName +
                     ": it was never completed, or its manifest was deleted";
    }
    list->push_back(info);
  }
}

bool Newer(const CheckpointInfo& a, const CheckpointInfo& b) {
  return a.step != b.step ? a.step > b.step : a.attempt > b.attempt;
}

// Attempt and step that a path ends with.
std::optional<CheckpointInfo> ParseCheckpointPath(const std::string& run_dir,
                                                  const std::string& path) {
  fs::path normal = fs::path(path).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  const auto attempt = NumberAfter(normal.parent_path().filename().string(), "attempt-");
  const auto step = NumberAfter(normal.filename().string(), "step-");
  if (!attempt || !step || *attempt > std::numeric_limits<int>::max()) {
    return std::nullopt;
  }
  CheckpointInfo info;
  info.attempt = static_cast<int>(*attempt);
  info.step = *step;
  info.dir = CheckpointDir(run_dir, info.attempt, info.step);
  const bool inside = normal == fs::path(info.dir).lexically_normal() ||
                      normal == fs::path(info.dir).lexically_relative(run_dir) ||
                      normal == fs::path(info.dir).lexically_relative(CheckpointsFolder(run_dir));
  return inside ? std::optional(info) : std::nullopt;
}

// Deletes a checkpoint's folder, manifest first. An empty text, or what went wrong.
std::string DeleteCheckpoint(const std::string& dir, FileOps& ops) {
  try {
    const int removed = ops.Unlink(dir + "/" + kManifestName);
    if (removed < 0 && removed != -ENOENT) {
      return FileError(-removed, "delete", dir + "/" + kManifestName).what();
    }
    if (removed == 0) SyncFolder(dir, ops);
  } catch (const Error& error) {
    return error.what();
  }
  std::error_code code;
  fs::remove_all(dir, code);
  return code ? FileError(code.value(), "delete", dir).what() : std::string();
}

}  // namespace

std::vector<CheckpointInfo> ListCheckpoints(const std::string& run_dir, int last_attempt) {
  std::vector<CheckpointInfo> list;
  // Steps beyond the limit were given up when a later attempt began.
  int64_t limit = std::numeric_limits<int64_t>::max();
  int limited_by = 0;
  std::vector<int> attempts = AttemptsOf(run_dir);
  std::reverse(attempts.begin(), attempts.end());
  for (const int attempt : attempts) {
    if (attempt > last_attempt) continue;
    const size_t first = list.size();
    ListAttempt(run_dir, attempt, &list);
    for (size_t i = first; i < list.size(); ++i) {
      if (list[i].complete && list[i].step > limit) {
        list[i].problem = "attempt " + std::to_string(limited_by) + " went on from step " +
                          std::to_string(limit) + " without it";
      }
    }
    const std::optional<int64_t> resumed = ResumedStep(run_dir, attempt);
    if (resumed && *resumed < limit) {
      limit = *resumed;
      limited_by = attempt;
    }
  }
  std::sort(list.begin(), list.end(), Newer);
  return list;
}

std::vector<CheckpointInfo> ListCheckpoints(const std::string& run_dir) {
  return ListCheckpoints(run_dir, std::numeric_limits<int>::max());
}

int NextAttempt(const std::string& run_dir) {
  const std::vector<int> attempts = AttemptsOf(run_dir);
  return attempts.empty() ? 1 : attempts.back() + 1;
}

void BeginAttempt(const std::string& run_dir, int attempt, int64_t resumed_step, FileOps& ops) {
  CHECK_GE(resumed_step, 0);
  const std::string folder = AttemptFolder(run_dir, attempt);
  const std::string path = folder + "/" + kAttemptName;
  std::error_code code;
  if (fs::exists(path, code)) {
    throw Error("attempt " + std::to_string(attempt) + " of the run in " + run_dir +
                " has begun before: another process is at work on it, or the coordinator's store "
                "is older than the run; start a new attempt");
  }
  MakeFolders(folder);
  const nlohmann::json record = {{"attempt", attempt}, {"resumed_step", resumed_step}};
  ReplaceFile(path, record.dump() + "\n", ops);
  SyncFolder(CheckpointsFolder(run_dir), ops);
  SyncFolder(run_dir, ops);
}

void CheckAttemptFolder(const std::string& run_dir, int attempt) {
  const std::string path = AttemptFolder(run_dir, attempt) + "/" + kAttemptName;
  std::error_code code;
  if (fs::exists(path, code)) return;
  throw Error("the run folder " + run_dir + " has vanished: " + path +
              ", with which this attempt began, is not there" +
              (code ? " (" + code.message() + ")" : "") + "; is its filesystem still mounted?");
}

std::vector<CheckpointInfo> ResumeCandidates(const std::string& run_dir, int attempt,
                                             const std::string& named) {
  CHECK_GE(attempt, 1);
  std::vector<CheckpointInfo> list = ListCheckpoints(run_dir, attempt - 1);
  if (named.empty()) return list;
  const std::optional<CheckpointInfo> parsed = ParseCheckpointPath(run_dir, named);
  if (!parsed || parsed->attempt >= attempt) {
    throw Error("the assignment of attempt " + std::to_string(attempt) + " names the checkpoint " +
                named + ", which is none of an older attempt at " + run_dir);
  }
  const auto is_named = [&](const CheckpointInfo& info) {
    return info.attempt == parsed->attempt && info.step == parsed->step;
  };
  CheckpointInfo first = *parsed;
  const auto found = std::find_if(list.begin(), list.end(), is_named);
  if (found != list.end()) {
    first = *found;
    // The coordinator's word stands above the attempts' records.
    if (first.complete) first.problem.clear();
  } else {
    first.problem = "its folder does not exist";
  }
  std::erase_if(list, is_named);
  list.insert(list.begin(), first);
  return list;
}

std::vector<std::string> ResumeChoice::LogLines(size_t max_lines) const {
  std::vector<std::string> lines;
  for (size_t i = 0; i < rejected.size(); ++i) {
    if (lines.size() + 1 >= max_lines && i + 1 < rejected.size()) {
      lines.push_back("and " + std::to_string(rejected.size() - i) +
                      " more checkpoints were passed over");
      break;
    }
    lines.push_back("passed over checkpoint " + rejected[i].dir + ": " + rejected[i].problem);
  }
  const char* none = rejected.empty() ? "no checkpoint yet: starting from the beginning"
                                      : "there is no good checkpoint to go on from";
  lines.push_back(reader == nullptr ? none : "going on from checkpoint " + reader->dir());
  return lines;
}

ResumeChoice FindNewestGood(const std::string& run_dir, int attempt, const std::string& named,
                            FileOps& ops) {
  ResumeChoice choice;
  for (CheckpointInfo& info : ResumeCandidates(run_dir, attempt, named)) {
    if (info.problem.empty()) {
      try {
        choice.reader = CheckpointReader::Open(info.dir, ops);
        return choice;
      } catch (const FileError& error) {
        // Missing files and bad sectors are damage. Any other failure to read says nothing about
        // the checkpoint, and must not lead to an older one.
        if (error.code() != ENOENT && error.code() != ENOTDIR && error.code() != EIO) throw;
        info.problem = error.what();
      } catch (const Error& error) {
        info.problem = error.what();
      }
    }
    choice.rejected.push_back(std::move(info));
  }
  return choice;
}

RetentionReport ApplyRetention(const std::string& run_dir, int attempt, int64_t keep_last,
                               int64_t keep_every_steps, FileOps& ops) {
  CHECK_GE(keep_last, 1);
  CHECK_GE(keep_every_steps, 0);
  RetentionReport report;
  const std::vector<CheckpointInfo> list = ListCheckpoints(run_dir, attempt);
  const CheckpointInfo* newest = nullptr;
  const CheckpointInfo* newest_own = nullptr;
  int64_t kept = 0;
  for (const CheckpointInfo& info : list) {
    const bool good = info.problem.empty();
    if (good && newest == nullptr) newest = &info;
    if (good && newest_own == nullptr && info.attempt == attempt) newest_own = &info;
    if (good && kept < keep_last) {
      ++kept;
      continue;
    }
    if (good && keep_every_steps > 0 && info.step % keep_every_steps == 0) continue;
    // Newer than all that is good: the one being written, or all that is left of a disaster.
    if (newest == nullptr) continue;
    // In this attempt's own folder an unfinished one is dead only once a later one is complete.
    if (info.attempt == attempt && (newest_own == nullptr || newest_own->step <= info.step)) {
      continue;
    }
    const std::string problem = DeleteCheckpoint(info.dir, ops);
    if (problem.empty()) {
      report.deleted.push_back(info.dir);
    } else {
      report.problems.push_back(problem);
    }
  }
  return report;
}

std::string DiscardUnfinished(const std::string& dir) {
  std::error_code code;
  if (fs::exists(dir + "/" + kManifestName, code)) return "";
  fs::remove_all(dir, code);
  return code ? FileError(code.value(), "delete", dir).what() : std::string();
}

}  // namespace swinfleet
