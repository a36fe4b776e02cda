// SimMIM: a Swin Transformer that sees mask tokens, and one layer from its last map to pixels (Xie
// et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling"; models/simmim.py of
// microsoft/Swin-Transformer).
#ifndef SWINFLEET_CORE_NN_SIMMIM_H_
#define SWINFLEET_CORE_NN_SIMMIM_H_

#include "core/nn/swin_encoder.h"

namespace swinfleet {

// Its output is a prediction of all pixels, (B, in_chans, image_h, image_w).
class SimMim : public Model {
 public:
  SimMim(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory);

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override { return model_.ImageShape(batch); }
  void Forward(const ModelInput& input, const TensorView& output, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override;
  void Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override;
  std::vector<double> DropPathRates() const override;

 private:
  // The mask of units as one of patches, i32 (B or 1, L), in `activations`.
  TensorView PatchMask(const TensorView& units, int64_t batch, Arena& activations,
                       const Context& context) const;
  void Decode(const TensorView& output, const ForwardOptions& options, ParameterAccess& access,
              Arena& activations, Context& context);
  // Calls body(first row, rows, their pixels in the workspace).
  template <typename Body>
  void ForEachPixelChunk(DType dtype, Context& context, const Body& body) const;

  const ModelConfig model_;
  const int64_t mask_unit_;
  // Side in pixels of a token of the last map, and its values.
  const int64_t side_, values_;
  ParameterTable parameters_;
  SwinEncoder encoder_;
  const int unit_;
  LayerNorm norm_;
  int weight_, bias_;
  // Kept for backward.
  ModelInput input_;
  TensorView x_;  // (M, C), the last map
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SIMMIM_H_
