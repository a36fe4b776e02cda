#include "core/checkpoint/weight_names.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace swinfleet {
namespace {

constexpr const char* kWrappers[] = {"module.", "model.", "_orig_mod.", "encoder.", "backbone."};
constexpr const char* kBuffers[] = {"relative_coords_table", "relative_position_index",
                                    "attn_mask"};

// "layers.2.downsample.norm.weight" as stage 2 and ".downsample.norm.weight".
std::optional<std::pair<int, std::string>> SplitStage(const std::string& name) {
  const std::string prefix = "layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  int stage = 0;
  const char* end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(name.data() + prefix.size(), end, stage);
  if (code != std::errc() || stop == end || *stop != '.' || stage < 0) return std::nullopt;
  return std::pair(stage, std::string(stop, end));
}

bool IsDownsample(const std::string& rest) { return rest.starts_with(".downsample."); }

void ReplaceAll(std::string* text, const std::string& from, const std::string& to) {
  for (size_t at = text->find(from); at != std::string::npos; at = text->find(from, at)) {
    text->replace(at, from.size(), to);
    at += to.size();
  }
}

}  // namespace

std::optional<int> StageOf(const std::string& common_name) {
  const auto split = SplitStage(common_name);
  if (!split) return std::nullopt;
  return split->first;
}

bool IsBufferName(const std::string& name) {
  return std::any_of(std::begin(kBuffers), std::end(kBuffers), [&](const std::string& buffer) {
    return name == buffer || name.ends_with("." + buffer);
  });
}

std::string CommonName(const std::string& name) {
  std::string common = name;
  for (bool found = true; found;) {
    found = false;
    for (const std::string wrapper : kWrappers) {
      if (!common.starts_with(wrapper)) continue;
      common.erase(0, wrapper.size());
      found = true;
    }
  }
  return common;
}

bool MatchesPattern(const std::string& name, const std::string& pattern) {
  if (!pattern.ends_with("*")) return name == pattern;
  return name.starts_with(pattern.substr(0, pattern.size() - 1));
}

std::string InitSkipText(const std::vector<std::string>& patterns) {
  std::string text = "model.init_skip: [";
  for (size_t i = 0; i < patterns.size(); ++i) text += (i > 0 ? ", \"" : "\"") + patterns[i] + "\"";
  return text + "]";
}

FileNames::FileNames(const std::vector<WeightTensor>& tensors) {
  bool first_stage = false, later_stage = false, official_head = false, fc_head = false;
  for (const WeightTensor& tensor : tensors) {
    const std::string common = CommonName(tensor.name);
    encoder_prefix_ |=
        tensor.name.starts_with("encoder.") || tensor.name.find(".encoder.") != std::string::npos;
    pretrained_ |= IsPretrainingPart(common);
    official_head |= common == "head.weight" || common == "head.bias";
    fc_head |= common.starts_with("head.fc.");
    const auto split = SplitStage(common);
    if (!split || !IsDownsample(split->second)) continue;
    (split->first == 0 ? first_stage : later_stage) = true;
  }
  pretrained_ |= encoder_prefix_;
  // As timm itself tells them apart.
  timm_downsample_ = later_stage && !first_stage;
  timm_head_ = fc_head && !official_head;
}

std::string FileNames::Common(const std::string& name) const {
  std::string common = CommonName(name);
  const std::string fc = "head.fc.";
  if (timm_head_ && common.starts_with(fc)) return "head." + common.substr(fc.size());
  // The first published models of Swin V2 call the position MLP so.
  ReplaceAll(&common, ".rpe_mlp.", ".cpb_mlp.");
  const auto split = SplitStage(common);
  if (timm_downsample_ && split && IsDownsample(split->second)) {
    return "layers." + std::to_string(split->first - 1) + split->second;
  }
  return common;
}

bool IsPretrainingPart(const std::string& common_name) {
  return common_name == "mask_token" || common_name.starts_with("decoder.") ||
         common_name.starts_with("decoder_");
}

}  // namespace swinfleet
