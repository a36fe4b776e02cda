// What can be known to be wrong with a model's dimensions.
#include <algorithm>

#include "core/config/errors.h"

namespace swinfleet {
namespace {

// Upper bounds. They are far above any real model, and low enough that no size computed from them
// overflows 64 bits.
constexpr int64_t kMaxChans = 1024;
constexpr int64_t kMaxClasses = int64_t{1} << 20;
constexpr int64_t kMaxPatch = 256;
constexpr int64_t kMaxEmbedDim = 8192;
constexpr int64_t kMaxStageDim = 65536;
constexpr int kMaxStages = 8;
constexpr double kMaxMlpRatio = 64;
constexpr int64_t kMaxFrames = 4096;

void CheckModelRanges(const ModelConfig& model, Errors& errors) {
  errors.CheckRange("model.image_size (height)", model.image_h, 1, kMaxImage);
  errors.CheckRange("model.image_size (width)", model.image_w, 1, kMaxImage);
  errors.CheckRange("model.in_chans", model.in_chans, 1, kMaxChans);
  errors.CheckRange("model.num_classes", model.num_classes, 1, kMaxClasses);
  errors.CheckRange("model.patch_size", model.patch_size, 1, kMaxPatch);
  errors.CheckRange("model.embed_dim", model.embed_dim, 1, kMaxEmbedDim);
  errors.CheckRange("model.window_size", model.window_size, 1, kMaxWindow);
  errors.CheckRange("model.extra_norm_period", model.extra_norm_period, 0, kMaxDepth);
  errors.CheckNumber("model.mlp_ratio", model.mlp_ratio,
                     model.mlp_ratio > 0 && model.mlp_ratio <= kMaxMlpRatio,
                     "above 0 and at most 64");
  errors.CheckNumber("model.drop_path_rate", model.drop_path_rate,
                     model.drop_path_rate >= 0 && model.drop_path_rate < 1,
                     "at least 0 and below 1");
  errors.CheckNumber("model.layer_norm_eps", model.layer_norm_eps,
                     model.layer_norm_eps > 0 && model.layer_norm_eps < 1, "above 0 and below 1");
}

void CheckStageLists(const ModelConfig& model, Errors& errors) {
  const size_t stages = model.depths.size();
  if (stages < 1 || stages > kMaxStages) {
    errors.Add("model.depths has ", stages, " entries, one a stage; it must have from 1 to ",
               kMaxStages);
  }
  for (size_t i = 0; i < stages; ++i) {
    if (model.depths[i] < 1 || model.depths[i] > kMaxDepth) {
      errors.Add("model.depths of stage ", i, " is ", model.depths[i], "; it must be from 1 to ",
                 kMaxDepth);
    }
  }
  if (model.num_heads.size() != stages) {
    errors.Add("model.num_heads has ", model.num_heads.size(), " entries and model.depths has ",
               stages, "; both need one a stage");
  }
  const size_t pretrained = model.pretrained_window_sizes.size();
  if (pretrained != 0 && pretrained != stages) {
    errors.Add("model.pretrained_window_sizes has ", pretrained, " entries; it needs none or one a",
               " stage, that is ", stages);
  }
  for (size_t i = 0; i < pretrained; ++i) {
    const int64_t window = model.pretrained_window_sizes[i];
    if (window == 0 || (window >= 2 && window <= 4 * kMaxWindow)) continue;
    errors.Add("model.pretrained_window_sizes of stage ", i, " is ", window,
               "; it must be 0 (the stage's own window) or from 2 to ", 4 * kMaxWindow,
               " (coordinates are divided by the window less 1)");
  }
}

void CheckHeads(const ModelConfig& model, Errors& errors) {
  if (model.StageDim(model.num_stages() - 1) > kMaxStageDim) {
    errors.Add("model.embed_dim ", model.embed_dim, " doubles from stage to stage to ",
               model.StageDim(model.num_stages() - 1), " channels; at most ", kMaxStageDim,
               " are possible");
    return;
  }
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t dim = model.StageDim(stage);
    const int64_t heads = model.num_heads[stage];
    if (heads >= 1 && dim % heads == 0) continue;
    errors.Add("model.num_heads of stage ", stage, " is ", heads, ", which does not divide its ",
               dim, " channels; near it ", Join(NearDivisors(dim, heads)), " would");
  }
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    if (static_cast<double>(model.StageDim(stage)) * model.mlp_ratio >= 1) continue;
    errors.Add("model.mlp_ratio ", model.mlp_ratio, " leaves stage ", stage, " with ",
               model.StageDim(stage), " channels no hidden channel");
    return;
  }
}

void CheckMaps(const ModelConfig& model, Errors& errors) {
  const int64_t grain = model.patch_size << (model.num_stages() - 1);
  if (model.image_h % grain != 0 || model.image_w % grain != 0) {
    const int64_t up_h = (model.image_h + grain - 1) / grain * grain;
    const int64_t up_w = (model.image_w + grain - 1) / grain * grain;
    errors.Add("model.image_size ", model.image_h, "x", model.image_w, " is not divisible by ",
               grain, " (patch_size ", model.patch_size, " halved in resolution by each of ",
               model.num_stages() - 1, " mergings); the next size up is ", up_h, "x", up_w);
  }
}

// Settings that an architecture does not have.
void CheckArchitecture(const ModelConfig& model, Errors& errors) {
  const char* name = ArchitectureName(model.arch);
  const auto only = [&](const char* field, bool set, bool has, const char* others) {
    if (set && !has) errors.Add(field, " is not a setting of ", name, "; it belongs to ", others);
  };
  const bool v2 = model.arch == Architecture::kSwinV2;
  bool pretrained = false;
  for (const int64_t window : model.pretrained_window_sizes) pretrained = pretrained || window != 0;
  only("model.pretrained_window_sizes", pretrained, v2, "swin_v2");
  errors.CheckNumber("model.qk_scale", model.qk_scale, model.qk_scale >= 0, "at least 0");
  only("model.extra_norm_period", model.extra_norm_period > 0, v2, "swin_v2");
  const bool vit = model.arch == Architecture::kVit;
  only("model.qk_scale", model.qk_scale != 0, !v2 && !vit, "swin_v1 and video_swin");
  only("model.ape", model.ape, !model.is_video() && !vit, "swin_v1 and swin_v2");
  if (vit && model.patch_norm) {
    errors.Add(
        "model.patch_norm is not a setting of vit, which does not normalise its patches; set it",
        " to false");
  }
  if (vit && model.embed_dim % 4 != 0) {
    errors.Add("model.embed_dim is ", model.embed_dim,
               "; the position embedding of vit needs a multiple of 4, as ",
               (model.embed_dim + 3) / 4 * 4);
  }
  only("model.frames", model.frames != 1, model.is_video(), "video_swin");
  only("model.patch_frames", model.patch_frames != 1, model.is_video(), "video_swin");
  only("model.window_frames", model.window_frames != 1, model.is_video(), "video_swin");
  errors.CheckRange("model.frames", model.frames, 1, kMaxFrames);
  errors.CheckRange("model.patch_frames", model.patch_frames, 1, kMaxFrames);
  errors.CheckRange("model.window_frames", model.window_frames, 1, kMaxWindow);
  if (model.arch == Architecture::kVit && model.num_stages() != 1) {
    errors.Add("model.depths has ", model.num_stages(), " stages; vit has one");
  }
}

}  // namespace

std::vector<int64_t> NearDivisors(int64_t number, int64_t wanted) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= number; ++d) {
    if (number % d == 0) divisors.push_back(d);
  }
  std::stable_sort(divisors.begin(), divisors.end(), [&](int64_t a, int64_t b) {
    return std::abs(a - wanted) < std::abs(b - wanted);
  });
  divisors.resize(std::min<size_t>(divisors.size(), 4));
  std::sort(divisors.begin(), divisors.end());
  return divisors;
}

void CheckModel(const ModelConfig& model, Errors& errors) {
  CheckModelRanges(model, errors);
  CheckStageLists(model, errors);
  CheckArchitecture(model, errors);
  // What follows computes with the sizes, so they must be sane each.
  if (!errors.empty()) return;
  CheckHeads(model, errors);
  if (!model.is_video()) CheckMaps(model, errors);
}

}  // namespace swinfleet
