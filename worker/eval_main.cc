// swinfleet-eval: accuracy and loss of trained weights on a split of a data set.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/names.h"
#include "core/data/dataset.h"
#include "core/data/image_folder.h"
#include "kernels/error.h"
#include "worker/exit_codes.h"
#include "worker/inference.h"
#include "worker/logging.h"
#include "worker/model_json.h"
#include "worker/program.h"

namespace swinfleet {
namespace {

constexpr char kFooter[] =
    "The loss is cross entropy without smoothing. Weights of pre-training have a loss alone.\n"
    "\n"
    "--json: {\"weights\", \"step\" (null: not known), \"model\" (its dimensions), \"data\", "
    "\"split\",\n"
    "\"pictures\", \"replaced_pictures\" (broken ones that others stood for), \"top1\", \"top5\"\n"
    "(shares, 0 to 1; null in pre-training), \"loss\", \"dtype\", \"mean\", \"std\",\n"
    "\"normalisation\" (where those come from: checkpoint, file, arguments or ImageNet),\n"
    "\"warnings\" (a list of lines), \"seconds\"}.\n"
    "\n"
    "Exit codes: 0 evaluated, 1 failed, 2 wrong arguments.";

struct Arguments {
  InferenceOptions inference;
  std::string data;
  std::string format;
  std::string split;
  std::string broken;
  int64_t frame_interval = 0;
  bool json = false;
};

// The job's data, but for what the arguments say.
DataConfig ChooseData(const Arguments& arguments, const Inference& inference) {
  DataConfig data = inference.config().data;
  const bool of_job = !data.path.empty();
  if (!arguments.data.empty()) data.path = arguments.data;
  if (data.path.empty()) throw UsageError("the weights name no data set; give --data DIR");
  if (!arguments.format.empty()) data.format = arguments.format;
  if (!arguments.split.empty()) {
    data.eval_split = arguments.split;
  } else if (!of_job) {
    data.eval_split = UsualEvalSplit(data.format);
  }
  if (arguments.frame_interval > 0) data.frame_interval = arguments.frame_interval;
  if (!arguments.broken.empty()) {
    data.broken_pictures = arguments.broken == "fail" ? DataConfig::BrokenPictures::kFail
                                                      : DataConfig::BrokenPictures::kReplace;
  }
  const bool clips = data.format == "frames";
  if (clips != inference.config().model.is_video()) {
    throw UsageError(clips ? "--format frames holds clips, and the model is one of pictures"
                           : "the model is one of clips; give --format frames");
  }
  return data;
}

// The class folders that the model was trained with; empty where they are not known or out of
// reach.
std::vector<std::string> TrainedClasses(const DataConfig& job) {
  if (job.path.empty() || job.format == "idx") return {};
  try {
    return ReadClasses(std::filesystem::path(job.path) / job.train_split, "<class>");
  } catch (const Error&) {
    return {};
  }
}

// A label is the place of its folder in the sorted names: with other folders than in training it
// is another class. More of them than the model has are an error, see CheckLabels.
std::vector<std::string> ClassWarnings(const Inference& inference, const DataConfig& data,
                                       const Dataset& dataset) {
  const auto names = dataset.ClassNames();
  if (names.empty() || inference.config().pretrain.on()) return {};
  const DataConfig& job = inference.config().data;
  const std::vector<std::string> trained = TrainedClasses(job);
  const int64_t classes = inference.config().model.num_classes;
  std::string what;
  if (static_cast<int64_t>(names.size()) < classes) {
    what = "split " + data.eval_split + " has " + std::to_string(names.size()) +
           " class folders, the model has " + std::to_string(classes) + " classes";
  }
  const auto [was, is] = std::mismatch(trained.begin(), trained.end(), names.begin(), names.end());
  if (was != trained.end() && is != names.end()) {
    what += (what.empty() ? "" : "; ") + ("label " + std::to_string(was - trained.begin())) +
            " is \"" + *is + "\" in split " + data.eval_split + " and was \"" + *was + "\" in " +
            job.path + "/" + job.train_split;
  }
  if (what.empty()) return {};
  return {what +
          ": labels are the places of the folders in their sorted names, so pictures may be " +
          "held against wrong classes; a class without pictures needs a folder with one in it"};
}

nlohmann::json Describe(const Inference& inference, const DataConfig& data,
                        const Evaluation& evaluation, const std::vector<std::string>& warnings,
                        double seconds) {
  const JobConfig& config = inference.config();
  const bool classes = !config.pretrain.on();
  const auto known = [](bool is_known, double value) {
    return is_known ? nlohmann::json(value) : nlohmann::json();
  };
  nlohmann::json result;
  result["weights"] = inference.source();
  result["step"] = inference.step() >= 0 ? nlohmann::json(inference.step()) : nlohmann::json();
  result["model"] = nlohmann::json::parse(ModelConfigToJson(config.model, config.pretrain));
  result["data"] = data.path;
  result["split"] = data.eval_split;
  result["pictures"] = evaluation.pictures;
  result["replaced_pictures"] = evaluation.replaced_pictures;
  result["top1"] = known(classes, evaluation.top1);
  result["top5"] = known(classes, evaluation.top5);
  result["loss"] = evaluation.loss;
  result["dtype"] = NameIn(DTypeNames(), config.train.dtype);
  result["mean"] = data.mean;
  result["std"] = data.std;
  result["normalisation"] = inference.normalisation();
  result["warnings"] = warnings;
  result["seconds"] = seconds;
  return result;
}

void Print(const Inference& inference, const DataConfig& data, const Evaluation& evaluation) {
  const ImportReport& report = inference.report();
  for (const std::string& note : report.notes) std::cerr << "note: " << note << "\n";
  if (!report.transferred.empty() || !report.inflated.empty()) {
    std::cerr << report.ToString() << "\n";
  }
  if (inference.normalisation() == "ImageNet") {
    std::cerr << "pictures are normalised with ImageNet's mean and deviation, since the weights do "
                 "not say how\n";
  }
  if (!inference.config().pretrain.on()) {
    std::printf("top-1 %.2f%%, top-5 %.2f%%, ", 100 * evaluation.top1, 100 * evaluation.top5);
  }
  std::printf("loss %.6g over %lld pictures of %s", evaluation.loss,
              static_cast<long long>(evaluation.pictures), data.eval_split.c_str());
  if (evaluation.replaced_pictures > 0) {
    std::printf(", %lld of them broken, others stood for them",
                static_cast<long long>(evaluation.replaced_pictures));
  }
  std::printf("\n");
}

int Eval(const Arguments& arguments) {
  Inference inference(arguments.inference);
  const DataConfig data = ChooseData(arguments, inference);
  const std::unique_ptr<Dataset> dataset = OpenDataset(data, data.eval_split);
  if (!inference.config().pretrain.on()) {
    try {
      CheckLabels(*dataset, inference.config().model.num_classes);
    } catch (const Error& error) {
      throw Error("split " + data.eval_split + " of " + data.path + ": " + error.what());
    }
  }
  const std::vector<std::string> warnings = ClassWarnings(inference, data, *dataset);
  for (const std::string& warning : warnings) std::cerr << "warning: " << warning << "\n";
  const auto begin = std::chrono::steady_clock::now();
  const Evaluation evaluation = inference.Evaluate(data, *dataset);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (arguments.json) {
    std::cout << Describe(inference, data, evaluation, warnings, seconds)
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
              << std::endl;
  } else {
    Print(inference, data, evaluation);
  }
  return kExitSuccess;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  swinfleet::Arguments arguments;
  CLI::App app(
      "Evaluates trained weights on a split of a data set, as a job's evaluation does.\n"
      "Windows and picture sizes other than the trained ones are transferred.",
      "swinfleet eval");
  app.footer(std::string(swinfleet::kModelHelp) + swinfleet::kFooter);
  app.set_version_flag("--version", SWINFLEET_VERSION);
  swinfleet::AddInferenceOptions(&app, &arguments.inference);
  app.add_option("--data", arguments.data, "Folder of the data set [the job's]")->type_name("DIR");
  app.add_option("--format", arguments.format, "idx, imagefolder or frames [the job's, else idx]")
      ->check(CLI::IsMember({"idx", "imagefolder", "frames"}))
      ->type_name("NAME");
  app.add_option("--split", arguments.split, "[the job's, else t10k of idx and val of folders]")
      ->type_name("NAME");
  app.add_option("--frame-interval", arguments.frame_interval,
                 "Of clips: frames between two frames [as in training, else 2]")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  app.add_option("--broken-pictures", arguments.broken,
                 "A picture that can't be decoded: fail, or replace by another [as in training, "
                 "else fail]")
      ->check(CLI::IsMember({"fail", "replace"}))
      ->type_name("NAME");
  app.add_flag("--json", arguments.json, "One JSON object on one line");
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Eval(arguments); });
}
