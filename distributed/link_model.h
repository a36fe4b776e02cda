// How long collectives take and which links their bytes cross, from a stated model of what lies
// between ranks; docs/communication.md has its formulas.
#ifndef SWINFLEET_DISTRIBUTED_LINK_MODEL_H_
#define SWINFLEET_DISTRIBUTED_LINK_MODEL_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "distributed/communicator.h"

namespace swinfleet {

// What ranks send each other messages over. Rank r is on host r / ranks_per_host.
struct Links {
  int ranks_per_host = 1;
  // Within a host, of each rank and each way.
  double host_bytes_per_second = 5e9;
  double host_latency_seconds = 2e-6;
  // Of the link that a host has to all others, each way; its ranks share it.
  double link_bytes_per_second = 1.25e9;
  double link_latency_seconds = 50e-6;
  // What each way of a link has while both are used, of what one alone has: 1 for full duplex, 0.5
  // where they take turns. Measured with Open MPI 4.1 over TCP, whose large messages wait for
  // answers that come behind the other way's bytes.
  double link_duplex = 0.55;
};

// What a communicator can be asked for: its methods, as they are costed.
enum class CollectiveForm {
  kReduceScatter,
  kAllGather,
  kAllReduce,
  kReduceScatterBf16,
  kAllReduceBf16,
  // Numbers and texts, of which each rank sends its own to every other.
  kSmall
};

// Bytes by where they go.
struct LinkTraffic {
  // Of one rank.
  double sent_within_host = 0;
  double received_within_host = 0;
  double sent_over_link = 0;
  double received_over_link = 0;
  // Of the host with the most, all of its ranks together, over its link.
  double host_sent = 0;
  double host_received = 0;
};

class LinkModel {
 public:
  // In what order messages go. With a power of two ranks recursive halving, nearest rank first, and
  // the same back; directly between every two ranks; and of Open MPI's own sums a binomial tree to
  // its first rank, and from there to each rank its shard, or all along the tree.
  enum Pattern { kHalving, kDirect, kTreeAndScatter, kTreeAndBack, kPatterns };
  // Bytes of the buffers of collectives that were made, by pattern.
  using Made = std::array<double, kPatterns>;

  // Of rank `rank` of `ranks`.
  LinkModel(const Links& links, int rank, int ranks);

  // Seconds of a collective on a buffer of `bytes` (kSmall: on a rank's contribution of so many),
  // which is added to `made`. `library`: sums of floats are left to the MPI library.
  double Seconds(CollectiveForm form, bool library, uint64_t bytes, Made* made) const;
  LinkTraffic TrafficOf(const Made& made) const;

 private:
  // Messages that go at the same time. Of the buffer's bytes, the largest part that a rank sends or
  // receives within its host, and the part that keeps a host's link busy for the longest time.
  struct Round {
    double within_host = 0;
    double over_link = 0;
  };
  struct Message {
    int from = 0;
    int to = 0;
  };
  // Rounds, and what they add up to: parts of the buffer's bytes.
  struct Rounds {
    std::vector<Round> rounds;
    LinkTraffic of_rank;
    // Of each host.
    std::vector<double> host_sent;
    std::vector<double> host_received;
  };

  int HostOf(int rank) const { return rank / links_.ranks_per_host; }
  int hosts() const { return HostOf(ranks_ - 1) + 1; }
  int RanksOf(int host) const;
  // What takes a link as long one way as these parts both ways.
  double OneWay(double sent, double received) const;
  // The pattern of sums and gathers that are ours.
  Pattern OwnPattern() const;
  // Adds a round in which each message carries `part` of the buffer.
  void Add(const std::vector<Message>& messages, double part, Rounds* rounds) const;
  Rounds MakeHalving() const;
  Rounds MakeDirect() const;
  // Rank number i of the library's communicator is rank `order(i)`.
  using Order = int (*)(int number, int ranks);
  void AddTreeToFirst(Order order, Rounds* rounds) const;
  Rounds MakeTreeAndScatter() const;
  Rounds MakeTreeAndBack() const;
  double SecondsOf(Pattern pattern, double bytes, Made* made) const;

  const Links links_;
  const int rank_;
  const int ranks_;
  std::array<Rounds, kPatterns> patterns_;
};

// What a modelled communicator was asked for.
struct ModelledTraffic {
  // Of all collectives, added up.
  double seconds = 0;
  LinkModel::Made made{};
};

// A dry-run communicator on which time passes: collectives take what the model says, one after the
// other beside computing, and whoever waits for one waits until then; wait_seconds() adds these up.
// `computed_seconds` is how long the rank has computed so far. `traffic` outlives it.
std::unique_ptr<Communicator> MakeModelledCommunicator(int rank, int size, const Links& links,
                                                       std::function<double()> computed_seconds,
                                                       ModelledTraffic* traffic);

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_LINK_MODEL_H_
