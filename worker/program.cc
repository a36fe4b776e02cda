#include "worker/program.h"

#include <iostream>

#include "worker/exit_codes.h"

namespace swinfleet {

int RunProgram(CLI::App* app, int argc, char** argv, const std::function<int()>& run) {
  try {
    app->parse(argc, argv);
    return run();
  } catch (const CLI::ParseError& error) {
    return app->exit(error) == 0 ? kExitSuccess : kExitUsage;
  } catch (const UsageError& error) {
    std::cerr << error.what() << std::endl;
    return kExitUsage;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return kExitFailed;
  }
}

}  // namespace swinfleet
