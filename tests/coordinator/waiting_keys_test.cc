// Places in the queue, against a plain sorted set.
#include "coordinator/waiting_keys.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <iterator>
#include <random>
#include <set>

namespace swinfleet::coordinator {
namespace {

TEST(WaitingKeys, CountsAsASetDoes) {
  std::mt19937 random(1);
  WaitingKeys keys;
  std::set<QueueKey> truth;
  // It grows to thousands, and shrinks to nothing.
  for (int i = 0; i < 40000; ++i) {
    const QueueKey key{static_cast<int32_t>(random() % 5) - 2, random() % 3000};
    if (random() % 40000 > static_cast<unsigned>(i)) {
      keys.Insert(key);
      truth.insert(key);
    } else {
      keys.Erase(key);
      truth.erase(key);
    }
    if (i % 97 != 0) continue;
    const QueueKey other{static_cast<int32_t>(random() % 5) - 2, random() % 3000};
    ASSERT_EQ(static_cast<std::ptrdiff_t>(keys.CountBefore(other)),
              std::distance(truth.begin(), truth.lower_bound(other)))
        << i;
    ASSERT_EQ(keys.size(), truth.size()) << i;
  }
  for (const QueueKey& key : std::set(truth)) {
    keys.Erase(key);
    truth.erase(key);
    ASSERT_EQ(keys.size(), truth.size());
  }
  EXPECT_EQ(keys.CountBefore({0, 1}), 0u);
}

TEST(WaitingKeys, HigherPrioritiesComeFirst) {
  WaitingKeys keys;
  for (uint64_t number = 1; number <= 1000; ++number) keys.Insert({0, number});
  keys.Insert({5, 2000});
  keys.Insert({-5, 7});
  EXPECT_EQ(keys.CountBefore({5, 2000}), 0u);
  EXPECT_EQ(keys.CountBefore({0, 1}), 1u);
  EXPECT_EQ(keys.CountBefore({0, 1000}), 1000u);
  EXPECT_EQ(keys.CountBefore({-5, 7}), 1001u);
}

}  // namespace
}  // namespace swinfleet::coordinator
