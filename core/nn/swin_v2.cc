#include "core/nn/swin_v2.h"

#include "core/nn/classifier_head.h"
#include "core/nn/patch_embedding.h"
#include "core/nn/patch_merging_v2.h"
#include "core/nn/swin_block_v2.h"

namespace swinfleet {

SwinV2::SwinV2(const ModelConfig& config) : config_(config) {
  const std::vector<std::string> problems = ValidateModel(config);
  CHECK(problems.empty()) << problems.front();
  embedding_ = std::make_unique<PatchEmbedding>(config_, &parameters_);
  int number = 0;
  for (int stage = 0; stage < config_.num_stages(); ++stage) {
    auto& blocks = blocks_.emplace_back();
    for (int index = 0; index < config_.depths[stage]; ++index) {
      blocks.push_back(
          std::make_unique<SwinBlockV2>(config_, stage, index, number++, &parameters_));
    }
    const bool last = stage + 1 == config_.num_stages();
    merging_.push_back(last ? nullptr
                            : std::make_unique<PatchMergingV2>(config_, stage, &parameters_));
  }
  head_ = std::make_unique<ClassifierHead>(config_, &parameters_);
}

SwinV2::~SwinV2() = default;

void SwinV2::Forward(const TensorView& image, const TensorView& logits,
                     const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                     Context& context) {
  CHECK(image.shape == Shape({image.shape[0], config_.in_chans, config_.image_h, config_.image_w}))
      << image.shape;
  CHECK(logits.shape == Shape({image.shape[0], config_.num_classes})) << logits.shape;
  TensorView x = embedding_->Forward(image, options, access, activations, context);
  for (int stage = 0; stage < config_.num_stages(); ++stage) {
    for (const auto& block : blocks_[stage]) {
      x = block->Forward(x, options, access, activations, context);
    }
    if (merging_[stage] != nullptr) {
      x = merging_[stage]->Forward(x, options, access, activations, context);
    }
  }
  head_->Forward(x, logits, options, access, activations, context);
}

void SwinV2::Backward(const TensorView& dlogits, const TensorView& dimage, ParameterAccess& access,
                      Arena& activations, Context& context) {
  const int64_t batch = dlogits.shape[0];
  ArenaScope scope(&activations);
  const auto stage_gradient = [&](int stage) {
    return activations.Allocate(
        {batch, config_.StageH(stage), config_.StageW(stage), config_.StageDim(stage)});
  };
  const int last = config_.num_stages() - 1;
  TensorView dx = stage_gradient(last);
  head_->Backward(dlogits, dx, access, context);
  for (int stage = last; stage >= 0; --stage) {
    if (stage < last) {
      const TensorView dy = dx;
      dx = stage_gradient(stage);
      merging_[stage]->Backward(dy, dx, access, context);
    }
    for (auto block = blocks_[stage].rbegin(); block != blocks_[stage].rend(); ++block) {
      (*block)->Backward(dx, access, context);
    }
  }
  embedding_->Backward(dx, dimage, access, context);
}

std::vector<double> SwinV2::DropPathRates() const {
  int64_t blocks = 0;
  for (int64_t depth : config_.depths) blocks += depth;
  std::vector<double> rates;
  for (int64_t i = 0; i < blocks; ++i) {
    rates.push_back(blocks == 1 ? 0
                                : config_.drop_path_rate * static_cast<double>(i) /
                                      static_cast<double>(blocks - 1));
  }
  return rates;
}

}  // namespace swinfleet
