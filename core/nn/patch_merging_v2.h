// Half the resolution, twice the channels.
#ifndef SWINFLEET_CORE_NN_PATCH_MERGING_V2_H_
#define SWINFLEET_CORE_NN_PATCH_MERGING_V2_H_

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "core/nn/swin_v2.h"
#include "kernels/ops.h"

namespace swinfleet {

// PatchMerging of the official Swin V2: four neighbours, a linear layer, then normalisation.
class PatchMergingV2 {
 public:
  PatchMergingV2(const ModelConfig& config, int stage, ParameterTable* table);

  // Returns (B, H/2, W/2, 2 C), in `activations`.
  TensorView Forward(const TensorView& x,  // (B, H, W, C)
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context);
  // Writes dx; dy is overwritten.
  void Backward(const TensorView& dy,  // (B, H/2, W/2, 2 C)
                const TensorView& dx,  // (B, H, W, C)
                ParameterAccess& access, Context& context);

 private:
  const ModelConfig& config_;
  const ParameterTable& table_;
  std::string name_;
  int unit_, weight_, gamma_, beta_;
  // Kept for backward.
  TensorView x_;            // (B, H, W, C)
  TensorView reduced_;      // (B H W / 4, 2 C)
  TensorView mean_, rstd_;  // (B H W / 4)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_PATCH_MERGING_V2_H_
