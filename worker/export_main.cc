// swinfleet-export: a checkpoint's weights as one safetensors file with the official names.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "core/checkpoint/weight_source.h"
#include "core/checkpoint/weights_io.h"
#include "kernels/error.h"
#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"
#include "worker/exit_codes.h"
#include "worker/logging.h"
#include "worker/model_json.h"
#include "worker/normalisation.h"
#include "worker/program.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// `path` itself, or the newest good checkpoint of the run that it is the folder of.
std::unique_ptr<CheckpointReader> OpenCheckpoint(const std::string& path) {
  std::error_code code;
  if (!fs::is_directory(path, code)) {
    throw Error(path + " is no folder; name a checkpoint or a run folder");
  }
  std::vector<std::string> notes;
  const std::string dir = ResolveWeights(path, &notes);
  for (const std::string& line : notes) std::cerr << line << "\n";
  return CheckpointReader::Open(dir);
}

// How pictures are prepared, so that the file can be used without the job; nothing when the job is
// of another version.
std::map<std::string, std::string> Preprocessing(const CheckpointMeta& meta) {
  JobSpec spec;
  JobConfig config;
  if (!ParseJobYaml(meta.job_spec, "", &spec).ok() ||
      !ConfigOfStartedJob(spec, 0, &config).empty()) {
    return {};
  }
  NormaliseAsTrained(meta, &config.data);
  return {{kPreprocessingMetadata, PreprocessingToJson(config.data, meta.data)}};
}

int Export(const std::string& source, const std::string& out, bool force) {
  std::error_code code;
  if (!force && fs::exists(fs::symlink_status(out, code))) {
    throw Error(out + " exists; choose another name, or overwrite it with --force");
  }
  const std::unique_ptr<CheckpointReader> checkpoint = OpenCheckpoint(source);
  const ExportSummary summary = ExportWeights(*checkpoint, out, Preprocessing(checkpoint->meta()));
  std::cout << "wrote " << summary.tensors << " tensors with " << summary.elements
            << " parameters of step " << checkpoint->meta().step << " to " << out << std::endl;
  return kExitSuccess;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  std::string source;
  std::string out;
  bool force = false;
  CLI::App app(
      "Writes the weights of a checkpoint, or of a run's newest good one, to one safetensors file\n"
      "with the official names. Its metadata say the model (model_config), how pictures are\n"
      "prepared (data_config) and the step. Exit codes: 0 written, 1 failed, 2 wrong arguments.");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("source", source, "Folder of a checkpoint or of a run")->required();
  app.add_option("out", out, "The safetensors file to write")->required();
  app.add_flag("--force", force, "Overwrite the file if it exists");
  return swinfleet::RunProgram(&app, argc, argv,
                               [&] { return swinfleet::Export(source, out, force); });
}
