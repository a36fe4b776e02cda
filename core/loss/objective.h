// What training minimises: the loss of a model's output on a micro-batch.
#ifndef SWINFLEET_CORE_LOSS_OBJECTIVE_H_
#define SWINFLEET_CORE_LOSS_OBJECTIVE_H_

#include <memory>

#include "core/config/job_config.h"
#include "core/data/loader.h"
#include "core/nn/model.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

class Objective {
 public:
  virtual ~Objective() = default;

  // The sum of the pictures' losses (a mean over pictures is the loss of the official code), and
  // doutput = grad_scale * its derivative. `batch` holds the targets, `input` what the model was
  // given. On the dry-run device nothing is touched, and the result is 0.
  virtual double Compute(const Batch& batch, const ModelInput& input, const TensorView& output,
                         const TensorView& doutput,  // as the output
                         float grad_scale, Arena& activations, Context& context) = 0;
};

// Cross entropy of classification, or the loss of the job's pre-training. Evaluation smooths no
// targets.
std::unique_ptr<Objective> MakeObjective(const JobConfig& config, bool training);

// What the model is given of a batch, which must outlive the result. Where the host does not
// compute, pictures are copied to the top of `activations`.
ModelInput InputOf(const Batch& batch, const JobConfig& config, Arena& activations,
                   const Context& context);

// The sum of losses, f32 (B); 0 on the dry-run device.
double SumOfLosses(const TensorView& loss, const Context& context);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_LOSS_OBJECTIVE_H_
