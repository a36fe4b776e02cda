// Named models, for training.
//
// Swin V1 and V2 have timm's names (timm/models/swin_transformer.py, swin_transformer_v2.py), and
// the dimensions and numbers of classes of the official configurations (configs/swin,
// configs/swinv2 of microsoft/Swin-Transformer), which agree with timm's. The drop path rate does
// not: timm builds every model with 0.1, a rate that nobody trained them with. So the rates are the
// official ones: 0.2, 0.3 and 0.5 for tiny, small and base trained on ImageNet-1K, and 0.2 for all
// that saw ImageNet-22K.
//
// Swin V2's huge and giant models were never published as code: they follow the paper (Liu et al.
// 2022, section 3.4: channels, depths, and a LayerNorm on the main branch after every 6 blocks),
// and are named in timm's manner.
//
// Video Swin has the names of its official configurations (configs/recognition/swin of
// SwinTransformer/Video-Swin-Transformer), MAE's encoders those of facebookresearch/mae with the
// rates of its fine-tuning.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

struct Size {
  int64_t embed_dim;
  // Blocks of the third stage; the first two have two.
  int64_t depth;
  // Heads of the first stage, doubled from stage to stage: 32 channels a head.
  int64_t heads;
  int64_t extra_norm_period = 0;
  int64_t last_depth = 2;
};

constexpr Size kTiny = {96, 6, 3};
constexpr Size kSmall = {96, 18, 3};
constexpr Size kBase = {128, 18, 4};
constexpr Size kLarge = {192, 18, 6};
constexpr Size kHuge = {352, 18, 11, 6};
constexpr Size kGiant = {512, 42, 16, 6, 4};

constexpr int64_t kImageNet1K = 1000;
constexpr int64_t kImageNet22K = 21841;
constexpr int64_t kKinetics400 = 400;
constexpr int64_t kKinetics600 = 600;
constexpr int64_t kSomethingV2 = 174;

struct SwinV1Preset {
  const char* name;
  Size size;
  int64_t image;
  int64_t window;
  double drop_path_rate;
};

constexpr SwinV1Preset kSwinV1[] = {
    {"swin_tiny_patch4_window7_224", kTiny, 224, 7, 0.2},
    {"swin_small_patch4_window7_224", kSmall, 224, 7, 0.3},
    {"swin_base_patch4_window7_224", kBase, 224, 7, 0.5},
    {"swin_base_patch4_window12_384", kBase, 384, 12, 0.5},
    // These were only trained from ImageNet-22K.
    {"swin_large_patch4_window7_224", kLarge, 224, 7, 0.2},
    {"swin_large_patch4_window12_384", kLarge, 384, 12, 0.2},
};

struct SwinV2Preset {
  const char* name;
  Size size;
  int64_t image;
  int64_t window;
  // Fine-tuned from a model with window 12 on 192 pixels (whose last stage had a window of 6).
  bool from_window12;
  int64_t num_classes;
  double drop_path_rate;
};

constexpr SwinV2Preset kSwinV2[] = {
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
    {"swinv2_huge_window12_192", kHuge, 192, 12, false, kImageNet22K, 0.3},
    {"swinv2_huge_window12to40_192to640", kHuge, 640, 40, true, kImageNet1K, 0.3},
    {"swinv2_huge_window12to32_192to1024", kHuge, 1024, 32, true, kImageNet1K, 0.3},
    {"swinv2_huge_window12to32_192to1536", kHuge, 1536, 32, true, kImageNet1K, 0.3},
    {"swinv2_giant_window12_192", kGiant, 192, 12, false, kImageNet22K, 0.3},
    {"swinv2_giant_window12to40_192to640", kGiant, 640, 40, true, kImageNet1K, 0.3},
    {"swinv2_giant_window12to32_192to1024", kGiant, 1024, 32, true, kImageNet1K, 0.3},
    {"swinv2_giant_window12to32_192to1536", kGiant, 1536, 32, true, kImageNet1K, 0.3},
};

// Clips of 32 frames of 224 pixels, in patches of 2x4x4.
struct VideoPreset {
  const char* name;
  Size size;
  int64_t window_frames;
  int64_t num_classes;
  double drop_path_rate;
};

constexpr VideoPreset kVideo[] = {
    {"swin_tiny_patch244_window877_kinetics400_1k", kTiny, 8, kKinetics400, 0.1},
    {"swin_small_patch244_window877_kinetics400_1k", kSmall, 8, kKinetics400, 0.1},
    {"swin_base_patch244_window877_kinetics400_1k", kBase, 8, kKinetics400, 0.3},
    {"swin_base_patch244_window877_kinetics400_22k", kBase, 8, kKinetics400, 0.2},
    {"swin_base_patch244_window877_kinetics600_22k", kBase, 8, kKinetics600, 0.2},
    {"swin_base_patch244_window1677_sthv2", kBase, 16, kSomethingV2, 0.4},
};

struct VitPreset {
  const char* name;
  int64_t patch;
  int64_t embed_dim;
  int64_t depth;
  int64_t heads;
  double drop_path_rate;
};

constexpr VitPreset kVit[] = {
    {"mae_vit_base_patch16", 16, 768, 12, 12, 0.1},
    {"mae_vit_large_patch16", 16, 1024, 24, 16, 0.2},
    {"mae_vit_huge_patch14", 14, 1280, 32, 16, 0.3},
};

ModelConfig BuildSwin(const Size& size) {
  ModelConfig model;
  model.embed_dim = size.embed_dim;
  model.depths = {2, 2, size.depth, size.last_depth};
  model.num_heads = {size.heads, 2 * size.heads, 4 * size.heads, 8 * size.heads};
  model.extra_norm_period = size.extra_norm_period;
  return model;
}

ModelConfig Build(const SwinV1Preset& preset) {
  ModelConfig model = BuildSwin(preset.size);
  model.arch = Architecture::kSwinV1;
  model.image_h = model.image_w = preset.image;
  model.num_classes = kImageNet1K;
  model.window_size = preset.window;
  model.drop_path_rate = preset.drop_path_rate;
  return model;
}

ModelConfig Build(const SwinV2Preset& preset) {
  ModelConfig model = BuildSwin(preset.size);
  model.arch = Architecture::kSwinV2;
  model.image_h = model.image_w = preset.image;
  model.num_classes = preset.num_classes;
  model.window_size = preset.window;
  if (preset.from_window12) model.pretrained_window_sizes = {12, 12, 12, 6};
  model.drop_path_rate = preset.drop_path_rate;
  return model;
}

ModelConfig Build(const VideoPreset& preset) {
  ModelConfig model = BuildSwin(preset.size);
  model.arch = Architecture::kVideoSwin;
  model.num_classes = preset.num_classes;
  model.frames = 32;
  model.patch_frames = 2;
  model.window_frames = preset.window_frames;
  model.drop_path_rate = preset.drop_path_rate;
  return model;
}

ModelConfig Build(const VitPreset& preset) {
  ModelConfig model;
  model.arch = Architecture::kVit;
  model.patch_size = preset.patch;
  model.embed_dim = preset.embed_dim;
  model.depths = {preset.depth};
  model.num_heads = {preset.heads};
  // Attention is global: one window that is the whole picture.
  model.window_size = model.image_h / preset.patch;
  model.patch_norm = false;
  model.layer_norm_eps = 1e-6;
  model.drop_path_rate = preset.drop_path_rate;
  return model;
}

// The preset of that name in one of the tables.
template <typename Preset, size_t kCount>
bool Find(const Preset (&presets)[kCount], const std::string& name,
          std::optional<ModelConfig>* model) {
  for (const Preset& preset : presets) {
    if (name != preset.name) continue;
    *model = Build(preset);
    return true;
  }
  return false;
}

template <typename Preset, size_t kCount>
void AppendNames(const Preset (&presets)[kCount], std::vector<std::string>* names) {
  for (const Preset& preset : presets) names->emplace_back(preset.name);
}

}  // namespace

std::optional<ModelConfig> ModelPreset(const std::string& name) {
  std::optional<ModelConfig> model;
  if (Find(kSwinV1, name, &model) || Find(kSwinV2, name, &model) || Find(kVideo, name, &model)) {
    return model;
  }
  Find(kVit, name, &model);
  return model;
}

std::vector<std::string> ModelPresetNames() {
  std::vector<std::string> names;
  AppendNames(kSwinV1, &names);
  AppendNames(kSwinV2, &names);
  AppendNames(kVideo, &names);
  AppendNames(kVit, &names);
  return names;
}

}  // namespace swinfleet
