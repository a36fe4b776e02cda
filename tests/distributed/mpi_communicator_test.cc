#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>
#include <vector>

#include "distributed/shard_layout.h"
#include "tests/distributed/collective_values.h"
#include "tests/distributed/mpi_test_main.h"

namespace swinfleet {
namespace {

// The sum that the interface promises.
float ExpectedSum(size_t i) {
  const int ranks = TestWorld().size();
  std::vector<float> sums;
  for (int r = 0; r < ranks; ++r) sums.push_back(Value(r, i));
  if (!std::has_single_bit(static_cast<unsigned>(ranks))) {
    float sum = sums[0];
    for (int r = 1; r < ranks; ++r) sum += sums[r];
    return sum;
  }
  for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
    for (size_t r = 0; r < sums.size() / 2; ++r) sums[r] = sums[2 * r] + sums[2 * r + 1];
  }
  return sums[0];
}

// The elements that are looked at: all of a short buffer; of a long one some, and the ends of
// chunks.
bool IsChecked(size_t i, size_t n) {
  return n <= 5000 || i % 61 == 0 || (i + 1) % 65536 <= 1 || i + 1 == n;
}

std::vector<float> OwnValues(size_t n, size_t salt = 0) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = Value(TestWorld().rank(), i + salt);
  return values;
}

// Around the borders of chunks of 2^18 elements and of the four that are under way at a time.
const size_t kSizes[] = {
    0, 1, 2, 3, 7, 1000, 4097, (1u << 18), 1u << 19, (1u << 19) + 1, (1u << 20) + 3, 2621443};

TEST(MpiCommunicator, AllReduceGivesTheTreesBits) {
  Communicator& world = TestWorld();
  for (const size_t n : kSizes) {
    std::vector<float> values = OwnValues(n);
    world.AllReduce(values, "sum of " + std::to_string(n))->Wait();
    for (size_t i = 0; i < n; ++i) {
      if (!IsChecked(i, n)) continue;
      ASSERT_EQ(values[i], ExpectedSum(i)) << n << " at " << i;
    }
  }
}

TEST(MpiCommunicator, ReduceScatterLeavesEachRankItsShard) {
  Communicator& world = TestWorld();
  const size_t ranks = world.size();
  for (const size_t n : kSizes) {
    std::vector<float> values = OwnValues(n * ranks);
    world.ReduceScatter(values, "shards")->Wait();
    const size_t begin = n * ShardLayout::ShardIndex(world.rank(), world.size());
    for (size_t i = begin; i < begin + n; ++i) {
      if (!IsChecked(i - begin, n)) continue;
      ASSERT_EQ(values[i], ExpectedSum(i)) << n << " at " << i;
    }
  }
}

TEST(MpiCommunicator, AllGatherSpreadsShards) {
  Communicator& world = TestWorld();
  const size_t ranks = world.size();
  for (const size_t n : kSizes) {
    std::vector<float> values(n * ranks, -1.0f);
    const size_t begin = n * ShardLayout::ShardIndex(world.rank(), world.size());
    for (size_t i = begin; i < begin + n; ++i) values[i] = Value(7, i);
    world.AllGather(values, "parameters")->Wait();
    for (size_t i = 0; i < n * ranks; ++i) ASSERT_EQ(values[i], Value(7, i)) << n << " at " << i;
  }
}

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Added in rank order in float32, rounded once, to even in the middle.
uint16_t ExpectedBf16Sum(size_t i) {
  float sum = FromBf16(Bf16Value(0, i));
  for (int r = 1; r < TestWorld().size(); ++r) sum += FromBf16(Bf16Value(r, i));
  const uint32_t bits = std::bit_cast<uint32_t>(sum);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::vector<uint16_t> OwnBf16Values(size_t n) {
  std::vector<uint16_t> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = Bf16Value(TestWorld().rank(), i);
  return values;
}

TEST(MpiCommunicator, SumsOfBf16AreRoundedOnce) {
  Communicator& world = TestWorld();
  const size_t ranks = world.size();
  for (const size_t n : kSizes) {
    std::vector<uint16_t> values = OwnBf16Values(n);
    world.AllReduceBf16(values, "sum of " + std::to_string(n))->Wait();
    for (size_t i = 0; i < n; ++i) {
      if (!IsChecked(i, n)) continue;
      ASSERT_EQ(values[i], ExpectedBf16Sum(i)) << n << " at " << i;
    }
    values = OwnBf16Values(n * ranks);
    const uint64_t sent_before = world.bytes_sent();
    world.ReduceScatterBf16(values, "shards")->Wait();
    EXPECT_EQ(world.bytes_sent() - sent_before, 2 * n * (ranks - 1));
    const size_t begin = n * ShardLayout::ShardIndex(world.rank(), world.size());
    for (size_t i = begin; i < begin + n; ++i) {
      if (!IsChecked(i - begin, n)) continue;
      ASSERT_EQ(values[i], ExpectedBf16Sum(i)) << n << " at " << i;
    }
  }
}

TEST(MpiCommunicator, AllGatherOf16BitsSpreadsShards) {
  Communicator& world = TestWorld();
  const size_t ranks = world.size();
  for (const size_t n : kSizes) {
    std::vector<uint16_t> values(n * ranks, 0xffff);
    const size_t begin = n * ShardLayout::ShardIndex(world.rank(), world.size());
    for (size_t i = begin; i < begin + n; ++i) values[i] = static_cast<uint16_t>(i * 40503 >> 3);
    world.AllGather(values, "parameters")->Wait();
    for (size_t i = 0; i < n * ranks; ++i) {
      ASSERT_EQ(values[i], static_cast<uint16_t>(i * 40503 >> 3)) << n << " at " << i;
    }
  }
}

TEST(MpiCommunicator, ManyCollectivesUnderWayAtOnce) {
  Communicator& world = TestWorld();
  constexpr size_t kMany = 100;
  std::vector<std::vector<float>> values;
  for (size_t k = 0; k < kMany; ++k) values.push_back(OwnValues(k * 37, k));
  std::vector<std::unique_ptr<CollectiveHandle>> handles;
  for (auto& of_one : values) handles.push_back(world.AllReduce(of_one, "one of many"));
  // Waiting out of order, twice, and by the destructor alone.
  handles[kMany - 1]->Wait();
  handles[3]->Wait();
  handles[3]->Wait();
  handles.clear();
  for (size_t k = 0; k < kMany; ++k) {
    for (size_t i = 0; i < values[k].size(); ++i) ASSERT_EQ(values[k][i], ExpectedSum(i + k));
  }
}

// Each has ended before the next one is started, and before anybody waits for it.
TEST(MpiCommunicator, WaitsAtOnceIfToldTo) {
  Communicator& world = TestWorld();
  const uint64_t before = world.position().sequence;
  world.WaitAtOnce(true);
  std::vector<float> first = OwnValues(100000), second = OwnValues(1000);
  const auto one = world.AllReduce(first, "one");
  EXPECT_EQ(first[99999], ExpectedSum(99999));
  EXPECT_EQ(world.position().sequence, before + 1);
  EXPECT_FALSE(world.position().in_progress);
  const auto two = world.AllReduce(second, "two");
  EXPECT_EQ(second[999], ExpectedSum(999));
  EXPECT_FALSE(world.position().in_progress);
  world.WaitAtOnce(false);
}

TEST(MpiCommunicator, SmallCollectives) {
  Communicator& world = TestWorld();
  const int ranks = world.size();
  std::vector<double> sums = {1.0 + world.rank(), 0.5};
  world.AllReduceSum(sums, "sums");
  EXPECT_EQ(sums[0], ranks * (ranks + 1) / 2.0);
  EXPECT_EQ(sums[1], ranks * 0.5);
  std::vector<double> mine = {10.0 * world.rank(), 1.0}, all(2 * ranks);
  world.AllGather(std::span<const double>(mine), all, "values");
  for (int r = 0; r < ranks; ++r) EXPECT_EQ(all[2 * r], 10.0 * r);
  world.AllReduceSum(std::span<double>(), "nothing");
  // Texts of different lengths, one of them empty, one long.
  const auto text = [](int r) { return std::string(r == 1 ? 300000 : 3 * r, 'a' + r); };
  const std::vector<std::string> texts = world.AllGatherText(text(world.rank()), "texts");
  ASSERT_EQ(texts.size(), static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) EXPECT_EQ(texts[r], text(r));
  world.Barrier("barrier");
}

TEST(MpiCommunicator, GroupsOfTheFirstRanks) {
  Communicator& world = TestWorld();
  const int members = (world.size() + 1) / 2;
  // One after the other under one tag, as jobs come and go.
  for (int round = 0; round < 3; ++round) {
    if (world.rank() >= members) continue;
    const auto group = TestRuntime().Group(members, 5);
    EXPECT_EQ(group->size(), members);
    EXPECT_EQ(group->rank(), world.rank());
    std::vector<float> ones(1001, 1.0f);
    group->AllReduce(ones, "of the group")->Wait();
    EXPECT_EQ(ones[1000], static_cast<float>(members));
  }
  world.Barrier("groups are done");
}

TEST(MpiCommunicator, ReportsWhereItIsAndWhatItSent) {
  Communicator& world = TestWorld();
  world.Barrier("before");
  const CollectivePosition before = world.position();
  EXPECT_EQ(before.name, "before");
  const uint64_t sent_before = world.bytes_sent();
  const double waited_before = world.wait_seconds();
  const int ranks = world.size();
  constexpr size_t kElements = 120 * 1024;
  std::vector<float> values(kElements);
  if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto handle = world.AllReduce(values, "gradients of a unit");
  if (ranks > 1 && world.rank() == 1) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(world.position().in_progress);
    EXPECT_EQ(world.position().name, "gradients of a unit");
    EXPECT_EQ(world.position().sequence, before.sequence + 1);
  }
  handle->Wait();
  EXPECT_FALSE(world.position().in_progress);
  EXPECT_EQ(world.position().sequence, before.sequence + 1);
  EXPECT_EQ(world.bytes_sent() - sent_before, 2 * kElements * sizeof(float) / ranks * (ranks - 1));
  if (ranks > 1 && world.rank() == 1) {
    EXPECT_GT(world.wait_seconds() - waited_before, 0.03);
  }
  const CollectiveRecord last = world.recent().back();
  EXPECT_EQ(last.sequence, before.sequence + 1);
  EXPECT_EQ(last.operation, "all-reduce");
  EXPECT_EQ(last.name, "gradients of a unit");
  EXPECT_EQ(last.bytes, kElements * sizeof(float));
  EXPECT_GE(last.started, last.posted);
  EXPECT_GE(last.ended, last.started);
  world.Barrier("after");
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(MpiCommunicator, WaitingCostsLittle) {
  Communicator& world = TestWorld();
  constexpr double kSeconds = 1.0;
  world.Barrier("before idling");
  double begin = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
  const double idle = CpuSeconds() - begin;
  EXPECT_LT(idle, 0.02 * kSeconds);
  world.Barrier("after idling");
  // The other ranks wait for rank 0 within a collective.
  begin = CpuSeconds();
  if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
  world.Barrier("waiting for rank 0");
  const double waiting = CpuSeconds() - begin;
  EXPECT_LT(waiting, 0.05 * kSeconds);
  RecordProperty("idle_percent", std::to_string(100 * idle / kSeconds));
  RecordProperty("waiting_percent", std::to_string(100 * waiting / kSeconds));
}

TEST(MpiRuntime, KnowsItsPlace) {
  EXPECT_EQ(TestRuntime().world_size(), TestWorld().size());
  EXPECT_EQ(TestRuntime().world_rank(), TestWorld().rank());
  EXPECT_EQ(TestRuntime().local_size(), TestWorld().size());
  EXPECT_EQ(TestRuntime().local_rank(), TestWorld().rank());
  EXPECT_TRUE(MpiRuntime::StartedByLauncher());
}

}  // namespace
}  // namespace swinfleet
