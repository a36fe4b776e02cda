#include "core/optim/parameter_groups.h"

#include <string>

namespace swinfleet {
namespace {

bool Contains(const std::string& name, const char* keyword) {
  return name.find(keyword) != std::string::npos;
}

bool Decays(const ParameterInfo& parameter) {
  const std::string& name = parameter.name;
  if (parameter.shape.rank() == 1 || name.ends_with(".bias")) return false;
  // no_weight_decay: the whole name; no_weight_decay_keywords: anywhere in it.
  if (name == "absolute_pos_embed") return false;
  return !Contains(name, "cpb_mlp") && !Contains(name, "logit_scale") &&
         !Contains(name, "relative_position_bias_table");
}

}  // namespace

std::vector<ParameterHyper> ClassificationGroups(const ParameterTable& table, double weight_decay) {
  std::vector<ParameterHyper> groups;
  groups.reserve(table.parameters().size());
  for (const ParameterInfo& parameter : table.parameters()) {
    ParameterHyper hyper;
    hyper.weight_decay = Decays(parameter) ? weight_decay : 0;
    groups.push_back(hyper);
  }
  return groups;
}

}  // namespace swinfleet
