// Some of a picture's patches to tokens: what masked image modelling computes where nothing else is
// seen.
#ifndef SWINFLEET_CORE_NN_VISIBLE_PATCHES_H_
#define SWINFLEET_CORE_NN_VISIBLE_PATCHES_H_

#include <optional>
#include <string>

#include "core/nn/layer_norm.h"
#include "core/nn/model.h"

namespace swinfleet {

// PatchEmbedding with the same parameters, of visible patches alone. Letters: V visible patches.
class VisiblePatches {
 public:
  VisiblePatches(const ModelConfig& model, const std::string& prefix, ParameterTable* table);

  // Returns (B, V, C), in `activations`.
  TensorView Forward(const TensorView& image,    // f32 (B, in_chans, image_h, image_w)
                     const TensorView& visible,  // i32 (B, V), or (1, V) for all pictures alike
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context);
  // dy is overwritten. The image's gradient is zero where patches are not visible.
  void Backward(const TensorView& dy,      // (B, V, C)
                const TensorView& dimage,  // f32, as the image; or absent
                ParameterAccess& access, Context& context);

 private:
  // Pixels of a patch, (V, width) for each picture, in the workspace.
  TensorView Pixels(DType dtype, Context& context) const;
  void PixelsBackward(const TensorView& dpixels, const TensorView& dimage, Context& context) const;
  TensorView VisibleOf(int64_t picture) const;
  void AddPositions(const AcquiredUnit& unit, const TensorView& x, Context& context) const;
  void PositionsBackward(const TensorView& dy, const TensorView& dposition, Context& context) const;

  const ModelConfig& model_;
  const std::string name_;
  const int64_t width_;  // values of a patch
  const ParameterTable& table_;
  const int unit_;
  int weight_, bias_, position_ = -1;
  std::optional<LayerNorm> norm_;
  // Kept for backward.
  TensorView image_, visible_;
  TensorView projected_;  // (B V, C)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_VISIBLE_PATCHES_H_
