// Accuracy on the evaluation split.
#ifndef SWINFLEET_WORKER_EVALUATE_H_
#define SWINFLEET_WORKER_EVALUATE_H_

#include <cstdint>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/loader.h"
#include "core/memory/memory_classes.h"
#include "core/nn/model.h"
#include "distributed/communicator.h"

namespace swinfleet {

struct Evaluation {
  // Mean loss, for classification cross entropy without smoothing; and shares of pictures, 0..1,
  // NaN in pre-training.
  double loss = 0;
  double top1 = 0;
  double top5 = 0;
  int64_t pictures = 0;
  // Those among them that couldn't be decoded, and that others stood for.
  int64_t replaced_pictures = 0;
};

// Evaluates one rank's share of the split's batches: for each batch of the split its sums, zeros
// for those of other ranks. Collective at ZeRO stage 3, also on ranks that throw. Throws as Loader
// does; `names` are for its errors.
std::vector<double> EvaluateShare(const JobConfig& config, const Dataset& dataset, Model* model,
                                  ParameterAccess* parameters, int rank, int ranks,
                                  MemoryClasses* memory, Context* context,
                                  const LoaderSettingNames& names = {});
// All shares together: the same bits on every rank and for every number of ranks. Collective.
Evaluation SumShares(std::vector<double>* sums, Communicator* communicator);

// One batch of it: {sum of losses, top-1 count, top-5 count, pictures, replaced pictures}.
struct EvaluatedBatch {
  double loss_sum = 0;
  double top1 = 0;
  double top5 = 0;
  double pictures = 0;
  double replaced = 0;
};
EvaluatedBatch EvaluateBatch(const JobConfig& config, const Batch& batch, Model* model,
                             ParameterAccess* parameters, MemoryClasses* memory, Context* context);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_EVALUATE_H_
