#include "core/nn/swin_encoder.h"

namespace swinfleet {

SwinEncoder::SwinEncoder(const ModelConfig& model, const MemoryConfig& memory,
                         const std::string& prefix, bool mask_token, ParameterTable* table)
    : model_(model), embedding_(model, prefix, mask_token, table) {
  int number = 0;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    auto& blocks = blocks_.emplace_back();
    for (int index = 0; index < model.depths[stage]; ++index) {
      blocks.push_back(MakeSwinBlock(model, memory, stage, index, number++, prefix, table));
    }
    const bool last = stage + 1 == model.num_stages();
    merging_.push_back(last ? nullptr
                            : std::make_unique<PatchMerging>(model, stage, prefix, table));
  }
}

TensorView SwinEncoder::Forward(const ModelInput& input, const ForwardOptions& options,
                                ParameterAccess& access, Arena& activations, Context& context) {
  TensorView x = embedding_.Forward(input, options, access, activations, context);
  for (int stage = 0; stage < model_.num_stages(); ++stage) {
    for (const auto& block : blocks_[stage]) {
      x = block->Forward(x, options, access, activations, context);
    }
    if (merging_[stage] != nullptr) {
      x = merging_[stage]->Forward(x, options, access, activations, context);
    }
  }
  return x;
}

TensorView SwinEncoder::StageGradient(int stage, int64_t batch, DType dtype,
                                      Arena& activations) const {
  return activations.Allocate({batch, model_.StageD(stage), model_.StageH(stage),
                               model_.StageW(stage), model_.StageDim(stage)},
                              dtype);
}

TensorView SwinEncoder::OutputGradient(int64_t batch, DType dtype, Arena& activations) const {
  return StageGradient(model_.num_stages() - 1, batch, dtype, activations);
}

void SwinEncoder::Backward(const TensorView& dy, const TensorView& dimage, ParameterAccess& access,
                           Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  TensorView dx = dy;
  for (int stage = model_.num_stages() - 1; stage >= 0; --stage) {
    if (merging_[stage] != nullptr) {
      const TensorView dmerged = dx;
      dx = merging_[stage]->InputGradient(dy.shape[0], activations);
      merging_[stage]->Backward(dmerged, dx, access, context);
    }
    for (auto block = blocks_[stage].rbegin(); block != blocks_[stage].rend(); ++block) {
      (*block)->Backward(dx, access, activations, context);
    }
  }
  embedding_.Backward(dx, dimage, access, context);
}

}  // namespace swinfleet
