#include "worker/evaluate.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <vector>

#include "core/loss/objective.h"
#include "core/loss/targets.h"
#include "distributed/shard_layout.h"
#include "kernels/error.h"
#include "kernels/placement.h"
#include "worker/follow.h"

namespace swinfleet {
namespace {

// Numbers of an EvaluatedBatch.
constexpr int64_t kFields = 5;

}  // namespace

EvaluatedBatch EvaluateBatch(const JobConfig& config, const Batch& batch, Model* model,
                             ParameterAccess* parameters, MemoryClasses* memory, Context* context) {
  Arena& activations = memory->activations;
  ArenaScope scope(&activations);
  const ModelInput input = InputOf(batch, config, activations, *context);
  const Shape shape = model->OutputShape(batch.pictures);
  const TensorView output = activations.Allocate(shape, config.train.dtype);
  ForwardOptions options;
  options.keep_for_backward = false;
  options.dtype = config.train.dtype;
  model->Forward(input, output, options, *parameters, activations, *context);
  EvaluatedBatch result;
  result.loss_sum = MakeObjective(config, /*training=*/false)
                        ->Compute(batch, input, output, {}, 1, activations, *context);
  result.pictures = static_cast<double>(batch.pictures);
  result.replaced = static_cast<double>(batch.broken.size());
  if (config.pretrain.on()) {
    result.top1 = result.top5 = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  const TensorView logits = activations.Allocate(shape);
  context->ops->cast({output, logits}, *context);
  if (activations.device() == Device::kDryRun) return result;
  const TopCount count = CountTop(ElementsOnHost<float>(logits, *context).span(), batch.label,
                                  config.model.num_classes);
  result.top1 = static_cast<double>(count.top1);
  result.top5 = static_cast<double>(count.top5);
  return result;
}

std::vector<double> EvaluateShare(const JobConfig& config, const Dataset& dataset, Model* model,
                                  ParameterAccess* parameters, int rank, int ranks,
                                  MemoryClasses* memory, Context* context,
                                  const LoaderSettingNames& names) {
  const int64_t batch_size = config.train.eval_batch;
  const int64_t batches = (dataset.identity().count + batch_size - 1) / batch_size;
  const int64_t first = ShardLayout::LeafBegin(rank, ranks, batches);
  const int64_t count = ShardLayout::LeafCount(rank, ranks, batches);

  LoaderOptions options = LoaderOptionsFor(config, names);
  options.training = false;
  options.micro_batch = batch_size;
  options.first_leaf = first;
  options.leaves = count;

  std::vector<double> sums(batches * kFields, 0.0);
  int64_t done = 0;
  std::exception_ptr problem;
  try {
    Loader loader(&dataset, options);
    for (; done < count; ++done) {
      const EvaluatedBatch batch =
          EvaluateBatch(config, *loader.Next(), model, parameters, memory, context);
      double* fields = &sums[(first + done) * kFields];
      fields[0] = batch.loss_sum;
      fields[1] = batch.top1;
      fields[2] = batch.top5;
      fields[3] = batch.pictures;
      fields[4] = batch.replaced;
    }
  } catch (const Error&) {
    problem = std::current_exception();
  }
  // The others may have a batch more, or this rank none that can be read.
  const int64_t most = config.parallel.zero_stage == 3 ? ShardLayout::Rounds(ranks, batches) : 0;
  for (; done < most; ++done) FollowEvaluation(config, model, parameters);
  if (problem) std::rethrow_exception(problem);
  return sums;
}

Evaluation SumShares(std::vector<double>* sums, Communicator* communicator) {
  // One place a batch: adding zeros from the other ranks changes no bit, and the batches are then
  // summed in order.
  communicator->AllReduceSum(*sums, "evaluation");
  EvaluatedBatch total;
  for (size_t i = 0; i < sums->size(); i += kFields) {
    total.loss_sum += (*sums)[i];
    total.top1 += (*sums)[i + 1];
    total.top5 += (*sums)[i + 2];
    total.pictures += (*sums)[i + 3];
    total.replaced += (*sums)[i + 4];
  }
  return {.loss = total.loss_sum / total.pictures,
          .top1 = total.top1 / total.pictures,
          .top5 = total.top5 / total.pictures,
          .pictures = static_cast<int64_t>(total.pictures),
          .replaced_pictures = static_cast<int64_t>(total.replaced)};
}

}  // namespace swinfleet
