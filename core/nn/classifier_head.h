// The last normalisation, the mean over tokens, and the classifier.
#ifndef SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_
#define SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_

#include "core/nn/layer_norm.h"
#include "core/nn/model.h"

namespace swinfleet {

// `norm`, `avgpool` and `head` of the official code; of Video Swin `backbone.norm` and the I3D head
// `cls_head.fc_cls`.
class ClassifierHead {
 public:
  ClassifierHead(const ModelConfig& model, ParameterTable* table);

  void Forward(const TensorView& x,       // (B, D, H, W, C)
               const TensorView& logits,  // (B, K)
               const ForwardOptions& options, ParameterAccess& access, Arena& activations,
               Context& context);
  // Writes dx.
  void Backward(const TensorView& dlogits,  // (B, K)
                const TensorView& dx,       // (B, D, H, W, C)
                ParameterAccess& access, Context& context);

 private:
  const ModelConfig& model_;
  const ParameterTable& table_;
  const int unit_;
  LayerNorm norm_;
  int weight_, bias_;
  // Kept for backward.
  TensorView x_;         // (M, C)
  TensorView features_;  // (B, C)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_CLASSIFIER_HEAD_H_
