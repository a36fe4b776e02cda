// The one way in which a bad world (input, peer, disk, memory) is reported below main().
#ifndef SWINFLEET_KERNELS_ERROR_H_
#define SWINFLEET_KERNELS_ERROR_H_

#include <stdexcept>
#include <string>

namespace swinfleet {

// What went wrong, where, and what to do about it, in words for the user. A broken invariant of our
// own code is never an Error: that is a CHECK.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_ERROR_H_
