// swinfleet-export: a checkpoint's weights as one safetensors file with the official names.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/weights_io.h"
#include "kernels/error.h"
#include "worker/exit_codes.h"
#include "worker/logging.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// `path` itself, or the newest good checkpoint of the run that it is the folder of.
std::unique_ptr<CheckpointReader> OpenCheckpoint(const std::string& path) {
  std::error_code code;
  if (!fs::is_directory(path, code)) {
    throw Error(path + " is no folder; name a checkpoint or a run folder");
  }
  if (fs::exists(path + "/manifest.json", code)) return CheckpointReader::Open(path);
  if (!fs::is_directory(CheckpointsFolder(path), code)) {
    throw Error(path + " holds neither manifest.json nor a folder checkpoints; name a checkpoint " +
                "or a run folder");
  }
  ResumeChoice choice = FindNewestGood(path, NextAttempt(path), "");
  for (const std::string& line : choice.LogLines(10)) std::cerr << line << "\n";
  if (choice.reader == nullptr) throw Error("the run in " + path + " has no good checkpoint");
  return std::move(choice.reader);
}

int Export(const std::string& source, const std::string& out, bool force) {
  std::error_code code;
  if (!force && fs::exists(fs::symlink_status(out, code))) {
    throw Error(out + " exists; choose another name, or overwrite it with --force");
  }
  const std::unique_ptr<CheckpointReader> checkpoint = OpenCheckpoint(source);
  const ExportSummary summary = ExportWeights(*checkpoint, out);
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
      "with the official names. Exit codes: 0 written, 1 failed, 2 wrong arguments.");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("source", source, "Folder of a checkpoint or of a run")->required();
  app.add_option("out", out, "The safetensors file to write")->required();
  app.add_flag("--force", force, "Overwrite the file if it exists");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? swinfleet::kExitSuccess : swinfleet::kExitUsage;
  }
  try {
    return swinfleet::Export(source, out, force);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return swinfleet::kExitFailed;
  }
}
