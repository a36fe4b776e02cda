// The places of jobs in the queue. Ten thousand jobs may wait, and each answer about one of them
// says how many come before it.
#ifndef SWINFLEET_COORDINATOR_WAITING_KEYS_H_
#define SWINFLEET_COORDINATOR_WAITING_KEYS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace swinfleet::coordinator {

// The order of the queue.
struct QueueKey {
  int32_t priority = 0;
  uint64_t number = 0;
  bool operator<(const QueueKey& other) const {
    return priority != other.priority ? priority > other.priority : number < other.number;
  }
};

// A sorted set of keys that counts those before a key by adding up blocks of some hundred.
class WaitingKeys {
 public:
  // Nothing happens if it is there already.
  void Insert(const QueueKey& key) {
    const auto block = BlockOf(key);
    if (block == blocks_.end()) {
      blocks_.push_back({key});
      return;
    }
    const auto place = std::lower_bound(block->begin(), block->end(), key);
    if (place != block->end() && !(key < *place)) return;
    block->insert(place, key);
    if (block->size() <= kLargestBlock) return;
    const auto middle = block->begin() + kLargestBlock / 2;
    std::vector<QueueKey> upper(middle, block->end());
    block->erase(middle, block->end());
    blocks_.insert(block + 1, std::move(upper));
  }

  // Nothing happens if it isn't there.
  void Erase(const QueueKey& key) {
    const auto block = BlockOf(key);
    if (block == blocks_.end()) return;
    const auto place = std::lower_bound(block->begin(), block->end(), key);
    if (place == block->end() || key < *place) return;
    block->erase(place);
    if (block->empty()) blocks_.erase(block);
  }

  // Keys that come before this one, which may be in it or not.
  size_t CountBefore(const QueueKey& key) const {
    size_t count = 0;
    for (const std::vector<QueueKey>& block : blocks_) {
      if (!(block.back() < key)) {
        return count + (std::lower_bound(block.begin(), block.end(), key) - block.begin());
      }
      count += block.size();
    }
    return count;
  }

  size_t size() const {
    size_t count = 0;
    for (const std::vector<QueueKey>& block : blocks_) count += block.size();
    return count;
  }

 private:
  static constexpr size_t kLargestBlock = 256;
  using Blocks = std::vector<std::vector<QueueKey>>;

  // The first block whose last key is not before this one, or the last block.
  Blocks::iterator BlockOf(const QueueKey& key) {
    const auto ends_before = [](const std::vector<QueueKey>& block, const QueueKey& wanted) {
      return block.back() < wanted;
    };
    const auto found = std::lower_bound(blocks_.begin(), blocks_.end(), key, ends_before);
    return found == blocks_.end() && !blocks_.empty() ? found - 1 : found;
  }

  Blocks blocks_;  // none is empty
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_WAITING_KEYS_H_
