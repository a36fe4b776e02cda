#include "core/optim/parameter_groups.h"

#include <glog/logging.h>

#include <charconv>
#include <cmath>
#include <numeric>
#include <string>
#include <string_view>

namespace swinfleet {
namespace {

bool Contains(const std::string& name, const char* keyword) {
  return name.find(keyword) != std::string::npos;
}

bool IsVectorOrBias(const ParameterInfo& parameter) {
  return parameter.shape.rank() == 1 || parameter.name.ends_with(".bias");
}

bool DecaysInClassification(const ParameterInfo& parameter) {
  const std::string& name = parameter.name;
  if (IsVectorOrBias(parameter)) return false;
  // no_weight_decay: the whole name; no_weight_decay_keywords: anywhere in it.
  if (name == "absolute_pos_embed" || name == "pos_embed" || name == "cls_token") return false;
  return !Contains(name, "cpb_mlp") && !Contains(name, "logit_scale") &&
         !Contains(name, "relative_position_bias_table");
}

bool DecaysInSimMim(const ParameterInfo& parameter) {
  return !IsVectorOrBias(parameter) && parameter.name != "encoder.absolute_pos_embed" &&
         parameter.name != "encoder.mask_token";
}

template <typename Decays>
std::vector<ParameterHyper> GroupsBy(const ParameterTable& table, double weight_decay,
                                     const Decays& decays) {
  std::vector<ParameterHyper> groups;
  groups.reserve(table.parameters().size());
  for (const ParameterInfo& parameter : table.parameters()) {
    ParameterHyper hyper;
    hyper.weight_decay = decays(parameter) ? weight_decay : 0;
    groups.push_back(hyper);
  }
  return groups;
}

// The part of a name between dots number `index`, and as a number.
std::string_view Part(std::string_view name, int index) {
  for (; index > 0; --index) {
    const size_t dot = name.find('.');
    CHECK_NE(dot, std::string_view::npos) << name;
    name.remove_prefix(dot + 1);
  }
  return name.substr(0, name.find('.'));
}

int NumberIn(std::string_view name, int index) {
  const std::string_view part = Part(name, index);
  int number = -1;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
  CHECK(error == std::errc() && end == part.data() + part.size() && number >= 0)
      << name << ": part " << index << " is no number";
  return number;
}

// Layers are counted from 0, the patch embedding, to `top`.
int SwinLayer(std::string_view name, const std::vector<int64_t>& depths, int top) {
  // The recogniser of Video Swin puts its encoder one level down.
  if (name.starts_with("backbone.")) name.remove_prefix(9);
  if (name.starts_with("patch_embed")) return 0;
  if (!name.starts_with("layers.")) return top;
  const int stage = NumberIn(name, 1);
  CHECK_LT(stage, static_cast<int>(depths.size())) << name;
  const auto blocks_below = [&](int stages) {
    return static_cast<int>(std::accumulate(depths.begin(), depths.begin() + stages, int64_t{0}));
  };
  if (Part(name, 2) == "downsample") return blocks_below(stage + 1);
  return blocks_below(stage) + NumberIn(name, 3) + 1;
}

int VitLayer(std::string_view name, int top) {
  if (name == "cls_token" || name == "pos_embed" || name.starts_with("patch_embed")) return 0;
  return name.starts_with("blocks.") ? NumberIn(name, 1) + 1 : top;
}

}  // namespace

std::vector<ParameterHyper> ClassificationGroups(const ParameterTable& table, double weight_decay) {
  return GroupsBy(table, weight_decay, DecaysInClassification);
}

std::vector<ParameterHyper> SimMimGroups(const ParameterTable& table, double weight_decay) {
  return GroupsBy(table, weight_decay, DecaysInSimMim);
}

std::vector<ParameterHyper> MaeGroups(const ParameterTable& table, double weight_decay) {
  return GroupsBy(table, weight_decay,
                  [](const ParameterInfo& parameter) { return !IsVectorOrBias(parameter); });
}

std::vector<ParameterHyper> FinetuneGroups(const ParameterTable& table, const ModelConfig& model,
                                           double weight_decay, double layer_decay) {
  std::vector<ParameterHyper> groups = ClassificationGroups(table, weight_decay);
  const auto blocks =
      static_cast<int>(std::accumulate(model.depths.begin(), model.depths.end(), int64_t{0}));
  const int top = blocks + 1;
  for (size_t p = 0; p < groups.size(); ++p) {
    const std::string& name = table.parameters()[p].name;
    const int layer =
        model.arch == Architecture::kVit ? VitLayer(name, top) : SwinLayer(name, model.depths, top);
    groups[p].lr_scale = std::pow(layer_decay, top - layer);
  }
  return groups;
}

std::vector<ParameterHyper> GroupsOf(const JobConfig& job, const ParameterTable& table) {
  const OptimizerConfig& optimizer = job.train.optimizer;
  switch (job.pretrain.method) {
    case PretrainConfig::Method::kSimMim:
      return SimMimGroups(table, optimizer.weight_decay);
    case PretrainConfig::Method::kMae:
    case PretrainConfig::Method::kGreenMim:
      return MaeGroups(table, optimizer.weight_decay);
    case PretrainConfig::Method::kNone:
      break;
  }
  if (optimizer.layer_decay == 1) return ClassificationGroups(table, optimizer.weight_decay);
  return FinetuneGroups(table, job.model, optimizer.weight_decay, optimizer.layer_decay);
}

}  // namespace swinfleet
