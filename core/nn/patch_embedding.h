// Pictures to tokens: one linear layer over patches, normalised, plus an optional position
// embedding.
#ifndef SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_
#define SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "core/nn/swin_v2.h"
#include "kernels/ops.h"

namespace swinfleet {

// PatchEmbed of the official code. Letters as in swin_v2.h; L = H W tokens.
class PatchEmbedding {
 public:
  PatchEmbedding(const ModelConfig& config, ParameterTable* table);

  // Returns (B, H, W, C), in `activations`.
  TensorView Forward(const TensorView& image,  // (B, in_chans, image_h, image_w)
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context);
  // dy is overwritten.
  void Backward(const TensorView& dy,      // (B, H, W, C)
                const TensorView& dimage,  // (B, in_chans, image_h, image_w), or absent
                ParameterAccess& access, Context& context);

 private:
  const ModelConfig& config_;
  const ParameterTable& table_;
  int unit_, weight_, bias_, gamma_ = -1, beta_ = -1, position_ = -1;
  // Kept for backward.
  TensorView image_;        // (B, in_chans, image_h, image_w)
  TensorView projected_;    // (B L, C)
  TensorView mean_, rstd_;  // (B L)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_PATCH_EMBEDDING_H_
