#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "distributed/communicator.h"

namespace swinfleet {
namespace {

TEST(SelfCommunicator, GivesBackWhatOneRankGives) {
  const auto self = MakeSelfCommunicator();
  EXPECT_EQ(self->rank(), 0);
  EXPECT_EQ(self->size(), 1);
  std::vector<float> values = {1, 2, 3};
  self->ReduceScatter(values, "a")->Wait();
  self->AllGather(values, "b")->Wait();
  self->AllReduce(values, "c")->Wait();
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  std::vector<uint16_t> bits = {1, 2, 3};
  self->ReduceScatterBf16(bits, "a")->Wait();
  self->AllReduceBf16(bits, "b")->Wait();
  self->AllGather(bits, "c")->Wait();
  EXPECT_EQ(bits, (std::vector<uint16_t>{1, 2, 3}));
  std::array<double, 2> sums = {4, 5}, gathered = {};
  self->AllReduceSum(sums, "d");
  self->AllGather(std::span<const double>(sums), gathered, "e");
  EXPECT_EQ(gathered, (std::array<double, 2>{4, 5}));
  EXPECT_EQ(self->AllGatherText("hello", "f"), std::vector<std::string>{"hello"});
  self->Barrier("g");
  EXPECT_EQ(self->position().sequence, 10u);
  EXPECT_EQ(self->position().name, "g");
  EXPECT_FALSE(self->position().in_progress);
  EXPECT_EQ(self->bytes_sent(), 0u);
}

TEST(DryRunCommunicator, CountsWithoutTouchingMemory) {
  const auto dry = MakeDryRunCommunicator(3, 4);
  EXPECT_EQ(dry->rank(), 3);
  EXPECT_EQ(dry->size(), 4);
  float* nowhere = reinterpret_cast<float*>(uintptr_t{0xdead} << 48);
  dry->ReduceScatter({nowhere, 4096}, "a")->Wait();
  EXPECT_EQ(dry->bytes_sent(), 4096u * 4 * 3 / 4);
  dry->AllGather({nowhere, 4096}, "b")->Wait();
  dry->AllReduce({nowhere, 4096}, "c")->Wait();
  EXPECT_EQ(dry->bytes_sent(), 4096u * 4 * 3);
  uint16_t* halves = reinterpret_cast<uint16_t*>(uintptr_t{0xdead} << 48);
  dry->ReduceScatterBf16({halves, 4096}, "a")->Wait();
  dry->AllGather({halves, 4096}, "b")->Wait();
  dry->AllReduceBf16({halves, 4096}, "c")->Wait();
  EXPECT_EQ(dry->bytes_sent(), 4096u * 6 * 3);
  EXPECT_EQ(dry->AllGatherText("x", "d").size(), 4u);
}

}  // namespace
}  // namespace swinfleet
