// Random identifiers of launches and submissions.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_UUID_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_UUID_H_

#include <string>

namespace swinfleet {

// A random UUID (version 4) from the kernel's generator: 36 characters, lower case.
std::string NewUuid();

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_UUID_H_
