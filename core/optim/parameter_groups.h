// Which parameters decay: the official code's groups (optimizer.py: set_weight_decay).
#ifndef SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_
#define SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_

#include <vector>

#include "core/nn/parameters.h"

namespace swinfleet {

// One a parameter, in the table's order.
struct ParameterHyper {
  double weight_decay = 0;
  // Factor on the base learning rate.
  double lr_scale = 1;
};

// Weight decay is off for 1-D parameters, names that end in ".bias", absolute_pos_embed, and names
// that contain cpb_mlp, logit_scale or relative_position_bias_table.
std::vector<ParameterHyper> ClassificationGroups(const ParameterTable& table, double weight_decay);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_
