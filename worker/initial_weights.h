// The weights that a job starts from.
#ifndef SWINFLEET_WORKER_INITIAL_WEIGHTS_H_
#define SWINFLEET_WORKER_INITIAL_WEIGHTS_H_

#include <memory>
#include <string>

#include "core/checkpoint/weights_io.h"
#include "core/config/job_config.h"
#include "core/nn/parameters.h"

namespace swinfleet {

// Opens `source` for the model that `options` and `table` describe; the source's own words about
// its model are taken into account, if it has any. Throws Error unless everything fits.
std::unique_ptr<WeightsFile> OpenWeightsFor(std::unique_ptr<WeightSource> source,
                                            const ParameterTable& table, ImportOptions options);

// The weights in `path` (a safetensors file or a checkpoint, as ResolveWeights gives it) for
// `config`'s model, without what config.init_skip names. Nothing is verified yet.
std::unique_ptr<WeightsFile> OpenInitialWeights(const JobConfig& config, const std::string& path,
                                                const ParameterTable& table);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_INITIAL_WEIGHTS_H_
