#include "distributed/link_model.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>

#include "distributed/shard_layout.h"

namespace swinfleet {
namespace {

bool IsPowerOfTwo(int ranks) { return std::has_single_bit(static_cast<unsigned>(ranks)); }

// The least r with 2^r >= ranks.
int TreeRounds(int ranks) { return std::bit_width(static_cast<unsigned>(ranks - 1)); }

int InOrder(int number, int ranks) { return number; }

}  // namespace

LinkModel::LinkModel(const Links& links, int rank, int ranks)
    : links_(links), rank_(rank), ranks_(ranks) {
  CHECK(rank >= 0 && rank < ranks) << rank << " of " << ranks;
  CHECK_GE(links.ranks_per_host, 1);
  CHECK(links.link_duplex >= 0.5 && links.link_duplex <= 1) << links.link_duplex;
  if (IsPowerOfTwo(ranks)) patterns_[kHalving] = MakeHalving();
  patterns_[kDirect] = MakeDirect();
  patterns_[kTreeAndScatter] = MakeTreeAndScatter();
  patterns_[kTreeAndBack] = MakeTreeAndBack();
}

int LinkModel::RanksOf(int host) const {
  return std::min(links_.ranks_per_host, ranks_ - host * links_.ranks_per_host);
}

double LinkModel::OneWay(double sent, double received) const {
  return std::max({sent, received, (sent + received) / (2 * links_.link_duplex)});
}

LinkModel::Pattern LinkModel::OwnPattern() const {
  return IsPowerOfTwo(ranks_) ? kHalving : kDirect;
}

void LinkModel::Add(const std::vector<Message>& messages, double part, Rounds* rounds) const {
  std::vector<double> rank_sends(ranks_), rank_receives(ranks_);
  std::vector<double> host_sends(hosts()), host_receives(hosts());
  LinkTraffic& own = rounds->of_rank;
  for (const auto& [from, to] : messages) {
    const bool within = HostOf(from) == HostOf(to);
    if (within) {
      rank_sends[from] += part;
      rank_receives[to] += part;
    } else {
      host_sends[HostOf(from)] += part;
      host_receives[HostOf(to)] += part;
    }
    if (from == rank_) (within ? own.sent_within_host : own.sent_over_link) += part;
    if (to == rank_) (within ? own.received_within_host : own.received_over_link) += part;
  }
  Round& round = rounds->rounds.emplace_back();
  round.within_host = std::max(std::ranges::max(rank_sends), std::ranges::max(rank_receives));
  rounds->host_sent.resize(hosts());
  rounds->host_received.resize(hosts());
  for (int host = 0; host < hosts(); ++host) {
    round.over_link = std::max(round.over_link, OneWay(host_sends[host], host_receives[host]));
    rounds->host_sent[host] += host_sends[host];
    rounds->host_received[host] += host_receives[host];
  }
}

LinkModel::Rounds LinkModel::MakeHalving() const {
  Rounds rounds;
  double part = 1;
  for (int distance = 1; distance < ranks_; distance *= 2) {
    part /= 2;
    std::vector<Message> messages;
    for (int rank = 0; rank < ranks_; ++rank) messages.push_back({rank, rank ^ distance});
    Add(messages, part, &rounds);
  }
  return rounds;
}

// One round of as many messages as there are pairs, which are not written out.
LinkModel::Rounds LinkModel::MakeDirect() const {
  if (ranks_ == 1) return {};
  Rounds rounds;
  Round& round = rounds.rounds.emplace_back();
  const double shard = 1.0 / ranks_;
  for (int host = 0; host < hosts(); ++host) {
    const int here = RanksOf(host), elsewhere = ranks_ - here;
    const double over_link = shard * here * elsewhere;
    rounds.host_sent.push_back(over_link);
    rounds.host_received.push_back(over_link);
    round.within_host = std::max(round.within_host, shard * (here - 1));
    round.over_link = std::max(round.over_link, OneWay(over_link, over_link));
    if (host != HostOf(rank_)) continue;
    rounds.of_rank = {.sent_within_host = shard * (here - 1),
                      .received_within_host = shard * (here - 1),
                      .sent_over_link = shard * elsewhere,
                      .received_over_link = shard * elsewhere};
  }
  return rounds;
}

void LinkModel::AddTreeToFirst(Order order, Rounds* rounds) const {
  for (int round = 0; round < TreeRounds(ranks_); ++round) {
    const int distance = 1 << round;
    std::vector<Message> messages;
    for (int to = 0; to + distance < ranks_; to += 2 * distance) {
      messages.push_back({order(to + distance, ranks_), order(to, ranks_)});
    }
    Add(messages, 1, rounds);
  }
}

LinkModel::Rounds LinkModel::MakeTreeAndScatter() const {
  if (ranks_ == 1) return {};
  Rounds rounds;
  AddTreeToFirst(ShardLayout::ShardIndex, &rounds);
  std::vector<Message> messages;
  for (int rank = 1; rank < ranks_; ++rank) messages.push_back({0, rank});
  Add(messages, 1.0 / ranks_, &rounds);
  return rounds;
}

LinkModel::Rounds LinkModel::MakeTreeAndBack() const {
  Rounds rounds;
  AddTreeToFirst(InOrder, &rounds);
  for (int distance = 1; distance < ranks_; distance *= 2) {
    std::vector<Message> messages;
    for (int from = 0; from < distance && from + distance < ranks_; ++from) {
      messages.push_back({from, from + distance});
    }
    Add(messages, 1, &rounds);
  }
  return rounds;
}

double LinkModel::SecondsOf(Pattern pattern, double bytes, Made* made) const {
  (*made)[pattern] += bytes;
  double seconds = 0;
  for (const Round& round : patterns_[pattern].rounds) {
    const auto over = [bytes](double part, double latency, double bytes_per_second) {
      return part > 0 ? latency + part * bytes / bytes_per_second : 0;
    };
    seconds +=
        std::max(over(round.within_host, links_.host_latency_seconds, links_.host_bytes_per_second),
                 over(round.over_link, links_.link_latency_seconds, links_.link_bytes_per_second));
  }
  return seconds;
}

double LinkModel::Seconds(CollectiveForm form, bool library, uint64_t bytes, Made* made) const {
  const auto size = static_cast<double>(bytes);
  switch (form) {
    case CollectiveForm::kReduceScatter:
      return SecondsOf(library ? kTreeAndScatter : OwnPattern(), size, made);
    case CollectiveForm::kAllGather:
      return SecondsOf(OwnPattern(), size, made);
    case CollectiveForm::kAllReduce:
      return library ? SecondsOf(kTreeAndBack, size, made)
                     : SecondsOf(OwnPattern(), size, made) + SecondsOf(OwnPattern(), size, made);
    case CollectiveForm::kReduceScatterBf16:
      return SecondsOf(kDirect, size, made);
    case CollectiveForm::kAllReduceBf16:
      return SecondsOf(kDirect, size, made) + SecondsOf(OwnPattern(), size, made);
    case CollectiveForm::kSmall:
      return SecondsOf(kDirect, size * ranks_, made);
  }
  LOG(FATAL) << "form " << static_cast<int>(form);
}

LinkTraffic LinkModel::TrafficOf(const Made& made) const {
  LinkTraffic traffic;
  std::vector<double> host_sent(hosts()), host_received(hosts());
  for (int pattern = 0; pattern < kPatterns; ++pattern) {
    const Rounds& rounds = patterns_[pattern];
    const double bytes = made[pattern];
    traffic.sent_within_host += bytes * rounds.of_rank.sent_within_host;
    traffic.received_within_host += bytes * rounds.of_rank.received_within_host;
    traffic.sent_over_link += bytes * rounds.of_rank.sent_over_link;
    traffic.received_over_link += bytes * rounds.of_rank.received_over_link;
    for (size_t host = 0; host < rounds.host_sent.size(); ++host) {
      host_sent[host] += bytes * rounds.host_sent[host];
      host_received[host] += bytes * rounds.host_received[host];
    }
  }
  traffic.host_sent = std::ranges::max(host_sent);
  traffic.host_received = std::ranges::max(host_received);
  return traffic;
}

}  // namespace swinfleet
