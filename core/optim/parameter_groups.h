// Which parameters decay, and how fast each learns: the official code's parameter groups
// (optimizer.py of Swin Transformer, util/lr_decay.py and main_pretrain.py of MAE).
#ifndef SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_
#define SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_

#include <vector>

#include "core/config/job_config.h"
#include "core/nn/parameters.h"

namespace swinfleet {

// One a parameter, in the table's order.
struct ParameterHyper {
  double weight_decay = 0;
  // Factor on the base learning rate.
  double lr_scale = 1;
};

// What a job trains with: the groups of its pre-training method, or of classification with its
// layer decay.
std::vector<ParameterHyper> GroupsOf(const JobConfig& job, const ParameterTable& table);

// Weight decay is off for 1-D parameters, names that end in ".bias", absolute_pos_embed, pos_embed,
// cls_token, and names that contain cpb_mlp, logit_scale or relative_position_bias_table.
std::vector<ParameterHyper> ClassificationGroups(const ParameterTable& table, double weight_decay);

// The same decay; the rate falls by `layer_decay` from one layer to the one below it. Of Swin
// models the patch embedding is layer 0, each block one more, a downsample belongs to the layer of
// its stage's last block, and all else (the absolute position embedding, the last norm, the head)
// is the top layer. Of a ViT the embeddings of patches, positions and class are layer 0.
// `model` gives the architecture and the depths. A `layer_decay` of 1 is ClassificationGroups.
std::vector<ParameterHyper> FinetuneGroups(const ParameterTable& table, const ModelConfig& model,
                                           double weight_decay, double layer_decay);

// SimMIM's pre-training: off for 1-D parameters, names that end in ".bias",
// encoder.absolute_pos_embed and encoder.mask_token. (The official code looks for "encoder.cpb_mlp"
// and the like in names that have more between the two, so that logit scales, position MLPs and
// bias tables do decay.)
std::vector<ParameterHyper> SimMimGroups(const ParameterTable& table, double weight_decay);

// MAE's pre-training, and GreenMIM's after it: off for 1-D parameters and names that end in ".bias"
// alone.
std::vector<ParameterHyper> MaeGroups(const ParameterTable& table, double weight_decay);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_OPTIM_PARAMETER_GROUPS_H_
