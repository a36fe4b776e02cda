#include "core/checkpoint/weight_description.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/checkpoint/weight_names.h"

namespace swinfleet {
namespace {

// More blocks or stages than this are no model's.
constexpr int64_t kMaxBlocks = 4096;

const char* Title(Architecture arch) {
  switch (arch) {
    case Architecture::kSwinV1:
      return "Swin V1";
    case Architecture::kSwinV2:
      return "Swin V2";
    case Architecture::kVideoSwin:
      return "Video Swin";
    case Architecture::kVit:
      return "a Vision Transformer";
  }
  return "";
}

std::string List(const std::vector<int64_t>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(values[i]);
  }
  return text + "]";
}

// The number between `prefix` and the next dot.
std::optional<int64_t> NumberAfter(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(name.data() + prefix.size(), end, number);
  if (code != std::errc() || stop == end || *stop != '.' || number < 0 || number >= kMaxBlocks) {
    return std::nullopt;
  }
  return number;
}

void Raise(std::vector<int64_t>* list, size_t index, int64_t value) {
  if (list->size() <= index) list->resize(index + 1, 0);
  (*list)[index] = std::max((*list)[index], value);
}

void TakeProjection(const Shape& shape, WeightsDescription* description) {
  if (shape.rank() != 4 && shape.rank() != 5) return;
  description->embed_dim = shape[0];
  description->in_chans = shape[1];
  description->patch_frames = shape.rank() == 5 ? shape[2] : 0;
  description->patch_size = shape[shape.rank() - 1];
}

void TakeBlock(const std::string& name, const Shape& shape, int stage,
               WeightsDescription* description) {
  const auto block = NumberAfter(name, "layers." + std::to_string(stage) + ".blocks.");
  if (!block) return;
  Raise(&description->depths, stage, *block + 1);
  if (name.ends_with(".attn.logit_scale") && shape.rank() > 0) {
    description->arch = Architecture::kSwinV2;
    Raise(&description->num_heads, stage, shape[0]);
  }
  if (name.ends_with(".attn.relative_position_bias_table") && shape.rank() == 2) {
    description->arch = Architecture::kSwinV1;
    Raise(&description->num_heads, stage, shape[1]);
    const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(shape[0]))));
    if (stage == 0 && side * side == shape[0]) description->window_size = (side + 1) / 2;
  }
}

void TakeTensor(const std::string& name, const Shape& shape, WeightsDescription* description) {
  if (name == "patch_embed.proj.weight") TakeProjection(shape, description);
  if ((name == "head.weight" || name == "cls_head.fc_cls.weight") && shape.rank() == 2) {
    description->num_classes = shape[0];
  }
  if (const std::optional<int> stage = StageOf(name); stage && *stage < kMaxBlocks) {
    TakeBlock(name, shape, *stage, description);
  } else if (const auto block = NumberAfter(name, "blocks.")) {
    description->arch = Architecture::kVit;
    Raise(&description->depths, 0, *block + 1);
  }
}

std::string WhoseNames(const std::vector<WeightTensor>& tensors) {
  for (const WeightTensor& tensor : tensors) {
    if (tensor.name.find("attn.meta_mlp.") != std::string::npos) {
      return "timm's swinv2_cr, which is another architecture than Swin V2; weights of timm's "
             "swinv2 models fit";
    }
    if (tensor.name.find(".attention.self.query.") != std::string::npos) {
      return "Hugging Face's transformers, whose names are not read; take timm's file of the same "
             "model";
    }
    if (tensor.name.starts_with("features.0.0.")) {
      return "torchvision, whose names are not read; take timm's file of the same model";
    }
  }
  return "";
}

}  // namespace

WeightsDescription DescribeWeights(const std::vector<WeightTensor>& tensors) {
  WeightsDescription description;
  const FileNames names(tensors);
  for (const WeightTensor& tensor : tensors) {
    TakeTensor(names.Common(tensor.name), tensor.shape, &description);
  }
  if (description.arch == Architecture::kSwinV1 && description.patch_frames > 0) {
    description.arch = Architecture::kVideoSwin;
    description.window_size = 0;
  }
  description.pretrained = names.pretrained();
  description.foreign = WhoseNames(tensors);
  return description;
}

WeightsDescription DescribeModel(const ModelConfig& model) {
  WeightsDescription description;
  description.arch = model.arch;
  description.in_chans = model.in_chans;
  description.patch_size = model.patch_size;
  description.patch_frames = model.is_video() ? model.patch_frames : 0;
  description.embed_dim = model.embed_dim;
  description.depths = model.depths;
  description.num_heads = model.num_heads;
  description.num_classes = model.num_classes;
  if (model.arch == Architecture::kSwinV1) description.window_size = model.StageWindow(0);
  return description;
}

std::string WeightsDescription::ToString() const {
  if (!foreign.empty()) return "tensors of " + foreign;
  if (!arch) return "tensors of no model that is known here";
  std::string text = Title(*arch);
  text += " of embed_dim " + std::to_string(embed_dim) + ", depths " + List(depths);
  if (!num_heads.empty()) text += ", heads " + List(num_heads);
  if (patch_frames > 0) text += ", patch_frames " + std::to_string(patch_frames);
  text += ", patch_size " + std::to_string(patch_size) + ", in_chans " + std::to_string(in_chans);
  if (window_size > 0) text += ", window_size " + std::to_string(window_size);
  if (num_classes > 0) text += ", " + std::to_string(num_classes) + " classes";
  if (pretrained) text += ", of pre-training";
  return text;
}

bool WeightsDescription::Fits(const ModelConfig& model) const {
  // Pictures' weights can be inflated for clips.
  const bool inflated = arch == Architecture::kSwinV1 && model.is_video();
  return (arch == model.arch || inflated) && embed_dim == model.embed_dim &&
         depths == model.depths && (num_heads.empty() || num_heads == model.num_heads) &&
         patch_size == model.patch_size && in_chans == model.in_chans &&
         (inflated || !model.is_video() || patch_frames == model.patch_frames);
}

std::vector<std::string> WeightsDescription::FittingPresets() const {
  std::vector<std::string> fitting;
  for (const std::string& name : ModelPresetNames()) {
    const std::optional<ModelConfig> model = ModelPreset(name);
    if (foreign.empty() && Fits(*model) && model->arch == arch) fitting.push_back(name);
  }
  return fitting;
}

}  // namespace swinfleet
