#include "core/nn/classifier_head.h"

#include "kernels/profile.h"

namespace swinfleet {
namespace {

std::string HeadName(const ModelConfig& model) {
  return model.is_video() ? "cls_head.fc_cls" : "head";
}

}  // namespace

ClassifierHead::ClassifierHead(const ModelConfig& model, ParameterTable* table)
    : model_(model),
      table_(*table),
      unit_(table->BeginUnit("head")),
      norm_(model.NamePrefix() + "norm", model.num_features(), model.layer_norm_eps, 1, table),
      weight_(table->Add(HeadName(model) + ".weight", {model.num_classes, model.num_features()},
                         {Initializer::Kind::kTruncatedNormal, model.is_video() ? 0.01 : 0.02})),
      bias_(table->Add(HeadName(model) + ".bias", {model.num_classes},
                       {Initializer::Kind::kZeros})) {}

void ClassifierHead::Forward(const TensorView& x, const TensorView& logits,
                             const ForwardOptions& options, ParameterAccess& access,
                             Arena& activations, Context& context) {
  const int64_t batch = x.shape[0], c = model_.num_features(), rows = x.NumElements() / c;
  const ProfileScope profile(context, "head");
  const AcquiredUnit unit(table_, access, unit_);
  x_ = x.Reshape({rows, c});
  features_ = activations.Allocate({batch, c}, x.dtype);
  ArenaScope scope(context.workspace);
  const TensorView normalised = context.workspace->Allocate({rows, c}, x.dtype);
  norm_.Forward(unit, x_, normalised, {}, {}, activations, context);
  const TensorView tokens = normalised.Reshape({batch, rows / batch, c});
  context.ops->mean_pool_forward({tokens, features_}, context);
  context.ops->linear_forward({features_, unit[weight_], unit[bias_], logits}, context);
  if (options.capture) {
    options.capture("norm", tokens);
    options.capture("features", features_);
  }
}

void ClassifierHead::Backward(const TensorView& dlogits, const TensorView& dx,
                              ParameterAccess& access, Context& context) {
  const int64_t batch = dlogits.shape[0], c = model_.num_features();
  const int64_t rows = dx.NumElements() / c;
  const ProfileScope profile(context, "head");
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  context.ops->linear_backward_weight(
      {dlogits, features_, unit.At(gradient, weight_), unit.At(gradient, bias_)}, context);
  ArenaScope scope(context.workspace);
  const TensorView dfeatures = context.workspace->Allocate({batch, c}, dx.dtype);
  context.ops->linear_backward_input({dlogits, unit[weight_], dfeatures}, context);
  context.ops->mean_pool_backward({dfeatures, dx.Reshape({batch, rows / batch, c})}, context);
  const TensorView dx_rows = dx.Reshape({rows, c});
  norm_.Backward(unit, gradient, x_, {}, dx_rows, dx_rows, /*accumulate=*/false, context);
  access.GradientReady(unit_);
}

}  // namespace swinfleet
