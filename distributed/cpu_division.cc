#include "distributed/cpu_division.h"

#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <compare>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// What is not cut further.
struct Unit {
  int node = 0;
  CpuList cpus;
  auto operator<=>(const Unit&) const = default;
};

std::vector<Unit> UnitsOf(const std::vector<LogicalCpu>& cpus, bool by_core) {
  std::map<int, Unit> units;
  for (const LogicalCpu& cpu : cpus) {
    Unit& unit = units[by_core ? cpu.core : cpu.cpu];
    unit.node = cpu.node;
    unit.cpus.push_back(cpu.cpu);
  }
  std::vector<Unit> sorted;
  for (auto& [key, unit] : units) {
    std::ranges::sort(unit.cpus);
    sorted.push_back(std::move(unit));
  }
  std::ranges::sort(sorted);
  return sorted;
}

// Where a part lies among the units.
struct Range {
  int begin = 0;
  int end = 0;
};

Range EvenRange(int begin, int count, int parts, int part) {
  return {begin + count * part / parts, begin + count * (part + 1) / parts};
}

// Gives each node as many parts as it has room for, where all of them have; otherwise parts
// straddle nodes.
Range RangeOf(const std::vector<Unit>& units, int parts, int part) {
  const int count = static_cast<int>(units.size());
  const int least = count / parts;
  std::map<int, int> sizes, taken;
  for (const Unit& unit : units) ++sizes[unit.node];
  int room = 0;
  for (const auto& [node, size] : sizes) room += size / least;
  if (room < parts) return EvenRange(0, count, parts, part);
  for (int i = 0; i < parts; ++i) {
    // A node without any, so that none lies idle; else the one whose parts stay the largest.
    const auto cores_each = [&](int node) {
      const int size = sizes[node], count = taken[node];
      if (count == size / least) return 0.0;
      return count == 0 ? 1.0 * units.size() + size : 1.0 * size / (count + 1);
    };
    const auto best = std::ranges::max_element(
        sizes, {}, [&](const auto& node) { return cores_each(node.first); });
    ++taken[best->first];
  }
  auto node = sizes.begin();
  int begin = 0;
  for (; part >= taken[node->first]; ++node) {
    part -= taken[node->first];
    begin += node->second;
  }
  return EvenRange(begin, node->second, taken[node->first], part);
}

CpuList Union(const std::vector<CpuList>& cores) {
  CpuList all;
  for (const CpuList& core : cores) all.insert(all.end(), core.begin(), core.end());
  std::ranges::sort(all);
  return all;
}

std::string FirstWord(const fs::path& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// CPUs' worth of time of the control group that we run in (its own root, in a container); 0: no
// limit.
double ReadQuota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (v2 >> quota >> period && period > 0) return quota / period;
  std::ifstream v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (v1 >> quota && v1_period >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

}  // namespace

std::vector<CpuList> DivideCpus(const std::vector<LogicalCpu>& cpus, int parts, int part) {
  CHECK(part >= 0 && part < parts) << "part " << part << " of " << parts;
  std::vector<Unit> units = UnitsOf(cpus, /*by_core=*/true);
  if (static_cast<int>(units.size()) < parts) units = UnitsOf(cpus, /*by_core=*/false);
  if (static_cast<int>(units.size()) < parts) return {};
  const Range range = RangeOf(units, parts, part);
  std::vector<CpuList> cores;
  for (int i = range.begin; i < range.end; ++i) cores.push_back(units[i].cpus);
  return cores;
}

int CpuShare::DefaultThreads() const {
  const int threads = std::max<int>(1, static_cast<int>(cores.size()));
  return quota > 0 ? std::clamp(static_cast<int>(quota), 1, threads) : threads;
}

RankCpus RankCpus::Here() {
  RankCpus here;
  // Containers of one host have the same boot, and share its CPUs.
  here.host = FirstWord("/proc/sys/kernel/random/boot_id");
  std::error_code ignored;
  here.group = fs::read_symlink("/proc/self/ns/cgroup", ignored).string();
  here.quota = ReadQuota();
  here.allowed = AllowedCpus();
  return here;
}

std::string RankCpus::ToText() const {
  std::ostringstream text;
  text << host << '\n' << group << '\n' << quota << '\n';
  for (const int cpu : allowed) text << cpu << ' ';
  return text.str();
}

RankCpus RankCpus::FromText(const std::string& text) {
  std::istringstream in(text);
  RankCpus rank;
  std::getline(in, rank.host);
  std::getline(in, rank.group);
  in >> rank.quota;
  for (int cpu = 0; in >> cpu;) rank.allowed.push_back(cpu);
  CHECK(!rank.allowed.empty()) << text;
  return rank;
}

CpuShare ShareOf(const std::vector<RankCpus>& ranks, int rank,
                 const std::vector<LogicalCpu>& topology) {
  const RankCpus& own = ranks[rank];
  CpuShare share;
  share.allowed = own.allowed;
  share.sharers = 0;
  int payers = 0;
  for (int r = 0; r < static_cast<int>(ranks.size()); ++r) {
    if (ranks[r].host != own.host) continue;
    if (ranks[r].group == own.group) ++payers;
    if (ranks[r].allowed != own.allowed) continue;
    if (r < rank) ++share.index;
    ++share.sharers;
  }
  std::vector<LogicalCpu> cpus;
  for (const LogicalCpu& cpu : topology) {
    if (std::ranges::binary_search(own.allowed, cpu.cpu)) cpus.push_back(cpu);
  }
  CHECK_EQ(cpus.size(), own.allowed.size());
  share.cores = DivideCpus(cpus, share.sharers, share.index);
  share.quota = own.quota / payers;
  return share;
}

std::vector<LogicalCpu> ReadTopology(const std::string& root, const CpuList& cpus) {
  std::vector<LogicalCpu> topology;
  for (const int cpu : cpus) {
    LogicalCpu found = {.cpu = cpu, .core = cpu, .node = 0};
    const fs::path folder = fs::path(root) / ("cpu" + std::to_string(cpu));
    // A list such as "3,67" or "6-7": its first names the core.
    std::ifstream siblings(folder / "topology" / "thread_siblings_list");
    int first = 0;
    if (siblings >> first) found.core = first;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename().string();
      if (name.size() > 4 && name.starts_with("node") && std::isdigit(name[4]) != 0) {
        found.node = std::stoi(name.substr(4));
      }
    }
    topology.push_back(found);
  }
  return topology;
}

CpuShare ShareCpus(const RankCpus& own, Communicator* communicator) {
  std::vector<RankCpus> ranks;
  for (const std::string& text : communicator->AllGatherText(own.ToText(), "CPUs of the ranks")) {
    ranks.push_back(RankCpus::FromText(text));
  }
  return ShareOf(ranks, communicator->rank(), ReadTopology("/sys/devices/system/cpu", own.allowed));
}

ThreadCpus PlaceThreads(const CpuShare& share, int threads) {
  CHECK_GT(threads, 0);
  CHECK(!share.cores.empty());
  const int cores = static_cast<int>(share.cores.size());
  const CpuList part = Union(share.cores);
  ThreadCpus cpus;
  cpus.compute = threads == cores ? share.cores : std::vector<CpuList>(threads, part);
  cpus.helpers = threads < cores ? part : share.allowed;
  return cpus;
}

}  // namespace swinfleet
