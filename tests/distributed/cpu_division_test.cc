#include "distributed/cpu_division.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

// Nodes of so many cores. As Linux numbers them: the first hyper-threads of all cores, then the
// second ones.
std::vector<LogicalCpu> Machine(const std::vector<int>& node_cores, int threads_per_core) {
  std::vector<LogicalCpu> cpus;
  int cores = 0;
  for (const int count : node_cores) cores += count;
  for (int thread = 0; thread < threads_per_core; ++thread) {
    int core = 0;
    for (int node = 0; node < static_cast<int>(node_cores.size()); ++node) {
      for (int i = 0; i < node_cores[node]; ++i, ++core) {
        cpus.push_back({.cpu = thread * cores + core, .core = core, .node = node});
      }
    }
  }
  return cpus;
}

std::vector<std::vector<CpuList>> AllParts(const std::vector<LogicalCpu>& cpus, int parts) {
  std::vector<std::vector<CpuList>> all;
  for (int part = 0; part < parts; ++part) all.push_back(DivideCpus(cpus, parts, part));
  return all;
}

int NodesOf(const std::vector<LogicalCpu>& cpus, const std::vector<CpuList>& part) {
  std::set<int> nodes;
  for (const CpuList& core : part) {
    for (const LogicalCpu& cpu : cpus) {
      if (std::ranges::count(core, cpu.cpu) > 0) nodes.insert(cpu.node);
    }
  }
  return static_cast<int>(nodes.size());
}

// What holds for every machine and number of ranks.
void ExpectDivided(const std::vector<LogicalCpu>& cpus, int parts) {
  SCOPED_TRACE(std::to_string(cpus.size()) + " CPUs, " + std::to_string(parts) + " parts");
  std::map<int, CpuList> siblings;
  for (const LogicalCpu& cpu : cpus) siblings[cpu.core].push_back(cpu.cpu);
  const int cores = static_cast<int>(siblings.size());
  const bool by_core = parts <= cores;
  const int units = by_core ? cores : static_cast<int>(cpus.size());
  std::set<int> seen;
  for (const std::vector<CpuList>& part : AllParts(cpus, parts)) {
    if (parts > units) {
      EXPECT_THAT(part, IsEmpty());
      continue;
    }
    EXPECT_GE(static_cast<int>(part.size()), units / parts);
    for (const CpuList& core : part) {
      if (by_core) {
        const int first = core.front();
        const auto known = std::ranges::find(cpus, first, &LogicalCpu::cpu);
        EXPECT_EQ(core, siblings[known->core]);
      } else {
        EXPECT_EQ(core.size(), 1u);
      }
      for (const int cpu : core) EXPECT_TRUE(seen.insert(cpu).second) << cpu << " twice";
    }
  }
  // Nothing is left over, unless a node is too small for any part, or there are fewer parts.
  std::map<int, int> node_cores;
  for (const auto& [core, members] : siblings) {
    ++node_cores[std::ranges::find(cpus, members.front(), &LogicalCpu::cpu)->node];
  }
  const bool all_fit = std::ranges::all_of(
      node_cores, [&](const auto& node) { return node.second >= cores / parts; });
  if (parts <= cores && all_fit && parts >= static_cast<int>(node_cores.size())) {
    EXPECT_EQ(seen.size(), cpus.size());
  }
}

TEST(DivideCpus, AnyMachineAndNumberOfRanks) {
  for (int cores = 1; cores <= 64; ++cores) {
    for (const int threads : {1, 2}) {
      for (int parts = 1; parts <= 2 * cores + 1; parts += parts < 9 ? 1 : 7) {
        ExpectDivided(Machine({cores}, threads), parts);
        ExpectDivided(Machine({cores, cores}, threads), parts);
        ExpectDivided(Machine({cores, 1, 3}, threads), parts);
      }
    }
  }
}

TEST(DivideCpus, TwoCores) {
  EXPECT_THAT(AllParts(Machine({2}, 1), 2),
              ElementsAre(ElementsAre(CpuList{0}), ElementsAre(CpuList{1})));
  EXPECT_THAT(AllParts(Machine({2}, 1), 1), ElementsAre(ElementsAre(CpuList{0}, CpuList{1})));
}

TEST(DivideCpus, HyperThreadsStayTogetherAsLongAsThereAreCores) {
  EXPECT_THAT(AllParts(Machine({2}, 2), 2),
              ElementsAre(ElementsAre(CpuList{0, 2}), ElementsAre(CpuList{1, 3})));
  EXPECT_THAT(AllParts(Machine({2}, 2), 4),
              ElementsAre(ElementsAre(CpuList{0}), ElementsAre(CpuList{1}), ElementsAre(CpuList{2}),
                          ElementsAre(CpuList{3})));
}

TEST(DivideCpus, UnevenPartsDifferByACore) {
  const auto parts = AllParts(Machine({7}, 1), 3);
  EXPECT_EQ(parts[0].size(), 2u);
  EXPECT_EQ(parts[1].size(), 2u);
  EXPECT_EQ(parts[2].size(), 3u);
}

TEST(DivideCpus, PartsLieInANodeWhereTheyCan) {
  const auto straddling = [](const std::vector<LogicalCpu>& cpus, int parts) {
    int count = 0;
    for (const auto& part : AllParts(cpus, parts)) count += NodesOf(cpus, part) > 1 ? 1 : 0;
    return count;
  };
  // 8 cores for 3 ranks: 2 each, with 4 for the one that has a node to itself.
  EXPECT_EQ(straddling(Machine({4, 4}, 1), 3), 0);
  EXPECT_EQ(AllParts(Machine({4, 4}, 1), 3)[2].size(), 4u);
  EXPECT_EQ(straddling(Machine({32, 32}, 2), 4), 0);
  EXPECT_EQ(straddling(Machine({6, 2}, 1), 4), 0);
  EXPECT_EQ(straddling(Machine({16, 16, 16, 16}, 2), 8), 0);
  // 3 cores each can't be had within nodes of 4, 4 and 1; and one rank has both nodes.
  EXPECT_EQ(straddling(Machine({4, 4, 1}, 1), 3), 2);
  EXPECT_EQ(straddling(Machine({4, 4}, 1), 1), 1);
}

RankCpus On(const std::string& host, CpuList allowed, double quota = 0) {
  return {.host = host, .group = "g", .quota = quota, .allowed = std::move(allowed)};
}

TEST(ShareOf, RanksOfOneHostDivideWhatAllMayUse) {
  const auto cpus = Machine({4}, 1);
  const CpuList all = {0, 1, 2, 3};
  const std::vector<RankCpus> ranks = {On("a", all), On("b", all), On("a", all)};
  EXPECT_THAT(ShareOf(ranks, 0, cpus).cores, ElementsAre(CpuList{0}, CpuList{1}));
  const CpuShare last = ShareOf(ranks, 2, cpus);
  EXPECT_THAT(last.cores, ElementsAre(CpuList{2}, CpuList{3}));
  EXPECT_EQ(last.sharers, 2);
  EXPECT_EQ(last.index, 1);
  EXPECT_EQ(last.DefaultThreads(), 2);
  const CpuShare alone = ShareOf(ranks, 1, cpus);
  EXPECT_EQ(alone.sharers, 1);
  EXPECT_EQ(alone.DefaultThreads(), 4);
}

TEST(ShareOf, WhatALauncherBoundStays) {
  const auto cpus = Machine({4}, 1);
  const std::vector<RankCpus> apart = {On("a", {0, 1}), On("a", {2, 3})};
  const CpuShare share = ShareOf(apart, 1, cpus);
  EXPECT_EQ(share.sharers, 1);
  EXPECT_THAT(share.cores, ElementsAre(CpuList{2}, CpuList{3}));
  // By socket, two ranks each.
  const std::vector<RankCpus> sockets = {On("a", {0, 1}), On("a", {0, 1}), On("a", {2, 3}),
                                         On("a", {2, 3})};
  EXPECT_THAT(ShareOf(sockets, 3, cpus).cores, ElementsAre(CpuList{3}));
}

TEST(ShareOf, MoreRanksThanCpusHaveNone) {
  const CpuList all = {0, 1};
  const std::vector<RankCpus> ranks(3, On("a", all));
  const CpuShare share = ShareOf(ranks, 1, Machine({2}, 1));
  EXPECT_THAT(share.cores, IsEmpty());
  EXPECT_EQ(share.DefaultThreads(), 1);
}

TEST(ShareOf, ALimitOfTimeBoundsTheThreads) {
  const auto cpus = Machine({8}, 1);
  const CpuList all = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<RankCpus> ranks(2, On("a", all, 5));
  EXPECT_EQ(ShareOf(ranks, 0, cpus).DefaultThreads(), 2);
  // Containers of their own have limits of their own, and still share the CPUs.
  ranks[1].group = "h";
  EXPECT_EQ(ShareOf(ranks, 0, cpus).DefaultThreads(), 4);
  ranks[0].quota = 0.5;
  EXPECT_EQ(ShareOf(ranks, 0, cpus).DefaultThreads(), 1);
}

TEST(RankCpus, TextsSayAll) {
  const RankCpus own = {
      .host = "a-b", .group = "cgroup:[4026531835]", .quota = 2.5, .allowed = {0, 17, 128}};
  const RankCpus read = RankCpus::FromText(own.ToText());
  EXPECT_EQ(read.host, own.host);
  EXPECT_EQ(read.group, own.group);
  EXPECT_EQ(read.quota, own.quota);
  EXPECT_EQ(read.allowed, own.allowed);
  const RankCpus here = RankCpus::Here();
  EXPECT_FALSE(here.host.empty());
  EXPECT_EQ(here.allowed, AllowedCpus());
}

TEST(ReadTopology, CoresAndNodes) {
  std::string root = fs::temp_directory_path() / "swinfleet-cpus-XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  const auto add = [&](int cpu, const std::string& siblings, int node) {
    const fs::path folder = fs::path(root) / ("cpu" + std::to_string(cpu));
    fs::create_directories(folder / "topology");
    fs::create_directories(folder / ("node" + std::to_string(node)));
    std::ofstream(folder / "topology" / "thread_siblings_list") << siblings << "\n";
  };
  add(2, "2,66", 0);
  add(66, "2,66", 0);
  add(7, "6-7", 11);
  const std::vector<LogicalCpu> found = ReadTopology(root, {2, 7, 66, 90});
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].core, found[2].core);
  EXPECT_EQ(found[1].core, 6);
  EXPECT_EQ(found[1].node, 11);
  EXPECT_EQ(found[3].core, 90);
  EXPECT_EQ(found[3].node, 0);
  fs::remove_all(root);
}

TEST(PlaceThreads, ACoreEachWhereTheyTakeAll) {
  CpuShare share;
  share.allowed = {0, 1, 2, 3, 4, 5, 6, 7};
  share.sharers = 2;
  share.cores = {{0, 4}, {1, 5}};
  ThreadCpus cpus = PlaceThreads(share, 2);
  EXPECT_THAT(cpus.compute, ElementsAre(CpuList{0, 4}, CpuList{1, 5}));
  EXPECT_EQ(cpus.helpers, share.allowed);
  cpus = PlaceThreads(share, 1);
  EXPECT_THAT(cpus.compute, ElementsAre(CpuList{0, 1, 4, 5}));
  EXPECT_EQ(cpus.helpers, (CpuList{0, 1, 4, 5}));
  cpus = PlaceThreads(share, 3);
  EXPECT_EQ(cpus.compute, std::vector<CpuList>(3, CpuList{0, 1, 4, 5}));
  EXPECT_EQ(cpus.helpers, share.allowed);
}

}  // namespace
}  // namespace swinfleet
