#include "worker/evaluate.h"

#include <vector>

#include "core/loss/targets.h"
#include "distributed/shard_layout.h"

namespace swinfleet {

EvaluatedBatch EvaluateBatch(const ModelConfig& config, const Batch& batch, SwinV2* model,
                             ParameterAccess* parameters, MemoryClasses* memory, Context* context) {
  ArenaScope scope(&memory->activations);
  const Device device = memory->activations.device();
  const Shape per_class = {batch.pictures, config.num_classes};
  const TensorView logits = memory->activations.Allocate(per_class);
  const TensorView target = memory->activations.Allocate(per_class);
  const TensorView loss = memory->activations.Allocate({batch.pictures});
  const TensorView image =
      ViewOf(const_cast<float*>(batch.image.data()),
             {batch.pictures, config.in_chans, config.image_h, config.image_w}, device);
  ForwardOptions options;
  options.keep_for_backward = false;
  model->Forward(image, logits, options, *parameters, memory->activations, *context);
  if (device == Device::kDryRun) return {};
  SmoothedTargets(batch.label, config.num_classes, 0, target.span());
  context->ops->cross_entropy({logits, target, loss, {}, 1}, *context);

  EvaluatedBatch result;
  for (float value : loss.span()) result.loss_sum += value;
  const TopCount count = CountTop(logits.span(), batch.label, config.num_classes);
  result.top1 = static_cast<double>(count.top1);
  result.top5 = static_cast<double>(count.top5);
  result.pictures = static_cast<double>(count.pictures);
  return result;
}

Evaluation Evaluate(const JobConfig& config, const Dataset& dataset, SwinV2* model,
                    ParameterAccess* parameters, Communicator* communicator, MemoryClasses* memory,
                    Context* context) {
  const int64_t batch_size = config.train.eval_batch;
  const int64_t batches = (dataset.identity().count + batch_size - 1) / batch_size;
  const int rank = communicator->rank(), ranks = communicator->size();
  const int64_t first = ShardLayout::LeafBegin(rank, ranks, batches);
  const int64_t count = ShardLayout::LeafCount(rank, ranks, batches);

  LoaderOptions options = LoaderOptionsFor(config);
  options.training = false;
  options.micro_batch = batch_size;
  options.first_leaf = first;
  options.leaves = count;
  Loader loader(&dataset, options);

  // One place a batch: adding zeros from the other ranks changes no bit, and the batches are then
  // summed in order.
  constexpr int64_t kFields = 4;
  std::vector<double> sums(batches * kFields, 0.0);
  for (int64_t i = first; i < first + count; ++i) {
    const EvaluatedBatch batch =
        EvaluateBatch(config.model, *loader.Next(), model, parameters, memory, context);
    double* fields = &sums[i * kFields];
    fields[0] = batch.loss_sum;
    fields[1] = batch.top1;
    fields[2] = batch.top5;
    fields[3] = batch.pictures;
  }
  communicator->AllReduceSum(sums, "evaluation");
  EvaluatedBatch total;
  for (int64_t i = 0; i < batches; ++i) {
    total.loss_sum += sums[i * kFields];
    total.top1 += sums[i * kFields + 1];
    total.top5 += sums[i * kFields + 2];
    total.pictures += sums[i * kFields + 3];
  }
  return {.loss = total.loss_sum / total.pictures,
          .top1 = total.top1 / total.pictures,
          .top5 = total.top5 / total.pictures,
          .pictures = static_cast<int64_t>(total.pictures)};
}

}  // namespace swinfleet
