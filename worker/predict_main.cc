// swinfleet-predict: the classes that trained weights see in pictures or clips.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/frame_folder.h"
#include "core/data/picture_file.h"
#include "kernels/error.h"
#include "worker/exit_codes.h"
#include "worker/inference.h"
#include "worker/logging.h"
#include "worker/program.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr char kFooter[] =
    "Pictures (JPEG, PNG, WebP) are prepared as in the job's evaluation. Those of a model that "
    "was\n"
    "trained on idx files have the size of its training pictures, or --resample is given.\n"
    "A model of clips takes folders of frames: pictures whose names end in numbers without gaps\n"
    "(img_00001.jpg). As in evaluation the middle ones are taken, one every --frame-interval; a\n"
    "clip that is too short is repeated.\n"
    "\n"
    "--json: {\"weights\", \"step\" (null: not known), \"predictions\": [{\"picture\" (of clips "
    "the\n"
    "folder), \"top\": [{\"class\" (from 0), \"name\" (with --classes), \"probability\", "
    "\"logit\"},\n"
    "...]}, ...]}, in the order given, classes by falling probability.\n"
    "\n"
    "Exit codes: 0 done, 1 failed (then nothing is printed), 2 wrong arguments.";

struct Arguments {
  InferenceOptions inference;
  // Pictures, or folders of clips.
  std::vector<std::string> inputs;
  int64_t top = 5;
  std::string classes;
  // 0: the job's.
  int64_t frame_interval = 0;
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

// Folders of frames as a data set without labels.
class ClipList : public Dataset {
 public:
  // Throws Error as ReadClip.
  explicit ClipList(const std::vector<std::string>& folders) : folders_(folders) {
    for (const std::string& folder : folders) frames_.push_back(ReadClip(folder));
    identity_.count = static_cast<int64_t>(folders.size());
    identity_.channels = 3;
  }
  const DataIdentity& identity() const override { return identity_; }
  void Get(int64_t index, Picture* picture) const override { GetFrame(index, 0, picture); }
  int64_t Frames(int64_t index) const override {
    return static_cast<int64_t>(frames_[index].size());
  }
  void GetFrame(int64_t index, int64_t frame, Picture* picture) const override {
    DecodePicture((fs::path(folders_[index]) / frames_[index][frame]).string(), picture);
    picture->label = 0;
  }
  int64_t Label(int64_t) const override { return 0; }
  std::string Name(int64_t index) const override { return folders_[index]; }

 private:
  const std::vector<std::string>& folders_;
  std::vector<std::vector<std::string>> frames_;
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

// A model of clips takes folders, one of pictures takes files. What does not exist is found later.
void CheckInputs(const Arguments& arguments, const Inference& inference) {
  const bool clips = inference.config().model.is_video();
  if (arguments.frame_interval > 0 && !clips) {
    throw UsageError("--frame-interval is for clips; " + inference.source() +
                     " holds a model of pictures");
  }
  if (arguments.resample && clips) {
    throw UsageError("--resample is for pictures; " + inference.source() +
                     " holds a model of clips, whose frames are always resampled");
  }
  for (const std::string& input : arguments.inputs) {
    std::error_code code;
    const fs::file_status status = fs::status(input, code);
    if (!fs::exists(status) || fs::is_directory(status) == clips) continue;
    throw UsageError(clips ? input + " is no folder, and " + inference.source() +
                                 " holds a model of clips; name the folder of a clip's frames"
                           : input + " is a folder, and " + inference.source() +
                                 " holds a model of pictures; name the files in it");
  }
}

// The inputs as a data set; `data` is made to say how they are prepared.
std::unique_ptr<Dataset> OpenInputs(const Arguments& arguments, const Inference& inference,
                                    DataConfig* data) {
  if (inference.config().model.is_video()) {
    data->format = "frames";
    if (arguments.frame_interval > 0) data->frame_interval = arguments.frame_interval;
    return std::make_unique<ClipList>(arguments.inputs);
  }
  int64_t height = inference.picture_height(), width = inference.picture_width();
  if (arguments.resample || height == 0) {
    data->format = "imagefolder";
    height = width = 0;
  }
  return std::make_unique<PictureList>(arguments.inputs, height, width);
}

std::vector<std::vector<Guess>> Classify(const Arguments& arguments, Inference* inference) {
  DataConfig data = inference->config().data;
  data.broken_pictures = DataConfig::BrokenPictures::kFail;
  const std::unique_ptr<Dataset> inputs = OpenInputs(arguments, *inference, &data);
  std::vector<std::vector<Guess>> guesses(arguments.inputs.size());
  inference->Classify(data, *inputs, [&](int64_t index, std::span<const float> logits) {
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      throw Error("the model gives no finite numbers for " + arguments.inputs[index] +
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
    predictions.push_back({{"picture", arguments.inputs[i]}, {"top", top}});
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
  CheckInputs(arguments, inference);
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
    std::cout << arguments.inputs[i] << "\n";
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
  CLI::App app("Says which classes trained weights see in pictures or clips.", "swinfleet predict");
  app.footer(std::string(swinfleet::kModelHelp) + swinfleet::kFooter);
  app.set_version_flag("--version", SWINFLEET_VERSION);
  swinfleet::AddInferenceOptions(&app, &arguments.inference);
  app.add_option("PICTURE|CLIP", arguments.inputs,
                 "Files; of a model of clips, folders of a clip's frames")
      ->required();
  app.add_option("--top", arguments.top, "Classes a picture or clip")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->type_name("K");
  app.add_option("--classes", arguments.classes, "Names of the classes, one a line")
      ->type_name("FILE");
  app.add_flag("--resample", arguments.resample,
               "Resample pictures although the model was trained on pictures of one size");
  app.add_option("--frame-interval", arguments.frame_interval,
                 "Of clips: frames between two frames [as in training, else 2]")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  app.add_flag("--json", arguments.json, "One JSON object on one line");
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Predict(arguments); });
}
