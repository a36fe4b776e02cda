// What masked image modelling minimises.
#ifndef SWINFLEET_CORE_LOSS_MASKED_H_
#define SWINFLEET_CORE_LOSS_MASKED_H_

#include <memory>

#include "core/loss/objective.h"

namespace swinfleet {

// The loss that `pretrain` asks for, of the predictions of the model that it asks for. The mean
// over the masked pixels (SimMIM) or patches (MAE, GreenMIM) of a micro-batch is spread over its
// pictures so that the mean over pictures is the loss of the official code.
//
// SimMIM: mean absolute error of pixels, in whole or normalised by their neighbourhood. MAE and
// GreenMIM: mean squared error of patches, in whole or normalised each.
std::unique_ptr<Objective> MakeMaskedObjective(const ModelConfig& model,
                                               const PretrainConfig& pretrain);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_LOSS_MASKED_H_
