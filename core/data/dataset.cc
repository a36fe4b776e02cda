#include "core/data/dataset.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "core/data/frame_folder.h"
#include "core/data/idx_dataset.h"
#include "core/data/image_folder.h"

namespace swinfleet {

std::string DataIdentity::ToString() const {
  char hash[32];
  std::snprintf(hash, sizeof(hash), "%016llx", static_cast<unsigned long long>(index_hash));
  const std::string size =
      height == 0 ? "various sizes" : std::to_string(height) + "x" + std::to_string(width);
  return std::to_string(count) + " pictures of " + size + ", " + std::to_string(channels) +
         (channels == 1 ? " channel, " : " channels, ") + std::to_string(num_classes) +
         " classes, index " + hash;
}

size_t DecodingMemory::Bytes(int64_t threads) const {
  const auto decoding = std::min(threads, static_cast<int64_t>(passing.size()));
  return std::accumulate(passing.begin(), passing.begin() + decoding,
                         static_cast<size_t>(threads) * picture);
}

int64_t Dataset::Frames(int64_t) const { return 1; }

void Dataset::GetFrame(int64_t index, int64_t frame, Picture* picture) const {
  CHECK_EQ(frame, 0) << "of a data set of pictures";
  Get(index, picture);
}

std::string Dataset::Name(int64_t index) const { return "sample " + std::to_string(index); }

int64_t Dataset::Label(int64_t index) const {
  Picture picture;
  Get(index, &picture);
  return picture.label;
}

void CheckLabels(const Dataset& dataset, int64_t num_classes) {
  if (dataset.identity().num_classes <= num_classes) return;
  for (int64_t i = 0; i < dataset.identity().count; ++i) {
    const int64_t label = dataset.Label(i);
    if (label >= 0 && label < num_classes) continue;
    throw Error("sample " + std::to_string(i) + " has label " + std::to_string(label) +
                ", but the model has " + std::to_string(num_classes) +
                " classes (labels count from 0); the data needs model.num_classes of at least " +
                std::to_string(dataset.identity().num_classes));
  }
}

void CheckSameClasses(const Dataset& train, const Dataset& eval) {
  const auto trained = train.ClassNames();
  const auto evaluated = eval.ClassNames();
  if (trained.empty() || evaluated.empty()) return;
  const auto differ =
      std::mismatch(trained.begin(), trained.end(), evaluated.begin(), evaluated.end());
  if (differ.first == trained.end() && differ.second == evaluated.end()) return;
  const auto name = [](auto place, auto end) {
    return place == end ? std::string("missing") : "\"" + *place + "\"";
  };
  throw Error("the classes of the two splits differ: label " +
              std::to_string(differ.first - trained.begin()) + " is " +
              name(differ.first, trained.end()) + " in data.train_split (" +
              std::to_string(trained.size()) + " classes) and " +
              name(differ.second, evaluated.end()) + " in data.eval_split (" +
              std::to_string(evaluated.size()) +
              " classes); both need the same folders, an absent class one with a picture in it");
}

std::unique_ptr<Dataset> OpenDataset(const DataConfig& config, const std::string& split) {
  if (config.format == "idx") return OpenIdxDataset(config.path, split);
  if (config.format == "imagefolder") return OpenImageFolder(config.path, split);
  if (config.format == "frames") return OpenFrameFolder(config.path, split);
  throw Error("data.format \"" + config.format +
              "\" is not supported; supported: idx, imagefolder, frames");
}

}  // namespace swinfleet
