// `swinfleet-coordinator token ...` and `audit`: what an operator does on the coordinator's
// machine, whether it runs or not. Whoever can write to the store may do it.
#ifndef SWINFLEET_COORDINATOR_TOKEN_COMMANDS_H_
#define SWINFLEET_COORDINATOR_TOKEN_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

namespace swinfleet::coordinator {

// Adds the commands to the program's options. When one was given, `action` does it for the store
// folder `store` and returns the exit code; otherwise it stays as it is.
void DeclareTokenCommands(CLI::App* app, const std::string* store, std::function<int()>* action);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_TOKEN_COMMANDS_H_
