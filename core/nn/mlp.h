// The two-layer perceptron of a block.
#ifndef SWINFLEET_CORE_NN_MLP_H_
#define SWINFLEET_CORE_NN_MLP_H_

#include <string>

#include "core/nn/parameters.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// y = fc2(gelu(fc1(x))), token by token (Mlp of the official code). Part of a unit.
class Mlp {
 public:
  // Adds NAME.fc1 and NAME.fc2. With `recompute` the hidden values are computed again in Backward.
  Mlp(const std::string& name, int64_t channels, int64_t hidden, bool recompute,
      ParameterTable* table);

  void Forward(const AcquiredUnit& unit,
               const TensorView& x,  // (M, C)
               const TensorView& y,  // (M, C); may be x itself
               bool keep, Arena& activations, Context& context);
  // Once for each Forward: what that kept gives way.
  void Backward(const AcquiredUnit& unit, const TensorView& gradient,
                const TensorView& x,   // (M, C), as in Forward
                const TensorView& dy,  // (M, C)
                const TensorView& dx,  // (M, C); added to with `accumulate`, else maybe x itself
                bool accumulate, Context& context);

 private:
  const std::string name_;
  int64_t hidden_;
  bool recompute_;
  int fc1_weight_, fc1_bias_, fc2_weight_, fc2_bias_;
  TensorView hidden_values_;  // (M, hidden), before the activation; absent when computed again
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_MLP_H_
