// The command line of `swinfleet`: what it accepts, and which function does it.
#ifndef SWINFLEET_COORDINATOR_CLI_APP_H_
#define SWINFLEET_COORDINATOR_CLI_APP_H_

namespace swinfleet {

// Runs `swinfleet` with main()'s arguments and returns its exit code (exit_codes.h). Does not
// return when another program takes over (`swinfleet NAME` for swinfleet-NAME).
int RunSwinfleet(int argc, char** argv);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_APP_H_
