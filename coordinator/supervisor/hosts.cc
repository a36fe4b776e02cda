#include "coordinator/supervisor/hosts.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>

namespace swinfleet {
namespace {

std::string ShortName(const std::string& host) { return host.substr(0, host.find('.')); }

// Hosts are named with or without their domain. Addresses are only equal as a whole.
bool SameHost(const std::string& a, const std::string& b) {
  if (a == b) return true;
  const bool address = a.find_first_not_of("0123456789.:") == std::string::npos;
  return !address && (a.find('.') == std::string::npos || b.find('.') == std::string::npos) &&
         ShortName(a) == ShortName(b);
}

bool Contains(const std::vector<std::string>& hosts, const std::string& host) {
  return std::any_of(hosts.begin(), hosts.end(),
                     [&](const std::string& other) { return SameHost(host, other); });
}

std::optional<int> ParseCount(const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value <= 0) return std::nullopt;
  return value;
}

// What is left of a list of hosts.
struct Remaining {
  std::string text;
  int hosts = 0;
  int removed = 0;
  // Unknown when a host doesn't say its slots and Open MPI counts its cores.
  std::optional<int> slots = 0;
};

void AddSlots(std::optional<int> count, Remaining* remaining) {
  if (remaining->slots && count) {
    *remaining->slots += *count;
  } else {
    remaining->slots.reset();
  }
}

// "a:2,b:2,c": a host without a number has one slot.
Remaining FilterList(const std::string& list, const std::vector<std::string>& excluded) {
  Remaining remaining;
  std::istringstream entries(list);
  for (std::string entry; std::getline(entries, entry, ',');) {
    const size_t colon = entry.find(':');
    if (Contains(excluded, entry.substr(0, colon))) {
      ++remaining.removed;
      continue;
    }
    remaining.text += (remaining.hosts++ == 0 ? "" : ",") + entry;
    AddSlots(colon == std::string::npos ? 1 : ParseCount(entry.substr(colon + 1)), &remaining);
  }
  return remaining;
}

// Lines "host slots=N ..."; a remark begins with #.
std::optional<Remaining> FilterFile(const std::string& path,
                                    const std::vector<std::string>& excluded) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  Remaining remaining;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string host, word;
    words >> host;
    if (!host.empty() && Contains(excluded, host)) {
      ++remaining.removed;
      continue;
    }
    remaining.text += line + "\n";
    if (host.empty()) continue;
    ++remaining.hosts;
    std::optional<int> slots;
    while (words >> word) {
      if (word.rfind("slots=", 0) == 0) slots = ParseCount(word.substr(6));
    }
    AddSlots(slots, &remaining);
  }
  return remaining;
}

bool IsMpirun(const std::string& program) {
  const std::string name = program.substr(program.rfind('/') + 1);
  return name.rfind("mpirun", 0) == 0 || name.rfind("mpiexec", 0) == 0 || name == "orterun";
}

bool IsOneOf(const std::string& text, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), text) != names.end();
}

class Rewriter {
 public:
  Rewriter(const std::vector<std::string>& arguments, const std::vector<std::string>& excluded,
           const std::string& folder)
      : original_(arguments), excluded_(excluded), folder_(folder), result_{arguments, {}} {}

  HostsExcluded Run() {
    if (!IsMpirun(original_[0])) return Unchanged("the command isn't mpirun");
    // The worker's own options are not mpirun's, so the search ends at the program.
    for (size_t i = 1; i + 1 < original_.size(); ++i) {
      if (original_[i].find("swinfleet-worker") != std::string::npos) break;
      if (IsOneOf(original_[i], {"-H", "-host", "--host"})) {
        if (!Take(FilterList(original_[i + 1], excluded_), i + 1, false)) return result_;
      } else if (IsOneOf(original_[i],
                         {"-hostfile", "--hostfile", "-machinefile", "--machinefile"})) {
        const std::optional<Remaining> remaining = FilterFile(original_[i + 1], excluded_);
        if (!remaining) return Unchanged("the host file " + original_[i + 1] + " can't be read");
        if (!Take(*remaining, i + 1, true)) return result_;
      } else if (IsOneOf(original_[i], {"-np", "--np", "-n", "--n", "-c"})) {
        count_position_ = i + 1;
      }
    }
    if (!listed_) return Unchanged("the command names no hosts");
    LowerCount();
    return result_;
  }

 private:
  HostsExcluded Unchanged(const std::string& reason) {
    result_ = {original_, {"no hosts are left out: " + reason}};
    return result_;
  }

  // Puts the shortened list in place of the argument; false when the whole is given up.
  bool Take(const Remaining& remaining, size_t position, bool is_file) {
    listed_ = true;
    if (remaining.hosts == 0) {
      Unchanged("no other host would be left");
      return false;
    }
    removed_ += remaining.removed;
    if (is_file) {
      const std::string path = folder_ + "/hosts." + std::to_string(position);
      std::ofstream copy(path, std::ios::trunc);
      copy << remaining.text;
      copy.close();
      if (!copy) {
        Unchanged("the host file " + path + " can't be written");
        return false;
      }
      result_.arguments[position] = path;
    } else {
      result_.arguments[position] = remaining.text;
    }
    slots_ = remaining.slots;
    result_.notes.push_back(std::to_string(remaining.removed) + " of " +
                            std::to_string(remaining.removed + remaining.hosts) +
                            " hosts are left out of " + original_[position]);
    return true;
  }

  void LowerCount() {
    if (count_position_ == 0 || removed_ == 0 || !slots_) return;
    const std::optional<int> count = ParseCount(original_[count_position_]);
    if (!count || *count <= *slots_) return;
    result_.arguments[count_position_] = std::to_string(*slots_);
    result_.notes.push_back("ranks lowered from " + std::to_string(*count) + " to " +
                            std::to_string(*slots_) + ", the slots that are left");
  }

  const std::vector<std::string>& original_;
  const std::vector<std::string>& excluded_;
  const std::string& folder_;
  HostsExcluded result_;
  bool listed_ = false;
  int removed_ = 0;
  size_t count_position_ = 0;
  std::optional<int> slots_;
};

}  // namespace

HostsExcluded ExcludeHosts(const std::vector<std::string>& arguments,
                           const std::vector<std::string>& excluded, const std::string& folder) {
  if (excluded.empty() || arguments.empty()) return {arguments, {}};
  return Rewriter(arguments, excluded, folder).Run();
}

}  // namespace swinfleet
