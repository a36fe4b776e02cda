#include "worker/initial_weights.h"

#include <utility>

#include "worker/model_json.h"

namespace swinfleet {

std::unique_ptr<WeightsFile> OpenWeightsFor(std::unique_ptr<WeightSource> source,
                                            const ParameterTable& table, ImportOptions options) {
  const std::string& said = source->Metadata(kModelMetadata);
  if (!said.empty()) options.source_model = ModelConfigFromJson(said, source->path());
  return std::make_unique<WeightsFile>(std::move(source), table, options);
}

std::unique_ptr<WeightsFile> OpenInitialWeights(const JobConfig& config, const std::string& path,
                                                const ParameterTable& table) {
  return OpenWeightsFor(OpenWeights(path), table,
                        {.model = config.model, .skip = config.init_skip, .source_model = {}});
}

}  // namespace swinfleet
