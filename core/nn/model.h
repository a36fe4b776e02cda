// What every model is to the training step.
//
// Letters in core/nn: B pictures (or clips), D, H and W depth, height and width in tokens (D is 1
// for pictures), L = D H W, M = B L rows, C channels, K classes.
#ifndef SWINFLEET_CORE_NN_MODEL_H_
#define SWINFLEET_CORE_NN_MODEL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "kernels/ops.h"

namespace swinfleet {

// One micro-batch, as a model sees it.
struct ModelInput {
  TensorView image;  // f32 (B, in_chans, H, W) in pixels, or (B, in_chans, T, H, W); normalised
  // Masked image modelling: the units that the model does not see, 1 = masked, in raster order. In
  // memory of the host, wherever the picture is.
  TensorView mask;  // i32 (B, units), or (1, units) for all pictures alike; else absent
};

// What one forward pass is to do.
struct ForwardOptions {
  // Keep what Backward needs. Off: each block's temporaries are released as soon as it is done.
  bool keep_for_backward = true;
  // Of activations: that of the parameters.
  DType dtype = DType::kF32;
  // Drop path's factor for a block (numbered over the whole model), a branch (0 attention, 1 MLP)
  // and a picture of the batch: 0, which leaves the picture out of the branch, or 1 / (1 - rate).
  // Unset: no drop path. Called again in Backward where activations are checkpointed. A dry run
  // takes what any pictures left out would take at most, and doesn't call it.
  std::function<float(int block, int branch, int64_t picture)> drop_path_factor;
  // The blocks' rates, Model::DropPathRates: where so few pictures are left out that it hardly ever
  // saves anything, none is. Empty: not known.
  std::vector<double> drop_path_rates;
  // Called with what a module returns, under the module's official name ("patch_embed",
  // "layers.0.blocks.1", "layers.0.downsample", "norm"; "features": what the head sees). For tests.
  std::function<void(const std::string& name, const TensorView& value)> capture;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ParameterTable& parameters() const = 0;
  // Of what Forward gives for a batch: logits (B, K), or a prediction of pixels.
  virtual Shape OutputShape(int64_t batch) const = 0;

  // Runs the model on `input` and writes the output. What Backward needs is kept in `activations`
  // above its present mark; the caller releases it after Backward. `input` and `options` stay valid
  // until then.
  virtual void Forward(const ModelInput& input, const TensorView& output,
                       const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                       Context& context) = 0;

  // Gradients of everything from that of the output, for the latest Forward with keep_for_backward.
  // Calls access.GradientReady for each unit as soon as its gradient is complete: last unit first.
  virtual void Backward(const TensorView& doutput,  // as the output
                        const TensorView& dimage,   // f32, as the image; or absent
                        ParameterAccess& access, Arena& activations, Context& context) = 0;

  // Drop path's rate of each block, in order: growing linearly from 0 to drop_path_rate.
  virtual std::vector<double> DropPathRates() const = 0;
  // Whether any of them is above 0.
  bool HasDropPath() const;
};

// The model of a job: a classifier, or what `pretrain` asks for. The configuration is valid
// (ValidateModel, ValidatePretrain).
std::unique_ptr<Model> MakeModel(const ModelConfig& model, const PretrainConfig& pretrain,
                                 const MemoryConfig& memory);

// Rates that grow linearly over `blocks` blocks from 0 to `last`.
std::vector<double> LinearDropPathRates(int64_t blocks, double last);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_MODEL_H_
