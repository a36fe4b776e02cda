// One block of Swin V2: window attention and MLP, each normalised after it (residual post-norm).
#ifndef SWINFLEET_CORE_NN_SWIN_BLOCK_V2_H_
#define SWINFLEET_CORE_NN_SWIN_BLOCK_V2_H_

#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "core/nn/swin_v2.h"
#include "kernels/ops.h"

namespace swinfleet {

// SwinTransformerBlock of the official Swin V2, with the paper's additional normalisation of the
// main branch (timm's norm3) where the configuration asks for it.
class SwinBlockV2 {
 public:
  // `number` counts blocks over the whole model, `index` within the stage.
  SwinBlockV2(const ModelConfig& config, int stage, int index, int number, ParameterTable* table);

  // Returns (B, H, W, C): in `activations`, or x itself when nothing is kept for backward.
  TensorView Forward(const TensorView& x,  // (B, H, W, C)
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context);
  // dy becomes dx in place.
  void Backward(const TensorView& dy,  // (B, H, W, C)
                ParameterAccess& access, Context& context);

 private:
  WindowGeometry Geometry(int64_t batch) const;
  // Fills the position bias (heads, N, N).
  void ComputeBias(const AcquiredUnit& unit, const TensorView& bias, Context& context) const;
  // x1 = x + drop_path(norm1(attention(x))).
  TensorView AttentionForward(const AcquiredUnit& unit, const TensorView& x,
                              const ForwardOptions& options, Arena& activations, Context& context);
  // x2 = x1 + drop_path(norm2(mlp(x1))).
  TensorView MlpForward(const AcquiredUnit& unit, const TensorView& x1,
                        const ForwardOptions& options, Arena& activations, Context& context);
  // Both turn dy (M, C), the gradient of what they returned, into that of their input.
  void MlpBackward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& dy,
                   Context& context);
  void AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& dy,
                         Context& context);
  // Gradients of the attention's inputs from that of its output, into dqkv (M, 3 C).
  void AttentionCoreBackward(const AcquiredUnit& unit, const TensorView& gradient,
                             const TensorView& dattention, const TensorView& dqkv,
                             Context& context);
  // Drop path's factors of a branch for the pictures of a batch, (B), or nothing.
  TensorView DropPathScale(const ForwardOptions& options, int branch, int64_t batch,
                           Arena& activations) const;

  const ModelConfig& config_;
  const ParameterTable& table_;
  std::string name_;
  int number_;
  int64_t height_, width_, channels_, hidden_, heads_, window_, shift_;
  // Relative coordinates of the position bias, (T, 2).
  std::vector<float> coords_;

  int unit_;
  int logit_scale_, q_bias_ = -1, v_bias_ = -1, cpb_w1_, cpb_b1_, cpb_w2_, qkv_weight_;
  int proj_weight_, proj_bias_, norm1_gamma_, norm1_beta_;
  int fc1_weight_, fc1_bias_, fc2_weight_, fc2_bias_, norm2_gamma_, norm2_beta_;
  int norm3_gamma_ = -1, norm3_beta_ = -1;

  // Kept for backward; M = B H W rows.
  TensorView x_;                          // (M, C)
  TensorView qkv_;                        // (M, 3 C)
  TensorView attention_;                  // (M, C), before the projection
  TensorView lse_;                        // (M, heads)
  TensorView projected_, mean1_, rstd1_;  // (M, C), (M), (M)
  TensorView x1_;                         // (M, C)
  TensorView hidden_values_;              // (M, hidden), before the activation
  TensorView mlp_out_, mean2_, rstd2_;    // (M, C), (M), (M)
  TensorView x2_, mean3_, rstd3_;         // (M, C), (M), (M), with norm3 only
  TensorView scale1_, scale2_;            // (B) or absent
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SWIN_BLOCK_V2_H_
