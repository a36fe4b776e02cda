// What training minimises: the loss of a model's output on a micro-batch.
#ifndef SWINFLEET_CORE_LOSS_OBJECTIVE_H_
#define SWINFLEET_CORE_LOSS_OBJECTIVE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "core/config/job_config.h"
#include "core/data/loader.h"
#include "core/nn/model.h"
#include "kernels/accelerator.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

class Objective {
 public:
  virtual ~Objective() = default;

  // The pictures' losses, (B) (their mean is the loss of the official code), into memory of the
  // host where they are after FinishCopies, and doutput = grad_scale * the derivative of their sum.
  // `batch` holds the targets, `input` what the model was given. On the dry-run device nothing is
  // touched.
  virtual void Start(const Batch& batch, const ModelInput& input, const TensorView& output,
                     const TensorView& doutput,  // as the output
                     float grad_scale, std::span<float> losses, Arena& activations,
                     Context& context) = 0;
  // The same, and the sum of the losses; 0 on the dry-run device.
  double Compute(const Batch& batch, const ModelInput& input, const TensorView& output,
                 const TensorView& doutput, float grad_scale, Arena& activations, Context& context);
};

// Cross entropy of classification, or the loss of the job's pre-training. Evaluation smooths no
// targets.
std::unique_ptr<Objective> MakeObjective(const JobConfig& config, bool training);

// What the model is given of a batch, which must outlive the result. Where the host does not
// compute, pictures are copied to the top of `activations`.
ModelInput InputOf(const Batch& batch, const JobConfig& config, Arena& activations,
                   const Context& context);

// Where the host does not compute, pictures of one batch are copied there while another is computed
// on, each in its turn.
class InputBuffers {
 public:
  // Takes room for batches of so many pictures from `activations`, where the host does not compute,
  // until it ends.
  InputBuffers(const JobConfig& config, int64_t pictures, Arena* activations, Context* context);
  InputBuffers(const InputBuffers&) = delete;
  InputBuffers& operator=(const InputBuffers&) = delete;

  // As InputOf, with pictures mixed as the batch says: on the host where they are, so that a batch
  // is of use once. It holds until the next but one is begun. `Done` has been called of the last
  // one. Takes from the top of `activations` what describes the mixing.
  ModelInput Begin(Batch* batch);
  // All that uses it has been called.
  void Done();

 private:
  void Mix(Batch* batch, const TensorView& image);

  const JobConfig& config_;
  Arena* activations_;
  Context& context_;
  ArenaScope scope_;
  std::array<TensorView, Accelerator::kTurns> images_;
  int turn_ = 0;
};

// The sum of losses, in their order.
double SumOfLosses(std::span<const float> losses);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_LOSS_OBJECTIVE_H_
