// How pictures are normalised: what a job that says nothing gets, and what a checkpoint's run used.
#ifndef SWINFLEET_WORKER_NORMALISATION_H_
#define SWINFLEET_WORKER_NORMALISATION_H_

#include <string>
#include <vector>

#include "core/checkpoint/manifest.h"
#include "core/config/job_config.h"

namespace swinfleet {

// Of ImageNet's training pictures: what timm's and the official models are trained with. Red, green
// and blue.
extern const std::vector<double> kImageNetMean;
extern const std::vector<double> kImageNetStd;

// Pictures and frames in folders, of three channels, whose job sets neither data.mean nor data.std
// get ImageNet's. Everything else keeps what the job says, and what it leaves out is 0 and 1.
void ChooseNormalisation(const ModelConfig& model, DataConfig* data);

// What a new job in folders has to say for itself: both values where it sets one of them, and where
// ImageNet's don't fit. Each message names the key and what would do; empty when nothing is wrong.
// `data` as ChooseNormalisation leaves it.
std::vector<std::string> CheckNormalisationIsSaid(const ModelConfig& model, const DataConfig& data);

// Sets `data`'s mean and std to what the run of a checkpoint was trained with: what the checkpoint
// records or, if it was written before that was recorded, what its job's specification says (such
// runs were not normalised where it says nothing).
void NormaliseAsTrained(const CheckpointMeta& meta, DataConfig* data);

// "pictures are normalised with mean 0.5 and standard deviation 0.25", for a log.
std::string NormalisationText(const DataConfig& data);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_NORMALISATION_H_
