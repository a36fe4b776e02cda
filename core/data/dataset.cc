#include "core/data/dataset.h"

#include <cstdio>

#include "core/data/idx_dataset.h"
#include "kernels/error.h"

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

std::unique_ptr<Dataset> OpenDataset(const DataConfig& config, const std::string& split) {
  if (config.format == "idx") return OpenIdxDataset(config.path, split);
  throw Error("data.format \"" + config.format + "\" is not supported; supported: idx");
}

}  // namespace swinfleet
