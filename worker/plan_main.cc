// swinfleet-plan: whether a job can run, and what it consists of, without running it. Data paths
// are not looked at: only the workers can see them.
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/swin_v2.h"
#include "kernels/error.h"
#include "worker/config_from_proto.h"
#include "worker/exit_codes.h"
#include "worker/job_file.h"
#include "worker/logging.h"
#include "worker/model_json.h"

namespace swinfleet {
namespace {

struct Arguments {
  std::string job_file;
  int64_t ranks = 0;
  bool check = false;
  bool json = false;
};

int64_t UsedRanks(const Arguments& arguments, const JobConfig& config) {
  return config.parallel.ranks > 0 ? config.parallel.ranks : arguments.ranks;
}

// Parameters of a unit, without what lies between them for alignment.
int64_t ElementsOf(const ParameterTable& table, const Unit& unit) {
  int64_t elements = 0;
  for (const int parameter : unit.parameters) elements += table.parameters()[parameter].size();
  return elements;
}

int PrintProblems(const Arguments& arguments, const std::vector<std::string>& problems) {
  std::cerr << JoinLines(problems) << std::endl;
  if (arguments.json) {
    std::cout << nlohmann::json{{"ok", false}, {"problems", problems}}.dump() << std::endl;
  }
  return kExitUsage;
}

nlohmann::json Describe(const Arguments& arguments, const JobConfig& config,
                        const ParameterTable& table) {
  nlohmann::json plan;
  plan["ok"] = true;
  plan["name"] = config.name;
  plan["run_dir"] = config.run_dir;
  plan["model"] = nlohmann::json::parse(ModelConfigToJson(config.model));
  plan["parameters"] = table.TotalElements();
  plan["tensors"] = table.parameters().size();
  plan["epochs"] = config.train.epochs;
  plan["global_batch"] = config.train.global_batch;
  plan["micro_batch"] = config.train.micro_batch;
  plan["micro_batches"] = config.train.micro_batches();
  plan["zero_stage"] = config.parallel.zero_stage;
  // 0: whatever the fleet has.
  plan["ranks"] = UsedRanks(arguments, config);
  nlohmann::json units = nlohmann::json::array();
  for (const Unit& unit : table.units()) {
    units.push_back({{"name", unit.name},
                     {"tensors", unit.parameters.size()},
                     {"parameters", ElementsOf(table, unit)}});
  }
  plan["units"] = units;
  return plan;
}

// "28,288,354".
std::string Grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

void PrintSummary(const Arguments& arguments, const JobConfig& config,
                  const ParameterTable& table) {
  const ModelConfig& model = config.model;
  const int64_t ranks = UsedRanks(arguments, config);
  std::cout << arguments.job_file << " can run\n"
            << "job         " << (config.name.empty() ? "(no name)" : config.name)
            << ", run folder " << config.run_dir << "\n"
            << "model       Swin V2, pictures of " << model.image_h << "x" << model.image_w << "x"
            << model.in_chans << ", " << model.num_classes << " classes\n"
            << "parameters  " << Grouped(table.TotalElements()) << " in "
            << table.parameters().size() << " tensors and " << table.units().size() << " units\n";
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    std::cout << "stage " << stage << "     " << model.StageH(stage) << "x" << model.StageW(stage)
              << " tokens, " << model.StageDim(stage) << " channels, " << model.depths[stage]
              << " blocks, " << model.num_heads[stage] << " heads, window "
              << model.StageWindow(stage) << "\n";
  }
  std::cout << "training    " << config.train.epochs << " epochs, steps of "
            << config.train.global_batch << " pictures in " << config.train.micro_batches()
            << " micro-batches of " << config.train.micro_batch << "\n"
            << "steps       an epoch has 1 for each " << config.train.global_batch
            << " pictures of the data set, whose size the workers know\n"
            << "ranks       "
            << (ranks > 0 ? std::to_string(ranks)
                          : std::string("all of the fleet, at most ") +
                                std::to_string(config.train.micro_batches()))
            << ", ZeRO stage " << config.parallel.zero_stage << std::endl;
}

void PrintUnits(const ParameterTable& table) {
  std::cout << "units\n";
  for (const Unit& unit : table.units()) {
    std::printf("  %-28s %3zu tensors %14s parameters\n", unit.name.c_str(), unit.parameters.size(),
                Grouped(ElementsOf(table, unit)).c_str());
  }
  std::fflush(stdout);
}

int Plan(const Arguments& arguments) {
  JobSpec spec;
  JobConfig config;
  const std::vector<std::string> problems =
      LoadJobFile(arguments.job_file, "", arguments.ranks, &spec, &config);
  if (!problems.empty()) return PrintProblems(arguments, problems);
  // Builds the table of parameters; no memory is reserved for them.
  const SwinV2 model(config.model);
  if (arguments.json) {
    std::cout << Describe(arguments, config, model.parameters()).dump() << std::endl;
    return kExitSuccess;
  }
  PrintSummary(arguments, config, model.parameters());
  if (!arguments.check) PrintUnits(model.parameters());
  return kExitSuccess;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  swinfleet::Arguments arguments;
  CLI::App app(
      "Says whether a job can run, and what it consists of. Exit codes: 0 it can, 2 it can't (the\n"
      "reasons are on stderr).");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("job", arguments.job_file, "The job's YAML file")->required();
  app.add_flag("--check", arguments.check, "Only check the job, and say in short what it is");
  app.add_option("--ranks", arguments.ranks, "Ranks that it is to run on")
      ->check(CLI::Range(1, 65536));
  app.add_flag("--json", arguments.json, "JSON on stdout");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? swinfleet::kExitSuccess : swinfleet::kExitUsage;
  }
  try {
    return swinfleet::Plan(arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return swinfleet::kExitFailed;
  }
}
