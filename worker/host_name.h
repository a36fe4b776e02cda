// What this machine is called.
#ifndef SWINFLEET_WORKER_HOST_NAME_H_
#define SWINFLEET_WORKER_HOST_NAME_H_

#include <string>

namespace swinfleet {

// "unknown" when the system doesn't say.
std::string HostName();

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_HOST_NAME_H_
