#include "coordinator/rate_limiter.h"

#include <algorithm>

namespace swinfleet::coordinator {
namespace {

// All ranks of a large fleet come back at once when the coordinator was away.
constexpr double kBurstSeconds = 4;
// No key is empty.
constexpr char kShared[] = "";

}  // namespace

RateLimiter::RateLimiter(double rate, size_t max_keys) : rate_(rate), max_keys_(max_keys) {}

double RateLimiter::burst() const { return std::max(1.0, kBurstSeconds * rate_); }

double RateLimiter::LeftAt(const Bucket& bucket, double uptime) const {
  return std::min(burst(), bucket.left + rate_ * std::max(0.0, uptime - bucket.filled_at));
}

RateLimiter::Bucket& RateLimiter::BucketOf(const std::string& key, double uptime) {
  const auto found = buckets_.find(key);
  if (found != buckets_.end()) return found->second;
  // A full bucket says no more than none at all.
  if (buckets_.size() >= max_keys_) {
    std::erase_if(buckets_,
                  [&](const auto& entry) { return LeftAt(entry.second, uptime) >= burst(); });
  }
  const std::string name = buckets_.size() >= max_keys_ ? kShared : key;
  return buckets_.try_emplace(name, Bucket{burst(), uptime}).first->second;
}

double RateLimiter::Take(const std::string& key, double uptime) {
  if (rate_ == 0) return 0;
  const std::lock_guard lock(mutex_);
  Bucket& bucket = BucketOf(key, uptime);
  bucket.left = LeftAt(bucket, uptime);
  bucket.filled_at = std::max(bucket.filled_at, uptime);
  if (bucket.left < 1) return (1 - bucket.left) / rate_;
  bucket.left -= 1;
  return 0;
}

}  // namespace swinfleet::coordinator
