// Leaving hosts out of an mpirun command.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_HOSTS_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_HOSTS_H_

#include <string>
#include <vector>

namespace swinfleet {

struct HostsExcluded {
  std::vector<std::string> arguments;
  // What was changed, or why nothing could be; one sentence each, for the log.
  std::vector<std::string> notes;
};

// `arguments`, an Open MPI command line, without the hosts `excluded`: they are taken out of its
// lists (--host A:2,B:2) and host files (a shortened copy of each is written to `folder`), and -np
// is lowered to the slots that are left, where these are known. A command that isn't mpirun, or
// names no hosts, is left as it is: the environment variable SWINFLEET_EXCLUDE_HOSTS tells scripts
// what to do. If no host would be left, none is excluded.
HostsExcluded ExcludeHosts(const std::vector<std::string>& arguments,
                           const std::vector<std::string>& excluded, const std::string& folder);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_HOSTS_H_
