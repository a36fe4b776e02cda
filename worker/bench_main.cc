// swinfleet-bench: how fast training is on this machine, and what memory it takes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "kernels/error.h"
#include "worker/bench/bench.h"
#include "worker/exit_codes.h"
#include "worker/logging.h"

namespace swinfleet {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Measures the speed and the memory of Swinfleet on this machine.",
               "swinfleet bench");
  app.require_subcommand(1);
  bench::AddStepCommand(&app);
  bench::AddInferenceCommand(&app);
  bench::AddDataCommand(&app);
  bench::AddMemoryCommands(&app, std::filesystem::read_symlink("/proc/self/exe").string());
  bench::AddAccumulationCommand(&app);
  bench::AddRanksCommand(&app);
  bench::AddCollectivesCommand(&app);
  bench::AddOffloadCommand(&app);
  try {
    // Commands are run while their arguments are parsed.
    app.parse(argc, argv);
    return kExitSuccess;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitSuccess : kExitUsage;
  } catch (const Error& error) {
    std::fprintf(stderr, "swinfleet bench: %s\n", error.what());
    return kExitUsage;
  }
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  return swinfleet::Main(argc, argv);
}
