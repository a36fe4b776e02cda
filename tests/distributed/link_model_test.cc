#include "distributed/link_model.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace swinfleet {
namespace {

// Round numbers: a byte takes 1 s within a host and 8 s over a link; latencies are 100 and 1000 s.
Links RoundLinks(int ranks_per_host) {
  return {.ranks_per_host = ranks_per_host,
          .host_bytes_per_second = 1,
          .host_latency_seconds = 100,
          .link_bytes_per_second = 0.125,
          .link_latency_seconds = 1000,
          .link_duplex = 1};
}

double SecondsOf(const LinkModel& model, CollectiveForm form, bool library = false,
                 uint64_t bytes = 8) {
  LinkModel::Made made{};
  return model.Seconds(form, library, bytes, &made);
}

LinkTraffic TrafficOf(const LinkModel& model, CollectiveForm form, bool library = false) {
  LinkModel::Made made{};
  model.Seconds(form, library, 8, &made);
  return model.TrafficOf(made);
}

TEST(LinkModel, OneRankHasNothingToExchange) {
  const LinkModel model(RoundLinks(1), 0, 1);
  for (const CollectiveForm form : {CollectiveForm::kReduceScatter, CollectiveForm::kAllGather,
                                    CollectiveForm::kAllReduce, CollectiveForm::kReduceScatterBf16,
                                    CollectiveForm::kAllReduceBf16, CollectiveForm::kSmall}) {
    EXPECT_EQ(SecondsOf(model, form), 0);
    EXPECT_EQ(SecondsOf(model, form, true), 0);
    EXPECT_EQ(TrafficOf(model, form).sent_over_link, 0);
  }
}

// Halves, then quarters of 8 bytes.
TEST(LinkModel, HalvingOverHostsOfOneRank) {
  const LinkModel model(RoundLinks(1), 2, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter), 1000 + 32 + 1000 + 16);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllGather), 2048);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllReduce), 2 * 2048);
  const LinkTraffic traffic = TrafficOf(model, CollectiveForm::kAllReduce);
  EXPECT_EQ(traffic.sent_within_host, 0);
  EXPECT_EQ(traffic.sent_over_link, 12);
  EXPECT_EQ(traffic.received_over_link, 12);
  EXPECT_EQ(traffic.host_sent, 12);
  EXPECT_EQ(traffic.host_received, 12);
}

// The nearest rank comes first, with the larger half; two ranks share a link for the smaller one.
TEST(LinkModel, HalvingStaysInAHostFirst) {
  const LinkModel model(RoundLinks(2), 3, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter), 100 + 4 + 1000 + 2 * 16);
  const LinkTraffic traffic = TrafficOf(model, CollectiveForm::kReduceScatter);
  EXPECT_EQ(traffic.sent_within_host, 4);
  EXPECT_EQ(traffic.received_within_host, 4);
  EXPECT_EQ(traffic.sent_over_link, 2);
  EXPECT_EQ(traffic.host_sent, 4);
}

// Hosts of three ranks: in the first round ranks 2 and 3 exchange over links, while others don't.
TEST(LinkModel, ARoundTakesAsLongAsItsSlowestMessages) {
  const LinkModel model(RoundLinks(3), 2, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter), (1000 + 32) + (1000 + 16));
  const LinkTraffic traffic = TrafficOf(model, CollectiveForm::kReduceScatter);
  EXPECT_EQ(traffic.sent_over_link, 4);
  EXPECT_EQ(traffic.sent_within_host, 2);
  // Of the first host ranks 2 (4 bytes) and 1 (2 bytes); of the second rank 3 (6 bytes).
  EXPECT_EQ(traffic.host_sent, 6);
}

// Every two ranks exchange: of 8 bytes on 5 ranks a shard of 1.6 each way.
TEST(LinkModel, OtherNumbersOfRanksExchangeDirectly) {
  const LinkModel model(RoundLinks(2), 4, 5);
  // The full hosts' links carry the shards of 2 ranks from 3 others.
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter), 1000 + 6 * 1.6 * 8);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllGather), 1000 + 6 * 1.6 * 8);
  const LinkTraffic traffic = TrafficOf(model, CollectiveForm::kAllGather);
  EXPECT_DOUBLE_EQ(traffic.sent_over_link, 4 * 1.6);
  EXPECT_EQ(traffic.sent_within_host, 0);
  EXPECT_DOUBLE_EQ(traffic.host_sent, 6 * 1.6);
}

// Sums of bfloat16 go directly on any number of ranks; so do small things, of which every rank
// has its own.
TEST(LinkModel, SomeThingsAlwaysGoDirectly) {
  const LinkModel model(RoundLinks(1), 0, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatterBf16), 1000 + 48);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllReduceBf16), 1048 + 2048);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kSmall), 1000 + 3 * 8 * 8);
}

// The library sends whole buffers along a tree to rank 0, which scatters the sum, or sends it back.
TEST(LinkModel, TheLibrarysSumsGoThroughOneRank) {
  const LinkModel model(RoundLinks(1), 0, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter, true), 2 * 1064 + 1048);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllReduce, true), 4 * 1064);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllGather, true), 2048);
  const LinkTraffic traffic = TrafficOf(model, CollectiveForm::kReduceScatter, true);
  EXPECT_EQ(traffic.received_over_link, 16);
  EXPECT_EQ(traffic.sent_over_link, 6);
  EXPECT_EQ(traffic.host_received, 16);
  // Hosts 1 to 3 send their whole buffers once.
  EXPECT_EQ(traffic.host_sent, 8);
}

// Where both ways take turns an exchange takes twice as long, and a message as long as ever.
TEST(LinkModel, LinksMayBeSlowerBothWays) {
  Links links = RoundLinks(1);
  links.link_duplex = 0.5;
  const LinkModel model(links, 0, 4);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kReduceScatter), 1000 + 64 + 1000 + 32);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kSmall), 1000 + 2 * 3 * 8 * 8);
  EXPECT_DOUBLE_EQ(SecondsOf(model, CollectiveForm::kAllReduce, true), 4 * 1064);
  EXPECT_EQ(TrafficOf(model, CollectiveForm::kReduceScatter).host_sent, 6);
}

class ModelledCommunicatorTest : public testing::Test {
 protected:
  // A collective takes 1048 s.
  std::unique_ptr<CollectiveHandle> Start() {
    return communicator_->ReduceScatterBf16(values_, "sum");
  }
  double computed_ = 0;
  ModelledTraffic traffic_;
  std::unique_ptr<Communicator> communicator_ = MakeModelledCommunicator(
      0, 4, RoundLinks(1), [this] { return computed_; }, &traffic_);
  std::vector<uint16_t> values_ = std::vector<uint16_t>(4);
};

TEST_F(ModelledCommunicatorTest, OnlyWhatIsWaitedForCounts) {
  const auto hidden = Start();
  computed_ = 1048;
  hidden->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 0);
  const auto exposed = Start();
  computed_ += 48;
  exposed->Wait();
  exposed->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 1000);
  EXPECT_EQ(traffic_.seconds, 2 * 1048);
}

// The second one is behind the first, whichever is waited for.
TEST_F(ModelledCommunicatorTest, CollectivesComeOneAfterTheOther) {
  const auto first = Start(), second = Start();
  second->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 2 * 1048);
  first->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 2 * 1048);
  communicator_->Barrier("barrier");
  EXPECT_EQ(communicator_->wait_seconds(), 2 * 1048 + 1000);
}

TEST_F(ModelledCommunicatorTest, NothingIsHiddenWithoutOverlap) {
  communicator_->WaitAtOnce(true);
  const auto handle = Start();
  computed_ = 5000;
  handle->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 1048);
}

TEST_F(ModelledCommunicatorTest, KnowsWhoSums) {
  std::vector<float> values(2);
  communicator_->UseLibrarySums(true);
  communicator_->AllReduce(values, "sum")->Wait();
  EXPECT_EQ(communicator_->wait_seconds(), 4 * 1064);
}

}  // namespace
}  // namespace swinfleet
