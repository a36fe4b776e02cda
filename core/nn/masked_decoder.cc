#include "core/nn/masked_decoder.h"

#include <numeric>

#include "core/nn/sin_cos_positions.h"
#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {

MaskedDecoder::Config MaskedDecoder::ConfigFor(const ModelConfig& model,
                                               const PretrainConfig& pretrain,
                                               const MemoryConfig& memory) {
  const int last = model.num_stages() - 1;
  const int64_t side = model.patch_size << last;
  Config config;
  config.channels = model.num_features();
  config.grid_h = model.StageH(last);
  config.grid_w = model.StageW(last);
  config.class_token = pretrain.method == PretrainConfig::Method::kMae;
  config.values = side * side * model.in_chans;
  config.depth = pretrain.decoder_depth;
  config.first_block =
      static_cast<int>(std::accumulate(model.depths.begin(), model.depths.end(), int64_t{0}));
  config.vit = {.channels = pretrain.decoder_dim,
                .heads = pretrain.decoder_heads,
                .mlp_ratio = model.mlp_ratio,
                .layer_norm_eps = model.layer_norm_eps,
                .checkpointing = memory.StageCheckpointing(last),
                .sequential_windows = memory.StageSequentialWindows(last)};
  return config;
}

MaskedDecoder::MaskedDecoder(const Config& config, ParameterTable* table)
    : config_(config),
      table_(*table),
      positions_(
          SinCosPositions(config.vit.channels, config.grid_h, config.grid_w, config.class_token)),
      patch_places_(TokenRange(config.class_token ? 1 : 0, patches())),
      embed_unit_(table->BeginUnit("decoder_embed")),
      mask_token_(table->Add("mask_token", {1, 1, config.vit.channels},
                             {Initializer::Kind::kTruncatedNormal, 0.02})),
      embed_weight_(table->Add("decoder_embed.weight", {config.vit.channels, config.channels}, {})),
      embed_bias_(table->Add("decoder_embed.bias", {config.vit.channels}, {})),
      blocks_([&] {
        VitConfig vit = config.vit;
        vit.tokens = places();
        return MakeVitBlocks(vit, "decoder_blocks", config.depth, config.first_block, table);
      }()),
      predict_unit_(table->BeginUnit("decoder_pred")),
      norm_("decoder_norm", config.vit.channels, config.vit.layer_norm_eps, 1, table),
      predict_weight_(table->Add("decoder_pred.weight", {config.values, config.vit.channels}, {})),
      predict_bias_(table->Add("decoder_pred.bias", {config.values}, {})) {
  UseXavier("decoder_", table);
}

TensorView MaskedDecoder::PatchIndex(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(patch_places_.data()), {1, patches()}),
                          context);
}

TensorView MaskedDecoder::Embed(const TensorView& latent, ParameterAccess& access,
                                Arena& activations, Context& context) {
  const ProfileScope profile(context, table_.units()[embed_unit_].name);
  const AcquiredUnit unit(table_, access, embed_unit_);
  const int64_t batch = latent.shape[0], tokens = latent.shape[1], d = config_.vit.channels;
  const TensorView x = activations.Allocate({batch, places(), d}, latent.dtype);
  ArenaScope scope(context.workspace);
  const TensorView embedded = context.workspace->Allocate({batch, tokens, d}, latent.dtype);
  context.ops->linear_forward(
      {latent.Reshape({batch * tokens, config_.channels}), unit[embed_weight_], unit[embed_bias_],
       embedded.Reshape({batch * tokens, d})},
      context);
  context.ops->token_gather({embedded, places_.token, x}, context);
  context.ops->mask_tokens_forward({places_.masked, unit[mask_token_], x}, context);
  const TensorView positions = context.workspace->Allocate({places() * d}, latent.dtype);
  const TensorView wide = ViewOf(const_cast<float*>(positions_.data()), {places() * d});
  context.ops->cast({ConstantOnDevice(wide, context), positions}, context);
  context.ops->add_broadcast({positions, x.Reshape({batch, places() * d})}, context);
  return x;
}

void MaskedDecoder::Forward(const TensorView& latent, const DecoderPlaces& places,
                            const TensorView& output, const ForwardOptions& options,
                            ParameterAccess& access, Arena& activations, Context& context) {
  const int64_t batch = latent.shape[0], d = config_.vit.channels, rows = batch * patches();
  latent_ = latent;
  places_ = places;
  TensorView x = Embed(latent, access, activations, context);
  for (const auto& block : blocks_) {
    x = block->Forward(x, options, access, activations, context);
  }
  patches_ = x;
  if (config_.class_token) {
    patches_ = activations.Allocate({batch, patches(), d}, x.dtype);
    context.ops->token_gather({x, PatchIndex(context), patches_}, context);
  }
  patches_ = patches_.Reshape({rows, d});
  const ProfileScope profile(context, table_.units()[predict_unit_].name);
  const AcquiredUnit unit(table_, access, predict_unit_);
  ArenaScope scope(context.workspace);
  const TensorView normalised = context.workspace->Allocate({rows, d}, x.dtype);
  norm_.Forward(unit, patches_, normalised, {}, {}, activations, context);
  context.ops->linear_forward({normalised, unit[predict_weight_], unit[predict_bias_],
                               output.Reshape({rows, config_.values})},
                              context);
}

void MaskedDecoder::Backward(const TensorView& doutput, const TensorView& dlatent,
                             ParameterAccess& access, Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const TensorView dx =
      activations.Allocate({doutput.shape[0], places(), config_.vit.channels}, doutput.dtype);
  PredictBackward(doutput, dx, access, context);
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
    (*block)->Backward(dx, access, activations, context);
  }
  EmbedBackward(dx, dlatent, access, context);
}

void MaskedDecoder::PredictBackward(const TensorView& doutput, const TensorView& dx,
                                    ParameterAccess& access, Context& context) {
  const ProfileScope profile(context, table_.units()[predict_unit_].name);
  const AcquiredUnit unit(table_, access, predict_unit_);
  const TensorView gradient = access.Gradient(predict_unit_);
  const int64_t rows = patches_.shape[0], d = config_.vit.channels;
  const TensorView drows = doutput.Reshape({rows, config_.values});
  ArenaScope scope(context.workspace);
  const TensorView normalised = context.workspace->Allocate({rows, d}, dx.dtype);
  norm_.ForwardAgain(unit, patches_, normalised, {}, {}, context);
  context.ops->linear_backward_weight(
      {drows, normalised, unit.At(gradient, predict_weight_), unit.At(gradient, predict_bias_)},
      context);
  // The normalised values are needed no more.
  context.ops->linear_backward_input({drows, unit[predict_weight_], normalised}, context);
  const TensorView dpatches = config_.class_token ? normalised : dx.Reshape({rows, d});
  norm_.Backward(unit, gradient, patches_, {}, normalised, dpatches, /*accumulate=*/false, context);
  if (config_.class_token) {
    context.ops->fill({dx, 0}, context);
    context.ops->token_scatter(
        {dpatches.Reshape({dx.shape[0], patches(), d}), PatchIndex(context), dx,
         /*accumulate=*/false},
        context);
  }
  access.GradientReady(predict_unit_);
}

void MaskedDecoder::EmbedBackward(const TensorView& dx, const TensorView& dlatent,
                                  ParameterAccess& access, Context& context) {
  const ProfileScope profile(context, table_.units()[embed_unit_].name);
  const AcquiredUnit unit(table_, access, embed_unit_);
  const TensorView gradient = access.Gradient(embed_unit_);
  const int64_t rows = latent_.shape[0] * latent_.shape[1], d = config_.vit.channels;
  context.ops->mask_tokens_backward({places_.masked, dx, unit.At(gradient, mask_token_)}, context);
  ArenaScope scope(context.workspace);
  const TensorView dembedded =
      context.workspace->Allocate({latent_.shape[0], latent_.shape[1], d}, dx.dtype);
  // Each of the encoder's tokens has one place.
  context.ops->token_scatter({dx, places_.token, dembedded, /*accumulate=*/false}, context);
  context.ops->linear_backward_weight(
      {dembedded.Reshape({rows, d}), latent_.Reshape({rows, config_.channels}),
       unit.At(gradient, embed_weight_), unit.At(gradient, embed_bias_)},
      context);
  context.ops->linear_backward_input({dembedded.Reshape({rows, d}), unit[embed_weight_],
                                      dlatent.Reshape({rows, config_.channels})},
                                     context);
  access.GradientReady(embed_unit_);
}

}  // namespace swinfleet
