// The body of every Swin Transformer: patch embedding, and stages of blocks with mergings between.
//
// Swin V1 (Liu et al. 2021, models/swin_transformer.py of microsoft/Swin-Transformer), Swin V2 (Liu
// et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution",
// models/swin_transformer_v2.py) and Video Swin (Liu et al. 2022,
// mmaction/models/backbones/swin_transformer.py of SwinTransformer/Video-Swin-Transformer).
#ifndef SWINFLEET_CORE_NN_SWIN_ENCODER_H_
#define SWINFLEET_CORE_NN_SWIN_ENCODER_H_

#include <memory>
#include <string>
#include <vector>

#include "core/nn/block.h"
#include "core/nn/model.h"
#include "core/nn/patch_embedding.h"
#include "core/nn/patch_merging.h"

namespace swinfleet {

class SwinEncoder {
 public:
  // `prefix` goes before all names. `model` must outlive the encoder.
  SwinEncoder(const ModelConfig& model, const MemoryConfig& memory, const std::string& prefix,
              bool mask_token, ParameterTable* table);

  // Returns the last stage's map, (B, D, H, W, C), not normalised.
  TensorView Forward(const ModelInput& input, const ForwardOptions& options,
                     ParameterAccess& access, Arena& activations, Context& context);

  // Memory for the gradient of what Forward returns; Backward takes it back.
  TensorView OutputGradient(int64_t batch, DType dtype, Arena& activations) const;
  // dy is overwritten.
  void Backward(const TensorView& dy,      // (B, D, H, W, C)
                const TensorView& dimage,  // f32, as the image; or absent
                ParameterAccess& access, Arena& activations, Context& context);

 private:
  TensorView StageGradient(int stage, int64_t batch, DType dtype, Arena& activations) const;

  const ModelConfig& model_;
  PatchEmbedding embedding_;
  std::vector<std::vector<std::unique_ptr<Block>>> blocks_;
  // One between two stages; as many as stages, the last one empty.
  std::vector<std::unique_ptr<PatchMerging>> merging_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SWIN_ENCODER_H_
