// MAE: a Vision Transformer that sees some of a picture's patches, and a light decoder (He et al.
// 2022, "Masked Autoencoders Are Scalable Vision Learners"; models_mae.py of facebookresearch/mae).
#ifndef SWINFLEET_CORE_NN_MAE_H_
#define SWINFLEET_CORE_NN_MAE_H_

#include <memory>
#include <vector>

#include "core/nn/masked_decoder.h"
#include "core/nn/visible_patches.h"

namespace swinfleet {

// Its output is a prediction of all patches, (B, L, patch * patch * in_chans). Visible patches stay
// in raster order: the order means nothing to attention. As the official code, it trains without
// drop path.
class Mae : public Model {
 public:
  Mae(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory);

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override;
  void Forward(const ModelInput& input, const TensorView& output, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override;
  void Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override;
  std::vector<double> DropPathRates() const override;

 private:
  // What follows from the masks (B, L), in `activations`.
  void MakeIndices(const TensorView& mask, Arena& activations, const Context& context);
  void FillIndices(const TensorView& mask, const Context& context);
  // Returns the class token and the visible patches with their positions, (B, 1 + V, C).
  TensorView Embed(const TensorView& image, const ForwardOptions& options, ParameterAccess& access,
                   Arena& activations, Context& context);
  void EmbedBackward(const TensorView& dx, const TensorView& dimage, ParameterAccess& access,
                     Arena& activations, Context& context);
  // Of the class token, and of the patches, among the encoder's tokens.
  TensorView ClassIndex(const Context& context) const;
  TensorView PatchIndex(const Context& context) const;

  const ModelConfig model_;
  const int64_t patches_of_picture_, visible_;
  const std::vector<float> positions_;      // (1 + L, C)
  const std::vector<int32_t> token_range_;  // (1 + V)
  ParameterTable parameters_;
  VisiblePatches patches_;
  const int class_unit_;
  int class_token_;
  std::vector<std::unique_ptr<Block>> blocks_;
  const int norm_unit_;
  LayerNorm norm_;
  MaskedDecoder decoder_;
  // Kept for backward.
  TensorView visible_patches_;  // i32 (B, V)
  TensorView position_index_;   // i32 (1, B (1 + V))
  DecoderPlaces places_;
  TensorView x_;  // (B (1 + V), C), before the encoder's last normalisation
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_MAE_H_
