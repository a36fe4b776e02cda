// The Vision Transformer that MAE's encoder is fine-tuned as (models_vit.py of
// facebookresearch/mae: timm's VisionTransformer with the mean over patches in place of the class
// token's features).
#ifndef SWINFLEET_CORE_NN_VIT_CLASSIFIER_H_
#define SWINFLEET_CORE_NN_VIT_CLASSIFIER_H_

#include <memory>
#include <vector>

#include "core/nn/patch_embedding.h"
#include "core/nn/vit_block.h"

namespace swinfleet {

class VitClassifier : public Model {
 public:
  VitClassifier(const ModelConfig& model, const MemoryConfig& memory);

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override { return {batch, model_.num_classes}; }
  void Forward(const ModelInput& input, const TensorView& logits, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override;
  void Backward(const TensorView& dlogits, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override;
  std::vector<double> DropPathRates() const override;

 private:
  // The class token and the patches with their positions, (B, 1 + L, C), in `activations`.
  TensorView Embed(const ModelInput& input, const ForwardOptions& options, ParameterAccess& access,
                   Arena& activations, Context& context);
  void EmbedBackward(const TensorView& dx, const TensorView& dimage, ParameterAccess& access,
                     Arena& activations, Context& context);
  void Classify(const TensorView& x, const TensorView& logits, const ForwardOptions& options,
                ParameterAccess& access, Arena& activations, Context& context);
  void ClassifyBackward(const TensorView& dlogits, const TensorView& dx, ParameterAccess& access,
                        Context& context);
  TensorView ClassIndex(const Context& context) const;
  TensorView PatchIndex(const Context& context) const;

  const ModelConfig model_;
  const int64_t patches_;                   // L
  const std::vector<int32_t> token_range_;  // (1 + L)
  ParameterTable parameters_;
  PatchEmbedding embedding_;
  const int token_unit_;
  int class_token_, positions_;
  std::vector<std::unique_ptr<Block>> blocks_;
  const int head_unit_;
  LayerNorm norm_;
  int weight_, bias_;
  // Kept for backward.
  TensorView pooled_;    // (B, C)
  TensorView features_;  // (B, C), normalised
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_VIT_CLASSIFIER_H_
