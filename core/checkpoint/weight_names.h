// The names that weights go by: those of the official code, of timm, of training wrappers, of
// pre-training and of recognisers of clips, brought to one form.
//
// The common form is the official code's name in the model's body: "layers.0.blocks.1.attn.qkv.
// weight", "norm.bias", "head.weight". In front of it may be, in files and in our own models alike,
// "encoder." (masked image modelling), "backbone." (Video Swin), and in files "module.", "model."
// and "_orig_mod." (PyTorch's wrappers).
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHT_NAMES_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHT_NAMES_H_

#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/weight_source.h"

namespace swinfleet {

// The stage of "layers.2.blocks.0..." (common form); nothing for other names.
std::optional<int> StageOf(const std::string& common_name);

// Registered as a buffer by the official code or timm: computed, not learned.
bool IsBufferName(const std::string& name);

// Common form of a name that is official but for what stands in front of it.
std::string CommonName(const std::string& name);

// Whether `name` is matched by `pattern`: a whole name, or a prefix that ends in "*".
bool MatchesPattern(const std::string& name, const std::string& pattern);

// The setting that leaves out what `patterns` match: model.init_skip: ["head.*", "norm.bias"].
std::string InitSkipText(const std::vector<std::string>& patterns);

// How the names of one file are to be read.
class FileNames {
 public:
  explicit FileNames(const std::vector<WeightTensor>& tensors);

  // Common form of one of the file's names.
  std::string Common(const std::string& name) const;

  // The file holds the encoder of masked image modelling, with its decoder or without.
  bool pretrained() const { return pretrained_; }
  // That of SimMIM or GreenMIM: a Swin Transformer.
  bool pretrained_swin() const { return encoder_prefix_; }
  // timm's layout, where a stage begins with its downsample instead of ending with it.
  bool timm() const { return timm_downsample_ || timm_head_; }

 private:
  bool encoder_prefix_ = false;
  bool pretrained_ = false;
  bool timm_downsample_ = false;
  bool timm_head_ = false;
};

// Parts of pre-training that a classifier has no use for: mask token and decoder (common form).
bool IsPretrainingPart(const std::string& common_name);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHT_NAMES_H_
