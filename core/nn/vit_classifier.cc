#include "core/nn/vit_classifier.h"

#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {

VitClassifier::VitClassifier(const ModelConfig& model, const MemoryConfig& memory)
    : model_(model),
      patches_(model.StageTokens(0)),
      token_range_(TokenRange(0, 1 + patches_)),
      embedding_(model_, "", /*mask_token=*/false, &parameters_),
      token_unit_(parameters_.BeginUnit("pos_embed")),
      class_token_(parameters_.Add("cls_token", {1, 1, model.embed_dim},
                                   {Initializer::Kind::kTruncatedNormal, 0.02})),
      // MAE's positions, which its checkpoints don't hold: they are learned from here on.
      positions_(parameters_.Add(
          "pos_embed", {1, 1 + patches_, model.embed_dim},
          {Initializer::Kind::kSinCosPositions, static_cast<double>(model.StageW(0))})),
      blocks_(MakeVitBlocks(VitEncoderConfig(model, memory, 1 + patches_), "blocks",
                            model.depths[0], 0, &parameters_)),
      head_unit_(parameters_.BeginUnit("head")),
      norm_("fc_norm", model.embed_dim, model.layer_norm_eps, 1, &parameters_),
      // As main_finetune.py starts the head.
      weight_(parameters_.Add("head.weight", {model.num_classes, model.embed_dim},
                              {Initializer::Kind::kTruncatedNormal, 2e-5})),
      bias_(parameters_.Add("head.bias", {model.num_classes}, {Initializer::Kind::kZeros})) {}

TensorView VitClassifier::ClassIndex(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(token_range_.data()), {1, 1}), context);
}

TensorView VitClassifier::PatchIndex(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(token_range_.data()) + 1, {1, patches_}),
                          context);
}

TensorView VitClassifier::Embed(const ModelInput& input, const ForwardOptions& options,
                                ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = input.image.shape[0], c = model_.embed_dim, all = (1 + patches_) * c;
  const TensorView x = activations.Allocate({batch, 1 + patches_, c}, options.dtype);
  const TensorView patches = embedding_.Forward(input, options, access, activations, context)
                                 .Reshape({batch, patches_, c});
  const ProfileScope profile(context, parameters_.units()[token_unit_].name);
  const AcquiredUnit unit(parameters_, access, token_unit_);
  ArenaScope scope(context.workspace);
  // What all pictures have in common: the positions, and the class token on top of its own.
  const TensorView start = context.workspace->Allocate({1 + patches_, c}, options.dtype);
  context.ops->cast({unit[positions_].Reshape({all}), start.Reshape({all})}, context);
  context.ops->add({unit[class_token_].Reshape({c}), start.Rows(0, 1).Reshape({c})}, context);
  context.ops->fill({x, 0}, context);
  context.ops->token_scatter({patches, PatchIndex(context), x, /*accumulate=*/false}, context);
  context.ops->add_broadcast({start.Reshape({all}), x.Reshape({batch, all})}, context);
  return x;
}

void VitClassifier::Forward(const ModelInput& input, const TensorView& logits,
                            const ForwardOptions& options, ParameterAccess& access,
                            Arena& activations, Context& context) {
  CHECK(input.image.shape == model_.ImageShape(input.image.shape[0])) << input.image.shape;
  CHECK(logits.shape == OutputShape(input.image.shape[0])) << logits.shape;
  TensorView x = Embed(input, options, access, activations, context);
  for (const auto& block : blocks_) {
    x = block->Forward(x, options, access, activations, context);
  }
  Classify(x, logits, options, access, activations, context);
}

void VitClassifier::Classify(const TensorView& x, const TensorView& logits,
                             const ForwardOptions& options, ParameterAccess& access,
                             Arena& activations, Context& context) {
  const int64_t batch = x.shape[0], c = model_.embed_dim;
  const ProfileScope profile(context, parameters_.units()[head_unit_].name);
  const AcquiredUnit unit(parameters_, access, head_unit_);
  pooled_ = activations.Allocate({batch, c}, x.dtype);
  features_ = activations.Allocate({batch, c}, x.dtype);
  {
    ArenaScope scope(context.workspace);
    const TensorView patches = context.workspace->Allocate({batch, patches_, c}, x.dtype);
    context.ops->token_gather({x, PatchIndex(context), patches}, context);
    context.ops->mean_pool_forward({patches, pooled_}, context);
  }
  norm_.Forward(unit, pooled_, features_, {}, {}, activations, context);
  if (options.capture) options.capture("features", features_);
  context.ops->linear_forward({features_, unit[weight_], unit[bias_], logits}, context);
}

void VitClassifier::Backward(const TensorView& dlogits, const TensorView& dimage,
                             ParameterAccess& access, Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const TensorView dx =
      activations.Allocate({dlogits.shape[0], 1 + patches_, model_.embed_dim}, dlogits.dtype);
  ClassifyBackward(dlogits, dx, access, context);
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
    (*block)->Backward(dx, access, activations, context);
  }
  EmbedBackward(dx, dimage, access, activations, context);
}

void VitClassifier::ClassifyBackward(const TensorView& dlogits, const TensorView& dx,
                                     ParameterAccess& access, Context& context) {
  const ProfileScope profile(context, parameters_.units()[head_unit_].name);
  const AcquiredUnit unit(parameters_, access, head_unit_);
  const TensorView gradient = access.Gradient(head_unit_);
  const int64_t batch = dx.shape[0], c = model_.embed_dim;
  context.ops->linear_backward_weight(
      {dlogits, features_, unit.At(gradient, weight_), unit.At(gradient, bias_)}, context);
  ArenaScope scope(context.workspace);
  const TensorView dfeatures = context.workspace->Allocate({batch, c}, dx.dtype);
  const TensorView dpatches = context.workspace->Allocate({batch, patches_, c}, dx.dtype);
  context.ops->linear_backward_input({dlogits, unit[weight_], dfeatures}, context);
  norm_.Backward(unit, gradient, pooled_, {}, dfeatures, dfeatures, /*accumulate=*/false, context);
  context.ops->mean_pool_backward({dfeatures, dpatches}, context);
  // Nothing hangs on the class token's features.
  context.ops->fill({dx, 0}, context);
  context.ops->token_scatter({dpatches, PatchIndex(context), dx, /*accumulate=*/false}, context);
  access.GradientReady(head_unit_);
}

void VitClassifier::EmbedBackward(const TensorView& dx, const TensorView& dimage,
                                  ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = dx.shape[0], c = model_.embed_dim, all = (1 + patches_) * c;
  {
    const ProfileScope profile(context, parameters_.units()[token_unit_].name);
    const AcquiredUnit unit(parameters_, access, token_unit_);
    const TensorView gradient = access.Gradient(token_unit_);
    ArenaScope scope(context.workspace);
    const TensorView dclass = context.workspace->Allocate({batch, 1, c}, dx.dtype);
    context.ops->sum_broadcast(
        {dx.Reshape({batch, all}), unit.At(gradient, positions_).Reshape({all})}, context);
    context.ops->token_gather({dx, ClassIndex(context), dclass}, context);
    context.ops->sum_broadcast(
        {dclass.Reshape({batch, c}), unit.At(gradient, class_token_).Reshape({c})}, context);
    access.GradientReady(token_unit_);
  }
  const TensorView dpatches =
      activations.Allocate({batch, 1, model_.StageH(0), model_.StageW(0), c}, dx.dtype);
  context.ops->token_gather({dx, PatchIndex(context), dpatches.Reshape({batch, patches_, c})},
                            context);
  embedding_.Backward(dpatches, dimage, access, context);
}

std::vector<double> VitClassifier::DropPathRates() const {
  return LinearDropPathRates(static_cast<int64_t>(blocks_.size()), model_.drop_path_rate);
}

}  // namespace swinfleet
