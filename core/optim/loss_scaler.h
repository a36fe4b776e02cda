// Dynamic loss scaling for float16 (Micikevicius et al. 2018, "Mixed Precision Training").
#ifndef SWINFLEET_CORE_OPTIM_LOSS_SCALER_H_
#define SWINFLEET_CORE_OPTIM_LOSS_SCALER_H_

#include <cstdint>
#include <optional>

#include "kernels/tensor.h"

namespace swinfleet {

// What a checkpoint keeps of a scaler, so that a resumed run scales as an undisturbed one does.
struct LossScaleState {
  double scale = 1;
  // Finite steps since the scale last changed.
  int64_t good_steps = 0;
  bool operator==(const LossScaleState&) const = default;
};

// The factor on the loss that keeps the gradients of float16 activations away from zero. It halves
// at each step that is not finite and doubles after kGrowthInterval steps that are. It is always a
// power of two, so that scaling changes no bit of a gradient that float16 can hold both ways.
class LossScaler {
 public:
  static constexpr double kStart = 65536;
  static constexpr double kLeast = 1;
  static constexpr double kMost = 16777216;
  static constexpr int64_t kGrowthInterval = 2000;

  // Other dtypes than float16 need none: their scale is 1 and stays so.
  explicit LossScaler(DType dtype) : dynamic_(dtype == DType::kF16) {
    state_.scale = dynamic_ ? kStart : 1;
  }

  // The gradient of the loss is multiplied by this before backward; the norm and the gradients that
  // come out are to be divided by it.
  float scale() const { return static_cast<float>(state_.scale); }

  // What became of a step.
  enum class Verdict {
    // It is finite.
    kGood,
    // It is not finite, which the scale may have caused: the step is skipped, the scale has been
    // halved, and training is not to count it as a failure.
    kScaleReduced,
    // It is not finite although there is nothing left to reduce: skipped, and a failure.
    kFailure
  };
  // To be called once a step with the same answer on all ranks.
  Verdict Record(bool finite);

  // Nothing where no scaling takes place.
  std::optional<LossScaleState> state() const;
  // Continues from a checkpoint. One without a state, or a scaler without scaling, changes nothing.
  void Restore(const std::optional<LossScaleState>& state);

 private:
  bool dynamic_;
  LossScaleState state_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_OPTIM_LOSS_SCALER_H_
