#include "core/nn/patch_merging.h"

#include "kernels/chunks.h"
#include "kernels/profile.h"

namespace swinfleet {

PatchMerging::PatchMerging(const ModelConfig& model, int stage, const std::string& prefix,
                           ParameterTable* table)
    : name_(prefix + "layers." + std::to_string(stage) + ".downsample"),
      channels_(model.StageDim(stage)),
      norm_first_(model.arch != Architecture::kSwinV2),
      table_(*table),
      unit_(table->BeginUnit(name_)),
      weight_(table->AddProductWeight(name_ + ".reduction.weight", {2 * channels_, 4 * channels_},
                                      {Initializer::Kind::kTruncatedNormal, 0.02})),
      norm_(name_ + ".norm", norm_first_ ? 4 * channels_ : 2 * channels_, model.layer_norm_eps, 1,
            table) {}

TensorView PatchMerging::Neighbours(int64_t row, int64_t count, Context& context) const {
  const TensorView neighbours = context.workspace->Allocate({count, 4 * channels_}, x_.dtype);
  context.ops->merge_gather({x_, row, neighbours}, context);
  return neighbours;
}

TensorView PatchMerging::Forward(const TensorView& x, const ForwardOptions& options,
                                 ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = x.shape[0], depth = x.shape[1], c = channels_;
  const int64_t height = (x.shape[2] + 1) / 2, width = (x.shape[3] + 1) / 2;
  const int64_t rows = batch * depth * height * width;
  const ProfileScope profile(context, name_);
  const AcquiredUnit unit(table_, access, unit_);
  x_ = x.Reshape({batch * depth, x.shape[2], x.shape[3], c});
  // Behind it, where it is normalised for good, the result.
  const bool two = !norm_first_ && options.keep_for_backward;
  kept_ = activations.Allocate({two ? 2 * rows : rows, 2 * c}, x.dtype);
  reduced_ = kept_.Rows(0, rows);
  ForEachChunk(rows, ChunkRows(4 * c, x_.dtype, context.device), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView inputs = Neighbours(row, count, context);
    if (norm_first_) {
      norm_.Forward(unit, inputs, inputs, {}, {}, *context.workspace, context);
    }
    context.ops->linear_forward({inputs, unit[weight_], {}, reduced_.Rows(row, count)}, context);
  });
  TensorView y = reduced_;
  if (!norm_first_) {
    if (two) y = kept_.Rows(rows, rows);
    norm_.Forward(unit, reduced_, y, {}, {}, activations, context);
  }
  if (options.capture) options.capture(name_, y.Reshape({batch, rows / batch, 2 * c}));
  return y.Reshape({batch, depth, height, width, 2 * c});
}

TensorView PatchMerging::InputGradient(int64_t batch, Arena& activations) const {
  const Shape shape = {batch, x_.shape[0] / batch, x_.shape[1], x_.shape[2], x_.shape[3]};
  const int64_t size = x_.NumElements(), room = kept_.NumElements();
  if (room < size) return activations.Allocate(shape, x_.dtype);
  return kept_.Reshape({room, 1}).Rows(0, size).Reshape(shape);
}

void PatchMerging::Backward(const TensorView& dy, const TensorView& dx, ParameterAccess& access,
                            Context& context) {
  const int64_t c = channels_, rows = dy.NumElements() / (2 * c);
  const ProfileScope profile(context, name_);
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView dreduced = dy.Reshape({rows, 2 * c});
  const TensorView dmap = dx.Reshape(x_.shape);
  if (!norm_first_) {
    norm_.Backward(unit, gradient, reduced_, {}, dreduced, dreduced, /*accumulate=*/false, context);
  }
  ForEachChunk(rows, ChunkRows(4 * c, x_.dtype, context.device), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView neighbours = Neighbours(row, count, context);
    TensorView inputs = neighbours;
    if (norm_first_) {
      inputs = context.workspace->Allocate(neighbours.shape, neighbours.dtype);
      norm_.Forward(unit, neighbours, inputs, {}, {}, *context.workspace, context);
    }
    const TensorView dchunk = dreduced.Rows(row, count);
    context.ops->linear_backward_weight({dchunk, inputs, unit.At(gradient, weight_),
                                         /*dbias=*/{}, unit.Accumulates(weight_)},
                                        context);
    context.ops->linear_backward_input({dchunk, unit[weight_], inputs}, context);
    if (norm_first_) {
      norm_.Backward(unit, gradient, neighbours, {}, inputs, inputs, /*accumulate=*/false, context);
    }
    context.ops->merge_scatter({inputs, row, dmap}, context);
  });
  access.GradientReady(unit_);
}

}  // namespace swinfleet
