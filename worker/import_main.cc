// swinfleet-import: whether a weights file fits a job's model, and a run that starts from it.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
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
  bool json = false;
};

constexpr char kFooter[] =
    "--json: {\"file\", \"ok\" (everything fits), \"checkpoint\" (what --out wrote, else null), "
    "and the\n"
    "whole report: lists of names, some followed by what is to be said of them.\n"
    "  Of what was read: \"matched\", \"transferred\", \"inflated\", \"renamed\" ({\"from\", "
    "\"to\"}).\n"
    "  Of what was not: \"skipped\" (model.init_skip names them), \"left_out\".\n"
    "  Of what must not be: \"missing\", \"unexpected\", \"shape_mismatches\", \"other_units\",\n"
    "  \"wrong_dtypes\", \"non_finite\", \"unused_skips\".\n"
    "  \"notes\" (what may be wrong although everything fits), \"advice\" (what would help)}.\n"
    "\n"
    "Exit codes: 0 everything fits, 1 it does not or can't be read or written, 2 wrong arguments "
    "or "
    "job\n"
    "file.";

nlohmann::json Describe(const ImportReport& report, const std::string& checkpoint) {
  nlohmann::json renamed = nlohmann::json::array();
  for (const auto& [from, to] : report.renamed) renamed.push_back({{"from", from}, {"to", to}});
  return {{"file", report.file},
          {"ok", report.ok()},
          {"checkpoint", checkpoint.empty() ? nlohmann::json() : nlohmann::json(checkpoint)},
          {"matched", report.matched},
          {"transferred", report.transferred},
          {"inflated", report.inflated},
          {"renamed", renamed},
          {"skipped", report.skipped},
          {"left_out", report.left_out},
          {"missing", report.missing},
          {"unexpected", report.unexpected},
          {"shape_mismatches", report.shape_mismatches},
          {"other_units", report.other_units},
          {"wrong_dtypes", report.wrong_dtypes},
          {"non_finite", report.non_finite},
          {"unused_skips", report.unused_skips},
          {"notes", report.notes},
          {"advice", report.advice}};
}

void PrintJson(const ImportReport& report, const std::string& checkpoint) {
  // Names in files may be no UTF-8.
  std::cout
      << Describe(report, checkpoint).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
      << std::endl;
}

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
  std::unique_ptr<WeightsFile> weights;
  try {
    weights = OpenInitialWeights(config, arguments.weights, model->parameters());
    weights->Verify();
  } catch (const ImportError& error) {
    if (!arguments.json) throw;
    PrintJson(error.report(), "");
    return kExitFailed;
  }
  if (!arguments.json) std::cout << weights->report().ToString() << std::endl;
  std::string dir;
  if (!arguments.out.empty()) {
    dir = WriteStartCheckpoint(config, JobToYaml(spec), model->parameters(), *weights,
                               arguments.force);
  }
  if (arguments.json) {
    PrintJson(weights->report(), dir);
  } else if (!dir.empty()) {
    std::cout << "wrote the checkpoint " << dir << "; a job with run_dir " << config.run_dir
              << " starts from it" << std::endl;
  }
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
      "checkpoint of\n"
      "step 0 that the job then starts from.",
      "swinfleet import");
  app.footer(swinfleet::kFooter);
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("weights", arguments.weights, "The safetensors file or checkpoint")->required();
  app.add_option("--job", arguments.job_file, "The job's YAML file")->required();
  app.add_option("--out", arguments.out, "Run folder (the job's run_dir) for the checkpoint");
  app.add_flag("--force", arguments.force, "Overwrite an earlier import");
  app.add_flag("--json", arguments.json, "The whole report as one JSON object on one line");
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Import(arguments); });
}
