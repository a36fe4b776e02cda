#include "worker/normalisation.h"

#include <sstream>

#include "proto/job.pb.h"
#include "proto/job_yaml.h"

namespace swinfleet {
namespace {

bool InFolders(const DataConfig& data) {
  return data.format == "imagefolder" || data.format == "frames";
}

bool ImageNetFits(const ModelConfig& model) {
  return model.in_chans == static_cast<int64_t>(kImageNetMean.size());
}

}  // namespace

const std::vector<double> kImageNetMean = {0.485, 0.456, 0.406};
const std::vector<double> kImageNetStd = {0.229, 0.224, 0.225};

void ChooseNormalisation(const ModelConfig& model, DataConfig* data) {
  if (!InFolders(*data) || !data->mean.empty() || !data->std.empty()) return;
  if (!ImageNetFits(model)) return;
  data->mean = kImageNetMean;
  data->std = kImageNetStd;
}

std::vector<std::string> CheckNormalisationIsSaid(const ModelConfig& model,
                                                  const DataConfig& data) {
  if (!InFolders(data)) return {};
  const bool mean = !data.mean.empty(), std = !data.std.empty(), fits = ImageNetFits(model);
  if (mean != std) {
    const std::string set = mean ? "data.mean" : "data.std";
    const std::string other = mean ? "data.std" : "data.mean";
    return {other + " is missing, and " + set + " is set; set both" +
            (fits ? ", or neither for ImageNet's" : "")};
  }
  // Of other numbers pictures in folders are refused anyway.
  if (mean || model.in_chans != 1) return {};
  return {
      "data.mean and data.std are missing; pictures in folders have ImageNet's if nothing is said,"
      " which are of 3 channels, and model.in_chans is 1: set both ([0] and [1] leave pixels from 0"
      " to 1)"};
}

void NormaliseAsTrained(const CheckpointMeta& meta, DataConfig* data) {
  if (meta.normalisation) {
    data->mean = meta.normalisation->mean;
    data->std = meta.normalisation->std;
    return;
  }
  JobSpec spec;
  if (!ParseJobYaml(meta.job_spec, "", &spec).ok()) return;
  data->mean.assign(spec.data().mean().begin(), spec.data().mean().end());
  data->std.assign(spec.data().std().begin(), spec.data().std().end());
}

std::string NormalisationText(const DataConfig& data) {
  const auto text = [](const std::vector<double>& values, const char* none) {
    std::ostringstream list;
    for (size_t i = 0; i < values.size(); ++i) list << (i == 0 ? "" : ", ") << values[i];
    return values.empty() ? std::string(none) : list.str();
  };
  return "pictures are normalised with mean " + text(data.mean, "0") + " and standard deviation " +
         text(data.std, "1");
}

}  // namespace swinfleet
