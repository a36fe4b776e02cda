// swinfleet-predict: the classes that trained weights see in pictures.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/picture_file.h"
#include "kernels/error.h"
#include "worker/exit_codes.h"
#include "worker/inference.h"
#include "worker/logging.h"
#include "worker/program.h"

namespace swinfleet {
namespace {

constexpr char kFooter[] =
    "Pictures (JPEG, PNG, WebP) are prepared as in the job's evaluation. Those of a model that "
    "was\n"
    "trained on idx files have the size of its training pictures, or --resample is given.\n"
    "\n"
    "--json: {\"weights\", \"step\" (null: not known), \"predictions\": [{\"picture\", \"top\": "
    "[{\"class\" (from 0),\n"
    "\"name\" (with --classes), \"probability\", \"logit\"}, ...]}, ...]}, pictures in the order "
    "given,\n"
    "classes by falling probability.\n"
    "\n"
    "Exit codes: 0 done, 1 failed (then nothing is printed), 2 wrong arguments.";

struct Arguments {
  InferenceOptions inference;
  std::vector<std::string> pictures;
  int64_t top = 5;
  std::string classes;
  bool resample = false;
  bool json = false;
};

// Files as a data set without labels.
class PictureList : public Dataset {
 public:
  // Pictures have to be of `height` by `width` pixels, unless those are 0.
  PictureList(const std::vector<std::string>& paths, int64_t height, int64_t width)
      : paths_(paths), height_(height), width_(width) {
    identity_.count = static_cast<int64_t>(paths.size());
    identity_.channels = 3;
  }
  const DataIdentity& identity() const override { return identity_; }
  void Get(int64_t index, Picture* picture) const override {
    DecodePicture(paths_[index], picture);
    picture->label = 0;
    if (height_ == 0 || (picture->height == height_ && picture->width == width_)) return;
    throw Error(paths_[index] + " has " + Size(picture->height, picture->width) +
                " pixels; the model was trained on pictures of " + Size(height_, width_) +
                " that were not resampled: resize it, or give --resample");
  }
  int64_t Label(int64_t) const override { return 0; }
  std::string Name(int64_t index) const override { return paths_[index]; }

 private:
  static std::string Size(int64_t height, int64_t width) {
    return std::to_string(width) + "x" + std::to_string(height);
  }

  const std::vector<std::string>& paths_;
  const int64_t height_;
  const int64_t width_;
  DataIdentity identity_;
};

struct Guess {
  int64_t label = 0;
  double probability = 0;
  float logit = 0;
};

// The `top` most likely classes; of equal ones the first comes first.
std::vector<Guess> MostLikely(std::span<const float> logits, int64_t top) {
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto count = std::min<int64_t>(top, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  const double largest = logits[order[0]];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  std::vector<Guess> guesses;
  for (int64_t i = 0; i < count; ++i) {
    const float logit = logits[order[i]];
    guesses.push_back({order[i], std::exp(logit - largest) / sum, logit});
  }
  return guesses;
}

// One name a line; as many as classes.
std::vector<std::string> ReadClassNames(const std::string& path, int64_t num_classes) {
  std::ifstream file(path);
  if (!file) throw Error("cannot read the class names in " + path);
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) line.pop_back();
    names.push_back(line);
  }
  if (static_cast<int64_t>(names.size()) == num_classes) return names;
  throw Error(path + " has " + std::to_string(names.size()) + " lines; the model has " +
              std::to_string(num_classes) + " classes, and needs a name on a line for each");
}

std::vector<std::vector<Guess>> Classify(const Arguments& arguments, Inference* inference) {
  DataConfig data = inference->config().data;
  data.broken_pictures = DataConfig::BrokenPictures::kFail;
  int64_t height = inference->picture_height(), width = inference->picture_width();
  if (arguments.resample || height == 0) {
    data.format = "imagefolder";
    height = width = 0;
  }
  const PictureList pictures(arguments.pictures, height, width);
  std::vector<std::vector<Guess>> guesses(arguments.pictures.size());
  inference->Classify(data, pictures, [&](int64_t index, std::span<const float> logits) {
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      throw Error("the model gives no finite numbers for " + arguments.pictures[index] +
                  (inference->config().train.dtype == DType::kF16 ? "; use --dtype fp32" : ""));
    }
    guesses[index] = MostLikely(logits, arguments.top);
  });
  return guesses;
}

nlohmann::json Describe(const Arguments& arguments, const Inference& inference,
                        const std::vector<std::string>& names,
                        const std::vector<std::vector<Guess>>& guesses) {
  nlohmann::json predictions = nlohmann::json::array();
  for (size_t i = 0; i < guesses.size(); ++i) {
    nlohmann::json top = nlohmann::json::array();
    for (const Guess& guess : guesses[i]) {
      nlohmann::json entry = {
          {"class", guess.label}, {"probability", guess.probability}, {"logit", guess.logit}};
      if (!names.empty()) entry["name"] = names[guess.label];
      top.push_back(entry);
    }
    predictions.push_back({{"picture", arguments.pictures[i]}, {"top", top}});
  }
  return {{"weights", inference.source()},
          {"step", inference.step() >= 0 ? nlohmann::json(inference.step()) : nlohmann::json()},
          {"predictions", predictions}};
}

int Predict(const Arguments& arguments) {
  Inference inference(arguments.inference);
  const JobConfig& config = inference.config();
  if (config.pretrain.on()) {
    throw UsageError(inference.source() +
                     " holds a model of pre-training, which knows no classes; fine-tune it first");
  }
  if (config.model.is_video()) {
    throw UsageError(inference.source() +
                     " holds a model of clips; swinfleet eval --format frames evaluates it");
  }
  const std::vector<std::string> names =
      arguments.classes.empty() ? std::vector<std::string>()
                                : ReadClassNames(arguments.classes, config.model.num_classes);
  const std::vector<std::vector<Guess>> guesses = Classify(arguments, &inference);
  if (arguments.json) {
    std::cout << Describe(arguments, inference, names, guesses)
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
              << std::endl;
    return kExitSuccess;
  }
  if (inference.normalisation() == "ImageNet") {
    std::cerr << "pictures are normalised with ImageNet's mean and deviation, since the weights do "
                 "not say how\n";
  }
  for (size_t i = 0; i < guesses.size(); ++i) {
    std::cout << arguments.pictures[i] << "\n";
    for (const Guess& guess : guesses[i]) {
      char number[64];
      std::snprintf(number, sizeof(number), "  %7.3f%%  %lld", 100 * guess.probability,
                    static_cast<long long>(guess.label));
      std::cout << number << (names.empty() ? "" : "  " + names[guess.label]) << "\n";
    }
  }
  std::cout << std::flush;
  return kExitSuccess;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  swinfleet::Arguments arguments;
  CLI::App app("Says which classes trained weights see in pictures.", "swinfleet predict");
  app.footer(swinfleet::kFooter);
  app.set_version_flag("--version", SWINFLEET_VERSION);
  swinfleet::AddInferenceOptions(&app, &arguments.inference);
  app.add_option("PICTURE", arguments.pictures, "Files")->required();
  app.add_option("--top", arguments.top, "Classes a picture")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->type_name("K");
  app.add_option("--classes", arguments.classes, "Names of the classes, one a line")
      ->type_name("FILE");
  app.add_flag("--resample", arguments.resample,
               "Resample pictures although the model was trained on pictures of one size");
  app.add_flag("--json", arguments.json, "One JSON object on one line");
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Predict(arguments); });
}
