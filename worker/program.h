// What the worker's tools have in common: arguments, errors and exit codes.
#ifndef SWINFLEET_WORKER_PROGRAM_H_
#define SWINFLEET_WORKER_PROGRAM_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "kernels/error.h"

namespace swinfleet {

// Arguments that can't work, whatever the files hold.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Parses the arguments and calls `run`, whose result is the exit code. What either throws is said
// on stderr: arguments that can't work (CLI::ParseError, UsageError) end as kExitUsage, all else as
// kExitFailed.
int RunProgram(CLI::App* app, int argc, char** argv, const std::function<int()>& run);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_PROGRAM_H_
