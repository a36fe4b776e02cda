// Pictures to tokens: one linear layer over patches, normalised, plus an optional position
// embedding.
#ifndef SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_
#define SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_

#include <optional>
#include <string>

#include "core/nn/layer_norm.h"
#include "core/nn/model.h"

namespace swinfleet {

// PatchEmbed of the official code (PatchEmbed3D of Video Swin).
class PatchEmbedding {
 public:
  // `prefix` goes before the names of its parameters. With `mask_token`, masked tokens are replaced
  // by a learned one (SwinTransformerForSimMIM of the official code).
  PatchEmbedding(const ModelConfig& model, const std::string& prefix, bool mask_token,
                 ParameterTable* table);

  // Returns (B, D, H, W, C), in `activations`.
  TensorView Forward(const ModelInput& input, const ForwardOptions& options,
                     ParameterAccess& access, Arena& activations, Context& context);
  // dy is overwritten. After the backward pass of all that took the result, which gives way.
  void Backward(const TensorView& dy,      // (B, D, H, W, C)
                const TensorView& dimage,  // f32, as the image; or absent
                ParameterAccess& access, Context& context);

 private:
  // The patches, before normalisation, as tokens_.
  void Project(const AcquiredUnit& unit, Context& context) const;

  const ModelConfig& model_;
  const std::string name_;
  const ParameterTable& table_;
  const int unit_;
  int weight_, bias_, position_ = -1, mask_token_ = -1;
  std::optional<LayerNorm> norm_;
  // Kept for backward.
  TensorView image_;   // f32 (B, in_chans, [T,] image_h, image_w)
  TensorView mask_;    // i32 (B or 1, L) or absent
  TensorView tokens_;  // (M, C), the result; where Backward projects again
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_
