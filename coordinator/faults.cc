#include "coordinator/faults.h"

#include <algorithm>
#include <cstdio>

namespace swinfleet::coordinator {
namespace {

// More are counted, not named.
constexpr size_t kNamed = 3;
// See UpdateStragglers.
constexpr double kWindowSeconds = 5;
constexpr uint64_t kWindowSteps = 4;
constexpr double kStraggles = 1.3;
constexpr double kKeepsUp = 1.15;
constexpr uint32_t kPersistent = 2;

std::string Seconds(double seconds) {
  char text[32];
  snprintf(text, sizeof(text), seconds < 10 ? "%.2g s" : "%.0f s", seconds);
  return text;
}

std::string RankName(const Launch& launch, uint32_t r) {
  const Rank& rank = launch.ranks[r];
  std::string name = "rank " + std::to_string(r);
  if (rank.heard) name += " (" + rank.host + ", process " + std::to_string(rank.pid) + ")";
  return name;
}

// "rank 1", "ranks 0, 1 and 3", "ranks 0, 1, 2 and 4 more".
std::string RankList(const std::vector<uint32_t>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const size_t named = ranks.size() > kNamed + 1 ? kNamed : ranks.size();
  for (size_t i = 0; i < named; ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (named < ranks.size()) text += " and " + std::to_string(ranks.size() - named) + " more";
  return text;
}

uint32_t Bounded(const Launch& launch, uint32_t ranks) {
  return std::min(ranks, launch.world_size);
}

// Those that have said that they waited past their deadline.
std::vector<uint32_t> Waiting(const Launch& launch, uint32_t ranks) {
  std::vector<uint32_t> waiting;
  for (uint32_t r = 0; r < Bounded(launch, ranks); ++r) {
    if (launch.ranks[r].stuck) waiting.push_back(r);
  }
  return waiting;
}

double MedianOwnSeconds(const Launch& launch, uint32_t ranks) {
  std::vector<double> own;
  for (uint32_t r = 0; r < Bounded(launch, ranks); ++r) {
    const double mean = launch.ranks[r].own.mean;
    if (mean > 0) own.push_back(mean);
  }
  if (own.size() < 2) return 0;
  // Of an even number the lower one: of two ranks one may straggle.
  const auto middle = own.begin() + static_cast<ptrdiff_t>((own.size() - 1) / 2);
  std::nth_element(own.begin(), middle, own.end());
  return *middle;
}

// Ends the rank's window if that is long enough; returns whether it was.
bool EndWindow(Rank* rank, double uptime) {
  OwnWork& own = rank->own;
  const Heartbeat& report = rank->report;
  // The counts begin anew with each attempt.
  const bool whole = own.since > 0 && report.own_steps() >= own.steps;
  if (whole) {
    const uint64_t steps = report.own_steps() - own.steps;
    if (uptime - own.since < kWindowSeconds || steps < kWindowSteps) return false;
    own.mean = (report.own_seconds() - own.seconds) / static_cast<double>(steps);
  }
  own.since = uptime;
  own.seconds = report.own_seconds();
  own.steps = report.own_steps();
  return whole;
}

}  // namespace

std::string Position(const Heartbeat& report) {
  std::string text;
  if (report.collective_sequence() != 0) {
    text = std::string(report.in_collective() ? " in" : " after") + " collective " +
           std::to_string(report.collective_sequence()) + " " + report.collective();
  }
  if (report.job_id().empty() || report.phase().empty()) return text;
  return text + " (step " + std::to_string(report.step()) + ", " + report.phase() + ")";
}

std::vector<uint32_t> StuckRanks(const Launch& launch, uint32_t ranks) {
  const std::vector<uint32_t> waiting = Waiting(launch, ranks);
  uint64_t sequence = 0;
  for (const uint32_t r : waiting) {
    sequence = std::max(sequence, launch.ranks[r].stuck->collective_sequence());
  }
  std::vector<uint32_t> silent, behind;
  for (uint32_t r = 0; r < Bounded(launch, ranks); ++r) {
    const Rank& rank = launch.ranks[r];
    // Those that leave now may be ended by the one that left first.
    if (rank.stuck || (rank.stream == 0 && !rank.lost)) continue;
    if (rank.lost) silent.push_back(r);
    const Heartbeat& report = rank.report;
    if (report.collective_sequence() < sequence ||
        (report.collective_sequence() == sequence && !report.in_collective())) {
      behind.push_back(r);
    }
  }
  return silent.empty() ? behind : silent;
}

std::string DescribeStuck(const Launch& launch, uint32_t ranks, double uptime) {
  const std::vector<uint32_t> waiting = Waiting(launch, ranks);
  if (waiting.empty()) return "";
  const std::vector<uint32_t> stuck = StuckRanks(launch, ranks);
  std::string text;
  for (size_t i = 0; i < std::min(stuck.size(), kNamed); ++i) {
    const Rank& rank = launch.ranks[stuck[i]];
    text += RankName(launch, stuck[i]);
    if (rank.lost) text += ", silent for " + Seconds(uptime - rank.heard_at) + ",";
    text += " is stuck" + Position(rank.report) + "; ";
  }
  if (stuck.size() > kNamed) {
    text += std::to_string(stuck.size() - kNamed) + " more are stuck; ";
  }
  const StuckReport& report = *launch.ranks[waiting.front()].stuck;
  text += RankList(waiting) + " waited in collective " +
          std::to_string(report.collective_sequence()) + " " + report.collective() + " (step " +
          std::to_string(report.step()) + ", " + report.phase() + ") past the deadline of " +
          Seconds(report.deadline_seconds());
  if (stuck.empty()) text += ", and so do all others: look at the network between their hosts";
  const std::string& file = report.flight_recorder();
  if (!file.empty()) text += "; last collectives in " + file.substr(0, file.rfind('/'));
  return text;
}

std::string DescribeSilent(const Launch& launch, uint32_t ranks, double uptime) {
  std::string text;
  size_t silent = 0;
  for (uint32_t r = 0; r < Bounded(launch, ranks); ++r) {
    const Rank& rank = launch.ranks[r];
    if (!rank.lost) continue;
    if (++silent > kNamed) continue;
    text += (text.empty() ? "" : "; ") + RankName(launch, r) + " silent for " +
            Seconds(uptime - rank.heard_at) + Position(rank.report);
  }
  if (silent > kNamed) text += "; " + std::to_string(silent - kNamed) + " more are silent";
  return text;
}

std::vector<uint32_t> BlamedRanks(const Launch& launch, uint32_t ranks) {
  if (!launch.stuck.empty()) return StuckRanks(launch, ranks);
  std::vector<uint32_t> silent, first;
  bool connected = false;
  for (uint32_t r = 0; r < Bounded(launch, ranks); ++r) {
    const Rank& rank = launch.ranks[r];
    if (rank.lost) silent.push_back(r);
    connected = connected || (rank.lost && rank.stream != 0);
    if (rank.stream != 0 || !rank.heard) continue;
    if (first.empty() || rank.gone_at < launch.ranks[first[0]].gone_at) first = {r};
  }
  return connected ? silent : first;
}

std::string DescribeDeath(const Launch& launch, uint32_t ranks, double uptime) {
  if (!launch.stuck.empty()) return launch.stuck;
  const std::vector<uint32_t> blamed = BlamedRanks(launch, ranks);
  if (blamed.empty()) return "";
  const Rank& rank = launch.ranks[blamed[0]];
  if (rank.lost && (blamed.size() > 1 || rank.stream != 0)) {
    return DescribeSilent(launch, ranks, uptime);
  }
  return "the first to leave was " + RankName(launch, blamed[0]) + Position(rank.report);
}

std::vector<uint32_t> UpdateStragglers(Launch* launch, uint32_t ranks, double uptime) {
  std::vector<uint32_t> ended, found;
  for (uint32_t r = 0; r < Bounded(*launch, ranks); ++r) {
    if (EndWindow(&launch->ranks[r], uptime)) ended.push_back(r);
  }
  if (ended.empty()) return found;
  const double median = MedianOwnSeconds(*launch, ranks);
  for (const uint32_t r : ended) {
    OwnWork& own = launch->ranks[r].own;
    const double limit = own.straggler ? kKeepsUp : kStraggles;
    own.above = median > 0 && own.mean > limit * median ? own.above + 1 : 0;
    const bool before = own.straggler;
    own.straggler = own.above >= kPersistent;
    if (own.straggler && !before) found.push_back(r);
  }
  return found;
}

std::string DescribeStraggler(const Launch& launch, uint32_t ranks, uint32_t rank) {
  return RankName(launch, rank) + ": its own work takes " + Seconds(launch.ranks[rank].own.mean) +
         " a step, the median of the ranks " + Seconds(MedianOwnSeconds(launch, ranks));
}

}  // namespace swinfleet::coordinator
