// Weights as one safetensors file with the official names: out of a checkpoint, and into a model
// with a strict report of what matched.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/nn/parameters.h"

namespace swinfleet {

struct ExportSummary {
  int64_t tensors = 0;
  int64_t elements = 0;
};

// Writes all parameters of the checkpoint (not the optimizer's state) to `path`, float32, under
// their official names. Metadata: "format" = "pt", "model_config" (the model's dimensions as JSON),
// "step". A file at `path` is replaced atomically. Throws Error, with nothing left behind.
ExportSummary ExportWeights(const CheckpointReader& checkpoint, const std::string& path,
                            FileOps& ops = FileOps::System());

// How a file's tensors fit a model's parameters.
struct ImportReport {
  std::string file;
  std::vector<std::string> matched;
  // Parameters of the model that the file lacks.
  std::vector<std::string> missing;
  // Tensors of the file that the model lacks.
  std::vector<std::string> unexpected;
  // With both shapes, as text.
  std::vector<std::string> shape_mismatches;
  // Not F32, BF16 or F16.
  std::vector<std::string> wrong_dtypes;
  // With a NaN or an infinity.
  std::vector<std::string> non_finite;
  // Tables that the official code stores but computes itself.
  std::vector<std::string> ignored_buffers;
  // Names of timm (which puts a stage's downsample at the start of the next one and calls the
  // classifier head.fc) and the official names they were taken for.
  std::vector<std::pair<std::string, std::string>> renamed;

  bool ok() const {
    return missing.empty() && unexpected.empty() && shape_mismatches.empty() &&
           wrong_dtypes.empty() && non_finite.empty();
  }
  // Several lines, long lists cut.
  std::string ToString() const;
};

// A weights file that fits a model: each parameter can be read, in any ranges, as float32.
class WeightsFile {
 public:
  // Compares names, shapes and dtypes. `table` outlives the object. Throws Error, holding the whole
  // report, unless all fit.
  WeightsFile(const std::string& path, const ParameterTable& table,
              FileOps& ops = FileOps::System());

  const ImportReport& report() const { return report_; }
  // Reads every value of parameters first, first + stride, ...; throws Error, holding the report,
  // if one is NaN or infinite.
  void VerifyFinite(int first = 0, int stride = 1);
  // Elements [begin, begin + out.size()) of the flattened parameter. Throws Error when the file
  // cannot be read.
  void Read(int parameter, int64_t begin, std::span<float> out) const;

 private:
  bool AllFinite(int parameter) const;

  const ParameterTable& table_;
  SafetensorsFile file_;
  ImportReport report_;
  // For each parameter the tensor of the file.
  std::vector<const StoredTensor*> sources_;
};

// Reads the file into a model: `sink` gets each parameter's values once, in the order of the table,
// and nothing at all if anything does not fit: then an Error holds the report.
ImportReport ImportWeights(const std::string& path, const ParameterTable& table,
                           const std::function<void(int parameter, std::span<const float>)>& sink,
                           FileOps& ops = FileOps::System());

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_
