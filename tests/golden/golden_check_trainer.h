// What trains a trajectory's model: in this process as it is, or over ranks by the ZeRO engine.
#ifndef SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_TRAINER_H_
#define SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_TRAINER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/optim/parameter_groups.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {

// What there is to train.
struct Training {
  ModelConfig model;
  PretrainConfig pretrain;
  // The batch of every step.
  ModelRunner::Pass batch;
  int64_t micro_batches = 1;
  OptimizerConfig optimizer;
  // One a parameter.
  std::vector<ParameterHyper> groups;
};

class Trainer {
 public:
  virtual ~Trainer() = default;
  // Forward and backward of a step, from no gradient: the mean loss.
  virtual double RunStep() = 0;
  // Of the latest step: the gradient's norm, and the gradient of a parameter.
  virtual double GradientNorm() = 0;
  virtual std::vector<float> Gradient(int parameter) = 0;
  virtual std::vector<float> Value(int parameter) = 0;
  // Update number `step` (0 is the first), with a rate for each parameter.
  virtual void Update(int64_t step, std::span<const double> rates, float grad_scale) = 0;
};

std::unique_ptr<Trainer> MakeLocalTrainer(const Golden& golden, const Training& training,
                                          const Machine& machine);
// Each rank computes a part of the batch, or, where a batch's loss is no mean over its pictures
// (pre-training), the whole of it with a part of the gradient. Throws Error for a batch that can't
// be shared by the ranks.
std::unique_ptr<Trainer> MakeEngineTrainer(const Golden& golden, const Training& training,
                                           const Machine& machine, const EngineRanks& ranks);

}  // namespace swinfleet::golden

#endif  // SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_TRAINER_H_
