// Half the resolution, twice the channels.
#ifndef SWINFLEET_CORE_NN_PATCH_MERGING_H_
#define SWINFLEET_CORE_NN_PATCH_MERGING_H_

#include <string>

#include "core/nn/layer_norm.h"
#include "core/nn/model.h"

namespace swinfleet {

// PatchMerging of the official code: four neighbours in one token. V1 and Video Swin normalise them
// before the linear layer, V2 normalises what it gives. Odd maps are padded with zeros.
class PatchMerging {
 public:
  // The merging after `stage`; `prefix` goes before its name.
  PatchMerging(const ModelConfig& model, int stage, const std::string& prefix,
               ParameterTable* table);

  // Returns (B, D, H/2, W/2, 2 C), in `activations`.
  TensorView Forward(const TensorView& x,  // (B, D, H, W, C)
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context);
  // Memory for the dx of Backward: that of what Forward kept where there is room, which is dead by
  // then, otherwise of `activations`.
  TensorView InputGradient(int64_t batch, Arena& activations) const;  // (B, D, H, W, C)
  // Writes dx; dy is overwritten. After the backward pass of all that took the result.
  void Backward(const TensorView& dy,  // (B, D, H/2, W/2, 2 C)
                const TensorView& dx,  // (B, D, H, W, C)
                ParameterAccess& access, Context& context);

 private:
  // The four neighbours of rows [row, row + count), (count, 4 C), in the workspace.
  TensorView Neighbours(int64_t row, int64_t count, Context& context) const;

  const std::string name_;
  const int64_t channels_;
  const bool norm_first_;
  const ParameterTable& table_;
  const int unit_;
  int weight_;
  LayerNorm norm_;
  // Kept for backward.
  TensorView x_;        // (B D, H, W, C): frames of clips are pictures here
  TensorView reduced_;  // (M / 4, 2 C), before the norm that comes after it
  TensorView kept_;     // that, and behind it what this norm makes of it
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_PATCH_MERGING_H_
