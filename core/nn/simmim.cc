#include "core/nn/simmim.h"

#include <cmath>
#include <numeric>

#include "core/data/mask.h"
#include "kernels/chunks.h"
#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// As PyTorch starts a convolution of kernel 1, which the official code leaves as it is.
Initializer DecoderStart(const ModelConfig& model) {
  return {Initializer::Kind::kUniform, 1 / std::sqrt(static_cast<double>(model.num_features()))};
}

}  // namespace

SimMim::SimMim(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory)
    : model_(model),
      mask_unit_(pretrain.mask_unit),
      side_(model.patch_size << (model.num_stages() - 1)),
      values_(side_ * side_ * model.in_chans),
      encoder_(model_, memory, "encoder.", /*mask_token=*/true, &parameters_),
      unit_(parameters_.BeginUnit("decoder")),
      norm_("encoder.norm", model.num_features(), model.layer_norm_eps, 1, &parameters_),
      weight_(parameters_.Add("decoder.0.weight", {values_, model.num_features(), 1, 1},
                              DecoderStart(model))),
      bias_(parameters_.Add("decoder.0.bias", {values_}, DecoderStart(model))) {}

TensorView SimMim::PatchMask(const TensorView& units, int64_t batch, Arena& activations,
                             const Context& context) const {
  const int64_t down = model_.image_h / mask_unit_, across = model_.image_w / mask_unit_;
  const int64_t tokens = model_.StageTokens(0);
  CHECK(units.shape == Shape({batch, down * across}) || units.shape == Shape({1, down * across}))
      << units.shape << " for " << down << "x" << across << " units";
  const TensorView mask = activations.Allocate({units.shape[0], tokens}, DType::kI32);
  if (mask.device == Device::kDryRun) return mask;
  HostElements<int32_t> patches(mask, context);
  for (int64_t b = 0; b < units.shape[0]; ++b) {
    ExpandMask({units.i32() + b * down * across, static_cast<size_t>(down * across)}, down, across,
               mask_unit_ / model_.patch_size,
               {patches.data() + b * tokens, static_cast<size_t>(tokens)});
  }
  patches.Publish();
  return mask;
}

void SimMim::Forward(const ModelInput& input, const TensorView& output,
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context) {
  const int64_t batch = input.image.shape[0];
  CHECK(input.image.shape == model_.ImageShape(batch)) << input.image.shape;
  CHECK(output.shape == OutputShape(batch)) << output.shape;
  input_ = {input.image, PatchMask(input.mask, batch, activations, context)};
  const TensorView map = encoder_.Forward(input_, options, access, activations, context);
  x_ = map.Reshape({map.NumElements() / model_.num_features(), model_.num_features()});
  Decode(output, options, access, activations, context);
}

template <typename Body>
void SimMim::ForEachPixelChunk(DType dtype, Context& context, const Body& body) const {
  ForEachChunk(x_.shape[0], ChunkRows(values_, x_.dtype, context.device),
               [&](int64_t row, int64_t count) {
                 ArenaScope scope(context.workspace);
                 body(row, count, context.workspace->Allocate({count, values_}, dtype));
               });
}

// A 1x1 convolution and PixelShuffle: a linear layer whose outputs are the pixels of a patch.
void SimMim::Decode(const TensorView& output, const ForwardOptions& options,
                    ParameterAccess& access, Arena& activations, Context& context) {
  const ProfileScope profile(context, parameters_.units()[unit_].name);
  const AcquiredUnit unit(parameters_, access, unit_);
  const TensorView weight = unit[weight_].Reshape({values_, model_.num_features()});
  ArenaScope scope(context.workspace);
  const TensorView normalised = context.workspace->Allocate(x_.shape, x_.dtype);
  norm_.Forward(unit, x_, normalised, {}, {}, activations, context);
  if (options.capture) {
    const int64_t batch = output.shape[0], c = model_.num_features();
    options.capture("encoder", normalised.Reshape({batch, x_.shape[0] / batch, c}));
  }
  ForEachPixelChunk(output.dtype, context,
                    [&](int64_t row, int64_t count, const TensorView& pixels) {
                      context.ops->linear_forward(
                          {normalised.Rows(row, count), weight, unit[bias_], pixels}, context);
                      context.ops->patch_scatter({.rows = pixels,
                                                  .patch_h = side_,
                                                  .patch_w = side_,
                                                  .first_row = row,
                                                  .image = output,
                                                  .patch_t = 1},
                                                 context);
                    });
}

void SimMim::Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                      Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const TensorView dmap = encoder_.OutputGradient(doutput.shape[0], doutput.dtype, activations);
  const TensorView dx = dmap.Reshape(x_.shape);
  {
    const ProfileScope profile(context, parameters_.units()[unit_].name);
    const AcquiredUnit unit(parameters_, access, unit_);
    const TensorView gradient = access.Gradient(unit_);
    const Shape matrix{values_, model_.num_features()};
    const TensorView dweight = unit.At(gradient, weight_).Reshape(matrix);
    ArenaScope inner(context.workspace);
    const TensorView normalised = context.workspace->Allocate(x_.shape, x_.dtype);
    norm_.ForwardAgain(unit, x_, normalised, {}, {}, context);
    ForEachPixelChunk(
        doutput.dtype, context, [&](int64_t row, int64_t count, const TensorView& pixels) {
          context.ops->patch_gather({.image = doutput,
                                     .patch_h = side_,
                                     .patch_w = side_,
                                     .first_row = row,
                                     .rows = pixels,
                                     .patch_t = 1},
                                    context);
          context.ops->linear_backward_weight(
              {pixels, normalised.Rows(row, count), dweight, unit.At(gradient, bias_)}, context);
          context.ops->linear_backward_input(
              {pixels, unit[weight_].Reshape(matrix), dx.Rows(row, count)}, context);
        });
    norm_.Backward(unit, gradient, x_, {}, dx, dx, /*accumulate=*/false, context);
    access.GradientReady(unit_);
  }
  encoder_.Backward(dmap, dimage, access, activations, context);
}

std::vector<double> SimMim::DropPathRates() const {
  return LinearDropPathRates(
      std::accumulate(model_.depths.begin(), model_.depths.end(), int64_t{0}),
      model_.drop_path_rate);
}

}  // namespace swinfleet
