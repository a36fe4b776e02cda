// What is prepared once for calls of NVIDIA's libraries, descriptors and algorithms, and used again
// by every call that is like the first. Needs no CUDA.
#ifndef SWINFLEET_KERNELS_CUDA_PLAN_CACHE_H_
#define SWINFLEET_KERNELS_CUDA_PLAN_CACHE_H_

#include <cstddef>
#include <map>

namespace swinfleet::cuda {

// Plans by all that they depend on. A job has some hundred; where shapes follow from random masks
// there could be ever more, so at kMost all are forgotten. Of one thread.
template <typename Key, typename Plan, size_t kMost = 4096>
class PlanCache {
 public:
  // The plan of the key, at first made as Plan(args...), whose exceptions leave nothing behind. It
  // stays where it is until the next call.
  template <typename... Args>
  const Plan& Get(const Key& key, const Args&... args) {
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kMost) plans_.clear();
    return plans_.try_emplace(key, args...).first->second;
  }

 private:
  std::map<Key, Plan> plans_;
};

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_PLAN_CACHE_H_
