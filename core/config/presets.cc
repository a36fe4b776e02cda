// Named models: timm's names (timm/models/swin_transformer_v2.py) for the models that the official
// code published (configs/swinv2 of microsoft/Swin-Transformer).
//
// Dimensions and numbers of classes agree in both places. The drop path rate does not: timm builds
// every model with 0.1, a rate that nobody trained them with. These presets are for training, so
// they take the official configurations' rates: 0.2, 0.3 and 0.5 for tiny, small and base trained
// on ImageNet-1K, and 0.2 for all that saw ImageNet-22K.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

struct Size {
  int64_t embed_dim;
  // Blocks of the third stage; the others have two.
  int64_t depth;
  // Heads of the first stage, doubled from stage to stage: 32 channels a head.
  int64_t heads;
};

constexpr Size kTiny = {96, 6, 3};
constexpr Size kSmall = {96, 18, 3};
constexpr Size kBase = {128, 18, 4};
constexpr Size kLarge = {192, 18, 6};

constexpr int64_t kImageNet1K = 1000;
constexpr int64_t kImageNet22K = 21841;

struct Preset {
  const char* name;
  Size size;
  int64_t image;
  int64_t window;
  // Fine-tuned from a model with window 12 on 192 pixels (whose last stage had a window of 6).
  bool from_window12;
  int64_t num_classes;
  double drop_path_rate;
};

constexpr Preset kPresets[] = {
    {"swinv2_tiny_window8_256", kTiny, 256, 8, false, kImageNet1K, 0.2},
    {"swinv2_tiny_window16_256", kTiny, 256, 16, false, kImageNet1K, 0.2},
    {"swinv2_small_window8_256", kSmall, 256, 8, false, kImageNet1K, 0.3},
    {"swinv2_small_window16_256", kSmall, 256, 16, false, kImageNet1K, 0.3},
    {"swinv2_base_window8_256", kBase, 256, 8, false, kImageNet1K, 0.5},
    {"swinv2_base_window16_256", kBase, 256, 16, false, kImageNet1K, 0.5},
    {"swinv2_base_window12_192", kBase, 192, 12, false, kImageNet22K, 0.2},
    {"swinv2_base_window12to16_192to256", kBase, 256, 16, true, kImageNet1K, 0.2},
    {"swinv2_base_window12to24_192to384", kBase, 384, 24, true, kImageNet1K, 0.2},
    {"swinv2_large_window12_192", kLarge, 192, 12, false, kImageNet22K, 0.2},
    {"swinv2_large_window12to16_192to256", kLarge, 256, 16, true, kImageNet1K, 0.2},
    {"swinv2_large_window12to24_192to384", kLarge, 384, 24, true, kImageNet1K, 0.2},
};

ModelConfig Build(const Preset& preset) {
  ModelConfig model;
  model.image_h = preset.image;
  model.image_w = preset.image;
  model.num_classes = preset.num_classes;
  model.embed_dim = preset.size.embed_dim;
  model.depths = {2, 2, preset.size.depth, 2};
  const int64_t heads = preset.size.heads;
  model.num_heads = {heads, 2 * heads, 4 * heads, 8 * heads};
  model.window_size = preset.window;
  if (preset.from_window12) model.pretrained_window_sizes = {12, 12, 12, 6};
  model.drop_path_rate = preset.drop_path_rate;
  return model;
}

}  // namespace

std::optional<ModelConfig> ModelPreset(const std::string& name) {
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return Build(preset);
  }
  return std::nullopt;
}

std::vector<std::string> ModelPresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

}  // namespace swinfleet
