#include "core/nn/swin_classifier.h"

#include <numeric>

namespace swinfleet {

SwinClassifier::SwinClassifier(const ModelConfig& model, const MemoryConfig& memory)
    : model_(model),
      encoder_(model_, memory, model.NamePrefix(), /*mask_token=*/false, &parameters_),
      head_(model_, &parameters_) {}

void SwinClassifier::Forward(const ModelInput& input, const TensorView& logits,
                             const ForwardOptions& options, ParameterAccess& access,
                             Arena& activations, Context& context) {
  CHECK(input.image.shape == model_.ImageShape(input.image.shape[0])) << input.image.shape;
  CHECK(logits.shape == OutputShape(input.image.shape[0])) << logits.shape;
  const TensorView x = encoder_.Forward(input, options, access, activations, context);
  head_.Forward(x, logits, options, access, activations, context);
}

void SwinClassifier::Backward(const TensorView& dlogits, const TensorView& dimage,
                              ParameterAccess& access, Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const TensorView dx = encoder_.OutputGradient(dlogits.shape[0], dlogits.dtype, activations);
  head_.Backward(dlogits, dx, access, context);
  encoder_.Backward(dx, dimage, access, activations, context);
}

std::vector<double> SwinClassifier::DropPathRates() const {
  return LinearDropPathRates(
      std::accumulate(model_.depths.begin(), model_.depths.end(), int64_t{0}),
      model_.drop_path_rate);
}

}  // namespace swinfleet
