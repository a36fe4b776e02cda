// A model's dimensions as JSON: what checkpoints and exported weights say about their model.
#ifndef SWINFLEET_WORKER_MODEL_JSON_H_
#define SWINFLEET_WORKER_MODEL_JSON_H_

#include <string>

#include "core/config/job_config.h"

namespace swinfleet {

// One line; keys as the official code and timm name them ("img_size", "embed_dim", ...).
std::string ModelConfigToJson(const ModelConfig& model);

// The inverse. Throws Error for a text that is no such JSON: an unknown or missing key, a wrong
// type, dimensions that ValidateModel refuses. `source` is for the message.
ModelConfig ModelConfigFromJson(const std::string& text, const std::string& source);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_MODEL_JSON_H_
