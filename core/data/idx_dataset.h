// The idx format of MNIST and its relatives.
#ifndef SWINFLEET_CORE_DATA_IDX_DATASET_H_
#define SWINFLEET_CORE_DATA_IDX_DATASET_H_

#include <memory>
#include <string>

#include "core/data/dataset.h"

namespace swinfleet {

// Opens the split of the idx files in `folder`; see OpenDataset for their names and the errors.
std::unique_ptr<Dataset> OpenIdxDataset(const std::string& folder, const std::string& split);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_IDX_DATASET_H_
