#include "core/nn/mae.h"

#include "core/data/mask.h"
#include "core/nn/sin_cos_positions.h"
#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {

Mae::Mae(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory)
    : model_(model),
      patches_of_picture_(model.StageTokens(0)),
      visible_(patches_of_picture_ -
               MaskedUnits(pretrain.method, patches_of_picture_, pretrain.mask_ratio)),
      positions_(SinCosPositions(model.embed_dim, model.StageH(0), model.StageW(0),
                                 /*class_token=*/true)),
      token_range_(TokenRange(0, 1 + visible_)),
      patches_(model_, "", &parameters_),
      class_unit_(parameters_.BeginUnit("cls_token")),
      class_token_(parameters_.Add("cls_token", {1, 1, model.embed_dim},
                                   {Initializer::Kind::kTruncatedNormal, 0.02})),
      blocks_(MakeVitBlocks(VitEncoderConfig(model, memory, 1 + visible_), "blocks",
                            model.depths[0], 0, &parameters_)),
      norm_unit_(parameters_.BeginUnit("norm")),
      norm_("norm", model.embed_dim, model.layer_norm_eps, 1, &parameters_),
      decoder_(MaskedDecoder::ConfigFor(model, pretrain, memory), &parameters_) {
  UseXavier("", &parameters_);
}

Shape Mae::OutputShape(int64_t batch) const {
  return {batch, patches_of_picture_, model_.patch_size * model_.patch_size * model_.in_chans};
}

TensorView Mae::ClassIndex(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(token_range_.data()), {1, 1}), context);
}

TensorView Mae::PatchIndex(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(token_range_.data()) + 1, {1, visible_}),
                          context);
}

void Mae::MakeIndices(const TensorView& mask, Arena& activations, const Context& context) {
  const int64_t batch = mask.shape[0], all = patches_of_picture_;
  visible_patches_ = activations.Allocate({batch, visible_}, DType::kI32);
  position_index_ = activations.Allocate({1, batch * (1 + visible_)}, DType::kI32);
  places_.token = activations.Allocate({batch, 1 + all}, DType::kI32);
  places_.masked = activations.Allocate({batch, 1 + all}, DType::kI32);
  if (activations.device() != Device::kDryRun) FillIndices(mask, context);
}

void Mae::FillIndices(const TensorView& mask, const Context& context) {
  HostElements<int32_t> visible_patches(visible_patches_, context);
  HostElements<int32_t> position_index(position_index_, context);
  HostElements<int32_t> tokens(places_.token, context), all_hidden(places_.masked, context);
  const int64_t all = patches_of_picture_;
  for (int64_t b = 0; b < mask.shape[0]; ++b) {
    const int32_t* masked = mask.i32() + b * all;
    int32_t* visible = visible_patches.data() + b * visible_;
    int32_t* position = position_index.data() + b * (1 + visible_);
    int32_t* token = tokens.data() + b * (1 + all);
    int32_t* hidden = all_hidden.data() + b * (1 + all);
    // The class token comes first everywhere.
    position[0] = token[0] = hidden[0] = 0;
    int32_t seen = 0;
    for (int32_t patch = 0; patch < all; ++patch) {
      hidden[1 + patch] = masked[patch] != 0;
      token[1 + patch] = -1;
      if (masked[patch] != 0) continue;
      CHECK_LT(seen, visible_) << "a mask of picture " << b << " leaves too many patches";
      visible[seen] = patch;
      position[1 + seen] = 1 + patch;
      token[1 + patch] = ++seen;
    }
    CHECK_EQ(seen, visible_) << "patches that the mask of picture " << b << " leaves";
  }
  for (HostElements<int32_t>* indices : {&visible_patches, &position_index, &tokens, &all_hidden}) {
    indices->Publish();
  }
}

TensorView Mae::Embed(const TensorView& image, const ForwardOptions& options,
                      ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = image.shape[0], c = model_.embed_dim, all = 1 + patches_of_picture_;
  const TensorView x = activations.Allocate({batch, 1 + visible_, c}, options.dtype);
  {
    const ProfileScope profile(context, parameters_.units()[class_unit_].name);
    const AcquiredUnit unit(parameters_, access, class_unit_);
    ArenaScope scope(context.workspace);
    const TensorView start = context.workspace->Allocate({all, c}, options.dtype);
    const TensorView wide = ViewOf(const_cast<float*>(positions_.data()), {all * c});
    context.ops->cast({ConstantOnDevice(wide, context), start.Reshape({all * c})}, context);
    context.ops->add({unit[class_token_].Reshape({c}), start.Rows(0, 1).Reshape({c})}, context);
    context.ops->token_gather(
        {start.Reshape({1, all, c}), position_index_, x.Reshape({1, batch * (1 + visible_), c})},
        context);
  }
  const TensorView patches =
      patches_.Forward(image, visible_patches_, options, access, activations, context);
  context.ops->token_scatter({patches, PatchIndex(context), x, /*accumulate=*/true}, context);
  return x;
}

void Mae::Forward(const ModelInput& input, const TensorView& output, const ForwardOptions& options,
                  ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = input.image.shape[0], c = model_.embed_dim, tokens = 1 + visible_;
  CHECK(input.image.shape == model_.ImageShape(batch)) << input.image.shape;
  CHECK(input.mask.shape == Shape({batch, patches_of_picture_})) << input.mask.shape;
  CHECK(output.shape == OutputShape(batch)) << output.shape;
  MakeIndices(input.mask, activations, context);
  TensorView x = Embed(input.image, options, access, activations, context);
  for (const auto& block : blocks_) {
    x = block->Forward(x, options, access, activations, context);
  }
  x_ = x.Reshape({batch * tokens, c});
  const TensorView latent = activations.Allocate({batch, tokens, c}, options.dtype);
  {
    const ProfileScope profile(context, parameters_.units()[norm_unit_].name);
    const AcquiredUnit unit(parameters_, access, norm_unit_);
    norm_.Forward(unit, x_, latent.Reshape(x_.shape), {}, {}, activations, context);
  }
  if (options.capture) options.capture("latent", latent);
  decoder_.Forward(latent, places_, output, options, access, activations, context);
}

void Mae::Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                   Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const TensorView dx =
      activations.Allocate({doutput.shape[0], 1 + visible_, model_.embed_dim}, doutput.dtype);
  decoder_.Backward(doutput, dx, access, activations, context);
  {
    const ProfileScope profile(context, parameters_.units()[norm_unit_].name);
    const AcquiredUnit unit(parameters_, access, norm_unit_);
    const TensorView drows = dx.Reshape(x_.shape);
    norm_.Backward(unit, access.Gradient(norm_unit_), x_, {}, drows, drows, /*accumulate=*/false,
                   context);
    access.GradientReady(norm_unit_);
  }
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
    (*block)->Backward(dx, access, activations, context);
  }
  EmbedBackward(dx, dimage, access, activations, context);
}

void Mae::EmbedBackward(const TensorView& dx, const TensorView& dimage, ParameterAccess& access,
                        Arena& activations, Context& context) {
  const int64_t batch = dx.shape[0], c = model_.embed_dim;
  {
    const ProfileScope profile(context, parameters_.units()[class_unit_].name);
    const AcquiredUnit unit(parameters_, access, class_unit_);
    ArenaScope scope(context.workspace);
    const TensorView dclass = context.workspace->Allocate({batch, 1, c}, dx.dtype);
    context.ops->token_gather({dx, ClassIndex(context), dclass}, context);
    context.ops->sum_broadcast({dclass.Reshape({batch, c}),
                                unit.At(access.Gradient(class_unit_), class_token_).Reshape({c})},
                               context);
    access.GradientReady(class_unit_);
  }
  const TensorView dpatches = activations.Allocate({batch, visible_, c}, dx.dtype);
  context.ops->token_gather({dx, PatchIndex(context), dpatches}, context);
  patches_.Backward(dpatches, dimage, access, context);
}

std::vector<double> Mae::DropPathRates() const {
  return std::vector<double>(blocks_.size() + decoder_.depth(), 0.0);
}

}  // namespace swinfleet
