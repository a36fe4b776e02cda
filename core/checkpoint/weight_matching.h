// Which tensor each parameter of a model comes from, and what has to be done to it.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHT_MATCHING_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHT_MATCHING_H_

#include <vector>

#include "core/checkpoint/weights_io.h"

namespace swinfleet {

// A source for each parameter of `table`, and what was found into `report`; the sources are only
// usable when the report is ok, and as long as `source` and `table` live.
std::vector<ParameterSource> MatchWeights(const WeightSource& source, const ParameterTable& table,
                                          const ImportOptions& options, ImportReport* report);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHT_MATCHING_H_
