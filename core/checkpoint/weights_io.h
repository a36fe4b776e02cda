// Weights out of a checkpoint as one safetensors file with the official names, and into a model:
// from such files, from those of the official code and of timm, from pre-training and from
// checkpoints, also where windows and picture sizes differ, with a strict report of what became of
// everything.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/weight_source.h"
#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "kernels/error.h"

namespace swinfleet {

struct ExportSummary {
  int64_t tensors = 0;
  int64_t elements = 0;
};

// Writes all parameters of the checkpoint (not the optimizer's state) to `path`, float32, under
// their official names. Metadata: "format" = "pt", "model_config" (the model's dimensions as JSON),
// "step", and `metadata`. A file at `path` is replaced atomically. Throws Error, with nothing left
// behind.
ExportSummary ExportWeights(const CheckpointReader& checkpoint, const std::string& path,
                            const std::map<std::string, std::string>& metadata = {},
                            FileOps& ops = FileOps::System());

// What became of a file's tensors and of a model's parameters.
struct ImportReport {
  std::string file;
  // Parameters read as they are.
  std::vector<std::string> matched;
  // Made to fit another window or picture size, or put together from other tensors; each with how.
  std::vector<std::string> transferred;
  // Of pictures, made to fit clips; each with how.
  std::vector<std::string> inflated;
  // Parameters that init_skip names: they keep their initial values. And tensors that it names.
  std::vector<std::string> skipped;
  // Tensors that are not read because of what they are: tables that are computed, and parts of
  // pre-training.
  std::vector<std::string> left_out;
  // What may be wrong although everything fits.
  std::vector<std::string> notes;
  // Names that differ from the model's: in the file, in the model.
  std::vector<std::pair<std::string, std::string>> renamed;

  // ---- What must not be ----
  // Parameters of the model that the file lacks.
  std::vector<std::string> missing;
  // Tensors of the file that the model lacks, or that stand for one parameter twice.
  std::vector<std::string> unexpected;
  // With both shapes, as text.
  std::vector<std::string> shape_mismatches;
  // Stages of Swin V2 whose position biases were trained in units of other windows, and tables of
  // coordinates that tell no window; each with what is wrong.
  std::vector<std::string> other_units;
  // Not F32, BF16 or F16.
  std::vector<std::string> wrong_dtypes;
  // With a NaN or an infinity.
  std::vector<std::string> non_finite;
  // Patterns of init_skip that name nothing.
  std::vector<std::string> unused_skips;
  // What would help.
  std::vector<std::string> advice;

  bool ok() const {
    return missing.empty() && unexpected.empty() && shape_mismatches.empty() &&
           other_units.empty() && wrong_dtypes.empty() && non_finite.empty() &&
           unused_skips.empty();
  }
  // Several lines, lists of more than 20 names cut; those say how to see the rest.
  std::string ToString() const;
};

// Weights that do not fit; the message holds the report as text.
class ImportError : public Error {
 public:
  ImportError(const std::string& message, ImportReport report)
      : Error(message), report_(std::move(report)) {}
  const ImportReport& report() const { return report_; }

 private:
  ImportReport report_;
};

// The model that weights are for, and what else is known.
struct ImportOptions {
  ModelConfig model;
  // Parameters and tensors to leave out: names, or prefixes that end in "*" (JobConfig::init_skip).
  // They are not read even where they would fit.
  std::vector<std::string> skip;
  // The model that the file says it holds.
  std::optional<ModelConfig> source_model;
};

// Where a parameter's values come from.
struct ParameterSource {
  // This tensor; -1: none.
  int tensor = -1;
  // Computed from tensors instead.
  std::function<std::vector<float>()> compute;
  bool skipped = false;
};

// Weights that fit a model: each parameter can be read, in any ranges, as float32.
class WeightsFile {
 public:
  // Compares names, shapes and dtypes. `table` outlives the object. Throws ImportError unless
  // everything fits or is named by options.skip.
  WeightsFile(std::unique_ptr<WeightSource> source, const ParameterTable& table,
              const ImportOptions& options);
  // The same for OpenWeights(path).
  WeightsFile(const std::string& path, const ParameterTable& table, const ImportOptions& options,
              FileOps& ops = FileOps::System());

  const ImportReport& report() const { return report_; }
  const WeightSource& source() const { return *source_; }
  // Whether the parameter is left out and keeps its initial value.
  bool skipped(int parameter) const { return sources_.at(parameter).skipped; }
  // Verifies the source's checksums and reads every value of parameters first, first + stride, ...;
  // throws ImportError if one is NaN or infinite.
  void Verify(int first = 0, int stride = 1);
  // Elements [begin, begin + out.size()) of the flattened parameter, which is not skipped. Throws
  // Error when the file cannot be read.
  void Read(int parameter, int64_t begin, std::span<float> out) const;

 private:
  bool AllFinite(int parameter) const;
  void AdviseNonFinite();

  const ParameterTable& table_;
  std::unique_ptr<WeightSource> source_;
  ImportReport report_;
  std::vector<ParameterSource> sources_;
  // options.skip.
  std::vector<std::string> skip_;
  // What was computed, by parameter.
  std::map<int, std::vector<float>> computed_;
};

// Reads weights into a model: `sink` gets each parameter's values once, in the order of the table,
// but nothing for skipped ones, and nothing at all if anything does not fit: then it throws
// ImportError.
ImportReport ImportWeights(const std::string& path, const ParameterTable& table,
                           const ImportOptions& options,
                           const std::function<void(int parameter, std::span<const float>)>& sink,
                           FileOps& ops = FileOps::System());

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHTS_IO_H_
