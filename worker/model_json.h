// A model's dimensions, and how its pictures are prepared, as JSON: what checkpoints and exported
// weights say of themselves.
#ifndef SWINFLEET_WORKER_MODEL_JSON_H_
#define SWINFLEET_WORKER_MODEL_JSON_H_

#include <string>

#include "core/config/job_config.h"
#include "core/data/dataset.h"

namespace swinfleet {

// One line; keys as the official code and timm name them ("img_size", "embed_dim", ...). Models of
// clips also have "frames", "patch_frames" and "window_frames", those of pre-training "pretrain".
std::string ModelConfigToJson(const ModelConfig& model, const PretrainConfig& pretrain = {});

// The inverse. Throws Error for a text that is no such JSON: an unknown or missing key, a wrong
// type, dimensions that ValidateModel refuses. `source` is for the message. `pretrain`, where it is
// given, gets that part; its method is kNone for a classifier.
ModelConfig ModelConfigFromJson(const std::string& text, const std::string& source,
                                PretrainConfig* pretrain = nullptr);

// What evaluation needs to know of the data that a model was trained with: {"format", "mean",
// "std", "interpolation", "eval_crop", "frame_interval", "resample", "picture_size"}, the last one
// of data of one size. One line.
std::string PreprocessingToJson(const DataConfig& data, const DataIdentity& identity);

// The inverse: sets those fields of `data`, and the picture's height and width in `identity`, 0
// where they differ. Throws Error as ModelConfigFromJson.
void PreprocessingFromJson(const std::string& text, const std::string& source, DataConfig* data,
                           DataIdentity* identity);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_MODEL_JSON_H_
