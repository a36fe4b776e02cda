// Layer normalisation over channels.
#ifndef SWINFLEET_CORE_NN_LAYER_NORM_H_
#define SWINFLEET_CORE_NN_LAYER_NORM_H_

#include <string>

#include "core/nn/parameters.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// Part of a unit: the caller acquires it and passes it on.
class LayerNorm {
 public:
  // Adds NAME.weight (all `gain`) and NAME.bias to the table's newest unit.
  LayerNorm(const std::string& name, int64_t channels, double eps, double gain,
            ParameterTable* table);

  // y = residual + scale[b] * norm(x), or norm(x) without a residual. Statistics are kept in
  // `activations`.
  void Forward(const AcquiredUnit& unit,
               const TensorView& x,         // (M, C)
               const TensorView& y,         // (M, C); may be x or the residual
               const TensorView& residual,  // (M, C) or absent
               const TensorView& scale,     // f32 (B) or absent
               Arena& activations, Context& context);
  // The latest Forward once more, into another y.
  void ForwardAgain(const AcquiredUnit& unit, const TensorView& x, const TensorView& y,
                    const TensorView& residual, const TensorView& scale, Context& context);
  // dx = (or, with `accumulate`, +=) the gradient through the normalisation.
  void Backward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& x,
                const TensorView& scale,
                const TensorView& dy,  // (M, C)
                const TensorView& dx,  // (M, C); may be dy
                bool accumulate, Context& context);

 private:
  const std::string name_;
  int gamma_, beta_;
  float eps_;
  TensorView mean_, rstd_;  // f32 (M)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_LAYER_NORM_H_
