#include "core/nn/model.h"

#include <algorithm>

#include "core/nn/green_mim.h"
#include "core/nn/mae.h"
#include "core/nn/simmim.h"
#include "core/nn/swin_classifier.h"
#include "core/nn/vit_classifier.h"

namespace swinfleet {

std::unique_ptr<Model> MakeModel(const ModelConfig& model, const PretrainConfig& pretrain,
                                 const MemoryConfig& memory) {
  JobConfig job;
  job.model = model;
  job.pretrain = pretrain;
  job.memory = memory;
  for (const auto& problems : {ValidateModel(model), ValidatePretrain(job)}) {
    CHECK(problems.empty()) << problems.front();
  }
  switch (pretrain.method) {
    case PretrainConfig::Method::kSimMim:
      return std::make_unique<SimMim>(model, pretrain, memory);
    case PretrainConfig::Method::kMae:
      return std::make_unique<Mae>(model, pretrain, memory);
    case PretrainConfig::Method::kGreenMim:
      return std::make_unique<GreenMim>(model, pretrain, memory);
    case PretrainConfig::Method::kNone:
      break;
  }
  if (model.arch == Architecture::kVit) return std::make_unique<VitClassifier>(model, memory);
  return std::make_unique<SwinClassifier>(model, memory);
}

bool Model::HasDropPath() const {
  return std::ranges::any_of(DropPathRates(), [](double rate) { return rate > 0; });
}

std::vector<double> LinearDropPathRates(int64_t blocks, double last) {
  std::vector<double> rates;
  for (int64_t i = 0; i < blocks; ++i) {
    rates.push_back(blocks == 1 ? 0
                                : last * static_cast<double>(i) / static_cast<double>(blocks - 1));
  }
  return rates;
}

}  // namespace swinfleet
