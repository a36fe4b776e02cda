// The last normalisation, the mean over tokens, and the classifier.
#ifndef SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_
#define SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "core/nn/swin_v2.h"
#include "kernels/ops.h"

namespace swinfleet {

class ClassifierHead {
 public:
  ClassifierHead(const ModelConfig& config, ParameterTable* table);

  void Forward(const TensorView& x,       // (B, H, W, C)
               const TensorView& logits,  // (B, K)
               const ForwardOptions& options, ParameterAccess& access, Arena& activations,
               Context& context);
  // Writes dx.
  void Backward(const TensorView& dlogits,  // (B, K)
                const TensorView& dx,       // (B, H, W, C)
                ParameterAccess& access, Context& context);

 private:
  const ModelConfig& config_;
  const ParameterTable& table_;
  int unit_, gamma_, beta_, weight_, bias_;
  // Kept for backward.
  TensorView x_;            // (B H W, C)
  TensorView mean_, rstd_;  // (B H W)
  TensorView features_;     // (B, C)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_
