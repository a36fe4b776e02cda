// What `swinfleet-plan --check` may take, whether `swinfleet submit` or the coordinator asks it.
#ifndef SWINFLEET_COORDINATOR_CHECK_LIMITS_H_
#define SWINFLEET_COORDINATOR_CHECK_LIMITS_H_

#include <cstdint>

namespace swinfleet {

// The search for the plan of a giant model within a budget takes half a minute of a slow processor.
inline constexpr double kCheckSeconds = 120;
// What an operator may allow at most.
inline constexpr int kMaxCheckSeconds = 3600;
// Address space, in bytes.
inline constexpr uint64_t kCheckMemory = uint64_t{4} << 30;

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CHECK_LIMITS_H_
