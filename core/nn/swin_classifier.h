// Swin Transformers for classification of pictures and clips.
#ifndef SWINFLEET_CORE_NN_SWIN_CLASSIFIER_H_
#define SWINFLEET_CORE_NN_SWIN_CLASSIFIER_H_

#include "core/nn/classifier_head.h"
#include "core/nn/swin_encoder.h"

namespace swinfleet {

class SwinClassifier : public Model {
 public:
  SwinClassifier(const ModelConfig& model, const MemoryConfig& memory);

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override { return {batch, model_.num_classes}; }
  void Forward(const ModelInput& input, const TensorView& logits, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override;
  void Backward(const TensorView& dlogits, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override;
  std::vector<double> DropPathRates() const override;

 private:
  const ModelConfig model_;
  ParameterTable parameters_;
  SwinEncoder encoder_;
  ClassifierHead head_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SWIN_CLASSIFIER_H_
