#include "core/nn/swin_block_v2.h"

#include <cmath>

#include "core/nn/chunks.h"

namespace swinfleet {
namespace {

// Hidden units of the position bias's MLP (WindowAttention.cpb_mlp of the official code).
constexpr int64_t kPositionHidden = 512;

}  // namespace

SwinBlockV2::SwinBlockV2(const ModelConfig& config, int stage, int index, int number,
                         ParameterTable* table)
    : config_(config),
      table_(*table),
      name_("layers." + std::to_string(stage) + ".blocks." + std::to_string(index)),
      number_(number),
      height_(config.StageH(stage)),
      width_(config.StageW(stage)),
      channels_(config.StageDim(stage)),
      hidden_(static_cast<int64_t>(static_cast<double>(channels_) * config.mlp_ratio)),
      heads_(config.num_heads[stage]),
      window_(config.StageWindow(stage)),
      shift_(index % 2 == 0 ? 0 : config.StageShift(stage)),
      coords_((2 * window_ - 1) * (2 * window_ - 1) * 2) {
  const int64_t pretrained = config.PretrainedWindow(stage);
  LogSpacedCoordinates(window_, window_, pretrained, pretrained, coords_.data());

  const Initializer zeros = {Initializer::Kind::kZeros};
  const Initializer weights = {Initializer::Kind::kTruncatedNormal, 0.02};
  const auto add = [&](const std::string& name, const Shape& shape, const Initializer& init) {
    return table->Add(name_ + "." + name, shape, init);
  };
  const int64_t c = channels_;
  unit_ = table->BeginUnit(name_);
  logit_scale_ =
      add("attn.logit_scale", {heads_, 1, 1}, {Initializer::Kind::kConstant, std::log(10.0)});
  if (config.qkv_bias) {
    q_bias_ = add("attn.q_bias", {c}, zeros);
    v_bias_ = add("attn.v_bias", {c}, zeros);
  }
  cpb_w1_ = add("attn.cpb_mlp.0.weight", {kPositionHidden, 2}, weights);
  cpb_b1_ = add("attn.cpb_mlp.0.bias", {kPositionHidden}, zeros);
  cpb_w2_ = add("attn.cpb_mlp.2.weight", {heads_, kPositionHidden}, weights);
  qkv_weight_ = add("attn.qkv.weight", {3 * c, c}, weights);
  proj_weight_ = add("attn.proj.weight", {c, c}, weights);
  proj_bias_ = add("attn.proj.bias", {c}, zeros);
  // Residual post-norm starts as the identity: gains and biases of both norms are zero.
  norm1_gamma_ = add("norm1.weight", {c}, zeros);
  norm1_beta_ = add("norm1.bias", {c}, zeros);
  fc1_weight_ = add("mlp.fc1.weight", {hidden_, c}, weights);
  fc1_bias_ = add("mlp.fc1.bias", {hidden_}, zeros);
  fc2_weight_ = add("mlp.fc2.weight", {c, hidden_}, weights);
  fc2_bias_ = add("mlp.fc2.bias", {c}, zeros);
  norm2_gamma_ = add("norm2.weight", {c}, zeros);
  norm2_beta_ = add("norm2.bias", {c}, zeros);
  if (config.extra_norm_period > 0 && (index + 1) % config.extra_norm_period == 0) {
    norm3_gamma_ = add("norm3.weight", {c}, {Initializer::Kind::kOnes});
    norm3_beta_ = add("norm3.bias", {c}, zeros);
  }
}

WindowGeometry SwinBlockV2::Geometry(int64_t batch) const {
  return {.batch = batch,
          .height = height_,
          .width = width_,
          .window_h = window_,
          .window_w = window_,
          .shift_h = shift_,
          .shift_w = shift_};
}

TensorView SwinBlockV2::DropPathScale(const ForwardOptions& options, int branch, int64_t batch,
                                      Arena& activations) const {
  if (!options.drop_path_factor) return {};
  const TensorView scale = activations.Allocate({batch});
  if (scale.device == Device::kDryRun) return scale;
  for (int64_t b = 0; b < batch; ++b) {
    scale.span()[b] = options.drop_path_factor(number_, branch, b);
  }
  return scale;
}

void SwinBlockV2::ComputeBias(const AcquiredUnit& unit, const TensorView& bias,
                              Context& context) const {
  const TensorView coords =
      ViewOf(const_cast<float*>(coords_.data()), {static_cast<int64_t>(coords_.size()) / 2, 2});
  context.ops->position_bias_forward({.window_h = window_,
                                      .window_w = window_,
                                      .coords = coords,
                                      .w1 = unit[cpb_w1_],
                                      .b1 = unit[cpb_b1_],
                                      .w2 = unit[cpb_w2_],
                                      .bias = bias},
                                     context);
}

TensorView SwinBlockV2::Forward(const TensorView& x, const ForwardOptions& options,
                                ParameterAccess& access, Arena& activations, Context& context) {
  const AcquiredUnit unit(table_, access, unit_);
  const int64_t batch = x.shape[0], rows = x.NumElements() / channels_;
  const size_t mark = activations.Mark();
  x_ = x.Reshape({rows, channels_});
  x1_ = AttentionForward(unit, x_, options, activations, context);
  TensorView y = MlpForward(unit, x1_, options, activations, context);
  if (norm3_gamma_ >= 0) {
    x2_ = y;
    if (options.keep_for_backward) y = activations.Allocate({rows, channels_});
    mean3_ = activations.Allocate({rows});
    rstd3_ = activations.Allocate({rows});
    context.ops->layer_norm_forward({.x = x2_,
                                     .gamma = unit[norm3_gamma_],
                                     .beta = unit[norm3_beta_],
                                     .residual = {},
                                     .scale = {},
                                     .y = y,
                                     .mean = mean3_,
                                     .rstd = rstd3_,
                                     .eps = static_cast<float>(config_.layer_norm_eps)},
                                    context);
  }
  if (!options.keep_for_backward) activations.Release(mark);
  if (options.capture) options.capture(name_, y.Reshape({batch, rows / batch, channels_}));
  return y.Reshape(x.shape);
}

TensorView SwinBlockV2::AttentionForward(const AcquiredUnit& unit, const TensorView& x,
                                         const ForwardOptions& options, Arena& activations,
                                         Context& context) {
  const int64_t rows = x.shape[0], c = channels_, tokens = window_ * window_;
  const int64_t batch = rows / (height_ * width_);
  qkv_ = activations.Allocate({rows, 3 * c});
  attention_ = activations.Allocate({rows, c});
  lse_ = activations.Allocate({rows, heads_});
  {
    ArenaScope scope(context.workspace);
    TensorView qkv_bias;
    if (q_bias_ >= 0) {
      // The keys have no bias.
      qkv_bias = context.workspace->Allocate({3, c});
      context.ops->fill({qkv_bias, 0}, context);
      context.ops->add({unit[q_bias_], qkv_bias.Rows(0, 1)}, context);
      context.ops->add({unit[v_bias_], qkv_bias.Rows(2, 1)}, context);
      qkv_bias = qkv_bias.Reshape({3 * c});
    }
    context.ops->linear_forward({x, unit[qkv_weight_], qkv_bias, qkv_}, context);
  }
  {
    ArenaScope scope(context.workspace);
    const TensorView bias = context.workspace->Allocate({heads_, tokens, tokens});
    ComputeBias(unit, bias, context);
    context.ops->window_attention_forward({.geometry = Geometry(batch),
                                           .heads = heads_,
                                           .qkv = qkv_.Reshape({batch, height_, width_, 3 * c}),
                                           .logit_scale = unit[logit_scale_],
                                           .bias = bias,
                                           .out = attention_.Reshape({batch, height_, width_, c}),
                                           .lse = lse_.Reshape({batch, height_, width_, heads_})},
                                          context);
  }
  projected_ = activations.Allocate({rows, c});
  context.ops->linear_forward({attention_, unit[proj_weight_], unit[proj_bias_], projected_},
                              context);
  const TensorView x1 = options.keep_for_backward ? activations.Allocate({rows, c}) : x;
  mean1_ = activations.Allocate({rows});
  rstd1_ = activations.Allocate({rows});
  scale1_ = DropPathScale(options, 0, batch, activations);
  context.ops->layer_norm_forward({.x = projected_,
                                   .gamma = unit[norm1_gamma_],
                                   .beta = unit[norm1_beta_],
                                   .residual = x,
                                   .scale = scale1_,
                                   .y = x1,
                                   .mean = mean1_,
                                   .rstd = rstd1_,
                                   .eps = static_cast<float>(config_.layer_norm_eps)},
                                  context);
  return x1;
}

TensorView SwinBlockV2::MlpForward(const AcquiredUnit& unit, const TensorView& x1,
                                   const ForwardOptions& options, Arena& activations,
                                   Context& context) {
  const int64_t rows = x1.shape[0], c = channels_, batch = rows / (height_ * width_);
  const int64_t chunk = ChunkRows(hidden_);
  const bool keep = options.keep_for_backward;
  hidden_values_ = activations.Allocate({keep ? rows : std::min(rows, chunk), hidden_});
  mlp_out_ = activations.Allocate({rows, c});
  ForEachChunk(rows, chunk, [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView hidden = hidden_values_.Rows(keep ? row : 0, count);
    const TensorView activated = context.workspace->Allocate({count, hidden_});
    context.ops->linear_forward({x1.Rows(row, count), unit[fc1_weight_], unit[fc1_bias_], hidden},
                                context);
    context.ops->gelu_forward({hidden, activated}, context);
    context.ops->linear_forward(
        {activated, unit[fc2_weight_], unit[fc2_bias_], mlp_out_.Rows(row, count)}, context);
  });
  const TensorView x2 = keep ? activations.Allocate({rows, c}) : x1;
  mean2_ = activations.Allocate({rows});
  rstd2_ = activations.Allocate({rows});
  scale2_ = DropPathScale(options, 1, batch, activations);
  context.ops->layer_norm_forward({.x = mlp_out_,
                                   .gamma = unit[norm2_gamma_],
                                   .beta = unit[norm2_beta_],
                                   .residual = x1,
                                   .scale = scale2_,
                                   .y = x2,
                                   .mean = mean2_,
                                   .rstd = rstd2_,
                                   .eps = static_cast<float>(config_.layer_norm_eps)},
                                  context);
  return x2;
}

void SwinBlockV2::Backward(const TensorView& dy, ParameterAccess& access, Context& context) {
  const AcquiredUnit unit(table_, access, unit_);
  const TensorView gradient = access.Gradient(unit_);
  const TensorView dx = dy.Reshape({dy.NumElements() / channels_, channels_});
  if (norm3_gamma_ >= 0) {
    context.ops->layer_norm_backward({.x = x2_,
                                      .gamma = unit[norm3_gamma_],
                                      .mean = mean3_,
                                      .rstd = rstd3_,
                                      .scale = {},
                                      .dy = dx,
                                      .dx = dx,
                                      .dgamma = unit.At(gradient, norm3_gamma_),
                                      .dbeta = unit.At(gradient, norm3_beta_)},
                                     context);
  }
  MlpBackward(unit, gradient, dx, context);
  AttentionBackward(unit, gradient, dx, context);
  access.GradientReady(unit_);
}

void SwinBlockV2::MlpBackward(const AcquiredUnit& unit, const TensorView& gradient,
                              const TensorView& dy, Context& context) {
  ArenaScope scope(context.workspace);
  const int64_t rows = dy.shape[0];
  const TensorView dmlp_out = context.workspace->Allocate(dy.shape);
  context.ops->layer_norm_backward({.x = mlp_out_,
                                    .gamma = unit[norm2_gamma_],
                                    .mean = mean2_,
                                    .rstd = rstd2_,
                                    .scale = scale2_,
                                    .dy = dy,
                                    .dx = dmlp_out,
                                    .dgamma = unit.At(gradient, norm2_gamma_),
                                    .dbeta = unit.At(gradient, norm2_beta_)},
                                   context);
  ForEachChunk(rows, ChunkRows(hidden_), [&](int64_t row, int64_t count) {
    ArenaScope chunk_scope(context.workspace);
    const TensorView dhidden = context.workspace->Allocate({count, hidden_});
    const TensorView activated = context.workspace->Allocate({count, hidden_});
    const TensorView dout = dmlp_out.Rows(row, count);
    context.ops->linear_backward_input({dout, unit[fc2_weight_], dhidden}, context);
    context.ops->gelu_backward({hidden_values_.Rows(row, count), dhidden, dhidden, activated},
                               context);
    context.ops->linear_backward_weight(
        {dout, activated, unit.At(gradient, fc2_weight_), unit.At(gradient, fc2_bias_)}, context);
    context.ops->linear_backward_weight(
        {dhidden, x1_.Rows(row, count), unit.At(gradient, fc1_weight_),
         unit.At(gradient, fc1_bias_)},
        context);
    // The residual's gradient is there already.
    context.ops->linear_backward_input(
        {dhidden, unit[fc1_weight_], dy.Rows(row, count), /*accumulate=*/true}, context);
  });
}

void SwinBlockV2::AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                    const TensorView& dy, Context& context) {
  ArenaScope scope(context.workspace);
  const int64_t rows = dy.shape[0], c = channels_;
  const TensorView dqkv = context.workspace->Allocate({rows, 3 * c});
  {
    ArenaScope inner(context.workspace);
    const TensorView dprojected = context.workspace->Allocate(dy.shape);
    const TensorView dattention = context.workspace->Allocate(dy.shape);
    context.ops->layer_norm_backward({.x = projected_,
                                      .gamma = unit[norm1_gamma_],
                                      .mean = mean1_,
                                      .rstd = rstd1_,
                                      .scale = scale1_,
                                      .dy = dy,
                                      .dx = dprojected,
                                      .dgamma = unit.At(gradient, norm1_gamma_),
                                      .dbeta = unit.At(gradient, norm1_beta_)},
                                     context);
    context.ops->linear_backward_weight(
        {dprojected, attention_, unit.At(gradient, proj_weight_), unit.At(gradient, proj_bias_)},
        context);
    context.ops->linear_backward_input({dprojected, unit[proj_weight_], dattention}, context);
    AttentionCoreBackward(unit, gradient, dattention, dqkv, context);
  }
  TensorView dqkv_bias;
  if (q_bias_ >= 0) {
    dqkv_bias = context.workspace->Allocate({3, c});
    context.ops->fill({dqkv_bias, 0}, context);
  }
  context.ops->linear_backward_weight(
      {dqkv, x_, unit.At(gradient, qkv_weight_),
       dqkv_bias.empty() ? TensorView{} : dqkv_bias.Reshape({3 * c})},
      context);
  if (q_bias_ >= 0) {
    context.ops->add({dqkv_bias.Rows(0, 1), unit.At(gradient, q_bias_)}, context);
    context.ops->add({dqkv_bias.Rows(2, 1), unit.At(gradient, v_bias_)}, context);
  }
  context.ops->linear_backward_input({dqkv, unit[qkv_weight_], dy, /*accumulate=*/true}, context);
}

void SwinBlockV2::AttentionCoreBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                        const TensorView& dattention, const TensorView& dqkv,
                                        Context& context) {
  ArenaScope scope(context.workspace);
  const int64_t rows = dqkv.shape[0], c = channels_, tokens = window_ * window_;
  const int64_t batch = rows / (height_ * width_);
  const TensorView bias = context.workspace->Allocate({heads_, tokens, tokens});
  const TensorView dbias = context.workspace->Allocate({heads_, tokens, tokens});
  ComputeBias(unit, bias, context);
  context.ops->fill({dbias, 0}, context);
  context.ops->window_attention_backward({.geometry = Geometry(batch),
                                          .heads = heads_,
                                          .qkv = qkv_.Reshape({batch, height_, width_, 3 * c}),
                                          .logit_scale = unit[logit_scale_],
                                          .bias = bias,
                                          .lse = lse_.Reshape({batch, height_, width_, heads_}),
                                          .dout = dattention.Reshape({batch, height_, width_, c}),
                                          .dqkv = dqkv.Reshape({batch, height_, width_, 3 * c}),
                                          .dlogit_scale = unit.At(gradient, logit_scale_),
                                          .dbias = dbias},
                                         context);
  const TensorView coords = ViewOf(coords_.data(), {static_cast<int64_t>(coords_.size()) / 2, 2});
  context.ops->position_bias_backward({.window_h = window_,
                                       .window_w = window_,
                                       .coords = coords,
                                       .w1 = unit[cpb_w1_],
                                       .b1 = unit[cpb_b1_],
                                       .w2 = unit[cpb_w2_],
                                       .dbias = dbias,
                                       .dw1 = unit.At(gradient, cpb_w1_),
                                       .db1 = unit.At(gradient, cpb_b1_),
                                       .dw2 = unit.At(gradient, cpb_w2_)},
                                      context);
}

}  // namespace swinfleet
