// golden_check FILE.safetensors...: rebuilds what each golden describes, runs it, and compares.
// Exit codes: 0 all pass; 1 a comparison failed; 2 wrong usage; 3 a golden asks for something that
// isn't supported; 4 a file can't be read. With several, the smallest of those above 0.
#include <glog/logging.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <sstream>

#include "distributed/mpi_runtime.h"
#include "tests/golden/golden_check.h"

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  CLI::App app("Checks the product against golden reference values.");
  std::vector<std::string> files;
  int threads = 1;
  bool quiet = false;
  int zero_stage = -1;
  std::string device = "cpu";
  app.add_option("files", files, "Goldens")->required();
  app.add_option("--threads", threads, "Threads of the operations")->check(CLI::Range(1, 1024));
  app.add_flag("--quiet", quiet, "Only failures and one line a file");
  app.add_option(
         "--zero", zero_stage,
         "Trajectories are trained by the engine, at this ZeRO stage, on all ranks of mpirun")
      ->check(CLI::Range(0, 3));
  app.add_option("--device", device,
                 "What models run on; with cuda trajectories are trained by the engine, and of a\n"
                 "rank is the GPU of its number")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : 2;
  }
  std::unique_ptr<swinfleet::MpiRuntime> mpi;
  std::unique_ptr<swinfleet::Communicator> world;
  swinfleet::golden::EngineRanks ranks;
  if (zero_stage >= 0) {
    mpi = std::make_unique<swinfleet::MpiRuntime>();
    world = mpi->World();
    ranks = {.communicator = world.get(), .zero_stage = zero_stage};
  }
  const std::unique_ptr<swinfleet::Communicator> self = swinfleet::MakeSelfCommunicator();
  std::unique_ptr<swinfleet::Accelerator> gpu;
  if (device == "cuda") {
    if (ranks.communicator == nullptr) ranks.communicator = self.get();
    try {
      const swinfleet::CudaBackend& backend = swinfleet::OpenCudaBackend();
      gpu = backend.Open(backend.Gpus().at(ranks.communicator->rank()));
    } catch (const std::exception& error) {
      std::cerr << "golden_check: " << error.what() << std::endl;
      return 2;
    }
  }
  // What other ranks say is of interest if it differs.
  std::ostringstream aside;
  std::ostream& out = world != nullptr && world->rank() > 0 ? aside : std::cout;
  int result = 0;
  for (const std::string& file : files) {
    const int outcome = static_cast<int>(
        swinfleet::golden::CheckFile(file, {.threads = threads, .gpu = gpu.get()}, !quiet, out,
                                     ranks.communicator == nullptr ? nullptr : &ranks));
    if (outcome != 0 && (result == 0 || outcome < result)) result = outcome;
    std::cout.flush();
  }
  if (result != 0) std::cout << aside.str() << std::flush;
  return result;
}
