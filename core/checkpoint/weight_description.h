// What model a file's tensors belong to, as far as their names and shapes tell.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHT_DESCRIPTION_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHT_DESCRIPTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/weight_source.h"
#include "core/config/job_config.h"

namespace swinfleet {

struct WeightsDescription {
  // Nothing when the tensors are of no model that is known here.
  std::optional<Architecture> arch;
  // The rest is 0 or empty where it can't be told.
  int64_t in_chans = 0;
  int64_t patch_size = 0;
  int64_t patch_frames = 0;
  int64_t embed_dim = 0;
  std::vector<int64_t> depths;
  std::vector<int64_t> num_heads;
  // Of Swin V1's first stage.
  int64_t window_size = 0;
  int64_t num_classes = 0;
  bool pretrained = false;
  // For tensors of other programs: whose they are, and what would do instead.
  std::string foreign;

  // "Swin V2 of embed_dim 96, depths [2, 2, 6, 2], heads [3, 6, 12, 24], 1000 classes".
  std::string ToString() const;
  // Whether the model has the same blocks: windows, picture size and classes may differ.
  bool Fits(const ModelConfig& model) const;
  // Names of the presets that fit.
  std::vector<std::string> FittingPresets() const;
};

WeightsDescription DescribeWeights(const std::vector<WeightTensor>& tensors);
// The same for a model.
WeightsDescription DescribeModel(const ModelConfig& model);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHT_DESCRIPTION_H_
