// Swin Transformer V2 for classification (Liu et al. 2022, "Swin Transformer V2: Scaling Up
// Capacity and Resolution"; models/swin_transformer_v2.py of microsoft/Swin-Transformer).
//
// Letters: B pictures, H and W height and width in tokens, C channels, K classes.
#ifndef SWINFLEET_CORE_NN_SWIN_V2_H_
#define SWINFLEET_CORE_NN_SWIN_V2_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "kernels/ops.h"

namespace swinfleet {

class PatchEmbedding;
class SwinBlockV2;
class PatchMergingV2;
class ClassifierHead;

// What one forward pass is to do.
struct ForwardOptions {
  // Keep what Backward needs. Off: each block's temporaries are released as soon as it is done.
  bool keep_for_backward = true;
  // Drop path's factor for a block (numbered over the whole model), a branch (0 attention, 1 MLP)
  // and a picture of the batch: 0 or 1 / (1 - rate). Unset: no drop path.
  std::function<float(int block, int branch, int64_t picture)> drop_path_factor;
  // Called with what a module returns, under the module's official name ("patch_embed",
  // "layers.0.blocks.1", "layers.0.downsample", "norm"; "features": what the head sees). For tests.
  std::function<void(const std::string& name, const TensorView& value)> capture;
};

class SwinV2 {
 public:
  // `config` is valid (ValidateModel).
  explicit SwinV2(const ModelConfig& config);
  ~SwinV2();

  const ModelConfig& config() const { return config_; }
  const ParameterTable& parameters() const { return parameters_; }

  // Runs the model on `image` and writes the logits. What Backward needs is kept in `activations`
  // above its present mark; the caller releases it after Backward.
  void Forward(const TensorView& image,   // (B, in_chans, image_h, image_w)
               const TensorView& logits,  // (B, K)
               const ForwardOptions& options, ParameterAccess& access, Arena& activations,
               Context& context);

  // Gradients of everything from that of the logits, for the latest Forward with keep_for_backward.
  // Calls access.GradientReady for each unit as soon as its gradient is complete: last unit first.
  void Backward(const TensorView& dlogits,  // (B, K)
                const TensorView& dimage,   // (B, in_chans, image_h, image_w), or absent
                ParameterAccess& access, Arena& activations, Context& context);

  // Drop path's rate of each block, in order: growing linearly from 0 to drop_path_rate.
  std::vector<double> DropPathRates() const;

 private:
  ModelConfig config_;
  ParameterTable parameters_;
  std::unique_ptr<PatchEmbedding> embedding_;
  std::vector<std::vector<std::unique_ptr<SwinBlockV2>>> blocks_;
  // One between two stages; as many as stages, the last one empty.
  std::vector<std::unique_ptr<PatchMergingV2>> merging_;
  std::unique_ptr<ClassifierHead> head_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SWIN_V2_H_
