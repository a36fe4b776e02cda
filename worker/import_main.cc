// swinfleet-import: whether a weights file fits a job's model, and a run that starts from it.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/weights_io.h"
#include "core/nn/model.h"
#include "kernels/error.h"
#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"
#include "worker/exit_codes.h"
#include "worker/initial_weights.h"
#include "worker/job_file.h"
#include "worker/logging.h"
#include "worker/program.h"
#include "worker/start_checkpoint.h"

namespace swinfleet {
namespace {

struct Arguments {
  std::string weights;
  std::string job_file;
  std::string out;
  bool force = false;
};

int Import(const Arguments& arguments) {
  JobSpec spec;
  JobConfig config;
  const std::vector<std::string> problems =
      LoadJobFile(arguments.job_file, arguments.out, 0, &spec, &config);
  if (!problems.empty()) {
    std::cerr << JoinLines(problems) << std::endl;
    return kExitUsage;
  }
  const std::unique_ptr<Model> model = MakeModel(config.model, config.pretrain, config.memory);
  const std::unique_ptr<WeightsFile> weights =
      OpenInitialWeights(config, arguments.weights, model->parameters());
  weights->Verify();
  std::cout << weights->report().ToString() << std::endl;
  if (arguments.out.empty()) return kExitSuccess;
  const std::string dir =
      WriteStartCheckpoint(config, JobToYaml(spec), model->parameters(), *weights, arguments.force);
  std::cout << "wrote the checkpoint " << dir << "; a job with run_dir " << config.run_dir
            << " starts from it" << std::endl;
  return kExitSuccess;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  swinfleet::Arguments arguments;
  CLI::App app(
      "Compares a safetensors file (exported, official names or timm's), or a checkpoint, with a\n"
      "job's model and reports what matches, what is transferred to its windows and picture size, "
      "and\n"
      "what is left out; model.init_skip says what may be. With --out it also writes the "
      "checkpoint "
      "of\n"
      "step 0 that the job then starts from. Exit codes: 0 everything fits, 1 it does not or can't "
      "be\n"
      "written, 2 wrong arguments or job file.");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("weights", arguments.weights, "The safetensors file or checkpoint")->required();
  app.add_option("--job", arguments.job_file, "The job's YAML file")->required();
  app.add_option("--out", arguments.out, "Run folder (the job's run_dir) for the checkpoint");
  app.add_flag("--force", arguments.force, "Overwrite an earlier import");
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Import(arguments); });
}
