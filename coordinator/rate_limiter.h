// Token buckets, one for each key: so many requests a second on average, and a few seconds' worth
// at once. It does no input or output; the time is given.
#ifndef SWINFLEET_COORDINATOR_RATE_LIMITER_H_
#define SWINFLEET_COORDINATOR_RATE_LIMITER_H_

#include <map>
#include <mutex>
#include <string>

namespace swinfleet::coordinator {

// Thread-safe.
class RateLimiter {
 public:
  // `rate`: requests a second, 0 for any number. `max_keys` are told apart; all others share one
  // bucket.
  explicit RateLimiter(double rate, size_t max_keys = 10000);

  // Takes one request of `key` at `uptime` (seconds on a clock that never jumps). Returns the
  // seconds after which it may be tried again; 0: it is granted.
  double Take(const std::string& key, double uptime);

  double rate() const { return rate_; }
  double burst() const;

 private:
  struct Bucket {
    double left = 0;
    double filled_at = 0;
  };
  Bucket& BucketOf(const std::string& key, double uptime);
  double LeftAt(const Bucket& bucket, double uptime) const;

  const double rate_;
  const size_t max_keys_;
  std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_RATE_LIMITER_H_
