// The system's two clocks, in seconds.
#ifndef SWINFLEET_COORDINATOR_CLOCK_H_
#define SWINFLEET_COORDINATOR_CLOCK_H_

#include <chrono>

namespace swinfleet::coordinator {

// Since 1970.
inline double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// On a clock that never jumps.
inline double Uptime() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_CLOCK_H_
