#include "core/nn/mlp.h"

#include "kernels/chunks.h"
#include "kernels/profile.h"

namespace swinfleet {

Mlp::Mlp(const std::string& name, int64_t channels, int64_t hidden, bool recompute,
         ParameterTable* table)
    : name_(name), hidden_(hidden), recompute_(recompute) {
  const Initializer zeros = {Initializer::Kind::kZeros};
  const Initializer weights = {Initializer::Kind::kTruncatedNormal, 0.02};
  fc1_weight_ = table->AddProductWeight(name + ".fc1.weight", {hidden, channels}, weights);
  fc1_bias_ = table->Add(name + ".fc1.bias", {hidden}, zeros);
  fc2_weight_ = table->AddProductWeight(name + ".fc2.weight", {channels, hidden}, weights);
  fc2_bias_ = table->Add(name + ".fc2.bias", {channels}, zeros);
}

void Mlp::Forward(const AcquiredUnit& unit, const TensorView& x, const TensorView& y, bool keep,
                  Arena& activations, Context& context) {
  const ProfileScope profile(context, name_);
  const int64_t rows = x.shape[0];
  hidden_values_ = {};
  if (keep && !recompute_) hidden_values_ = activations.Allocate({rows, hidden_}, x.dtype);
  ForEachChunk(rows, ChunkRows(hidden_, x.dtype, context.device), [&](int64_t row, int64_t count) {
    ArenaScope scope(context.workspace);
    const TensorView activated = context.workspace->Allocate({count, hidden_}, x.dtype);
    const TensorView hidden = hidden_values_.empty()
                                  ? context.workspace->Allocate({count, hidden_}, x.dtype)
                                  : hidden_values_.Rows(row, count);
    context.ops->linear_forward({x.Rows(row, count), unit[fc1_weight_], unit[fc1_bias_], hidden},
                                context);
    context.ops->gelu_forward({hidden, activated}, context);
    context.ops->linear_forward({activated, unit[fc2_weight_], unit[fc2_bias_], y.Rows(row, count)},
                                context);
  });
}

void Mlp::Backward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& x,
                   const TensorView& dy, const TensorView& dx, bool accumulate, Context& context) {
  const ProfileScope profile(context, name_);
  ForEachChunkFromEnd(
      x.shape[0], ChunkRows(hidden_, x.dtype, context.device), [&](int64_t row, int64_t count) {
        ArenaScope scope(context.workspace);
        const TensorView dhidden = context.workspace->Allocate({count, hidden_}, x.dtype);
        const TensorView inputs = x.Rows(row, count), dout = dy.Rows(row, count);
        TensorView hidden;
        if (hidden_values_.empty()) {
          hidden = context.workspace->Allocate({count, hidden_}, x.dtype);
          context.ops->linear_forward({inputs, unit[fc1_weight_], unit[fc1_bias_], hidden},
                                      context);
        } else {
          hidden = hidden_values_.Rows(row, count);
        }
        context.ops->linear_backward_input({dout, unit[fc2_weight_], dhidden}, context);
        const TensorView activated = hidden;
        context.ops->gelu_backward(
            {hidden, dhidden, dhidden, activated, unit.At(gradient, fc1_bias_)}, context);
        context.ops->linear_backward_weight(
            {dout, activated, unit.At(gradient, fc2_weight_), unit.At(gradient, fc2_bias_),
             unit.Accumulates(fc2_weight_)},
            context);
        context.ops->linear_backward_weight({dhidden, inputs, unit.At(gradient, fc1_weight_),
                                             /*dbias=*/{}, unit.Accumulates(fc1_weight_)},
                                            context);
        context.ops->linear_backward_input(
            {dhidden, unit[fc1_weight_], dx.Rows(row, count), accumulate}, context);
      });
}

}  // namespace swinfleet
