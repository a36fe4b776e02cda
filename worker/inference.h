// A trained model ready for evaluation, in this process alone: what `swinfleet eval` and
// `swinfleet predict` share. Pictures go the way that they go in a job's evaluation.
#ifndef SWINFLEET_WORKER_INFERENCE_H_
#define SWINFLEET_WORKER_INFERENCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/weights_io.h"
#include "core/config/job_config.h"
#include "core/data/dataset.h"
#include "core/memory/memory_classes.h"
#include "core/nn/model.h"
#include "kernels/error.h"
#include "kernels/packed_weights.h"
#include "worker/evaluate.h"
#include "worker/program.h"

namespace CLI {
class App;
}

namespace swinfleet {

// What the command line says; what it leaves open comes from the weights.
struct InferenceOptions {
  // A safetensors file, a checkpoint, or a run's folder.
  std::string weights;
  // A preset's name, or a model as JSON; empty: what the weights say.
  std::string model;
  // Height and width, or one number for both; empty: the model's.
  std::vector<int64_t> image_size;
  // 0: the model's.
  int64_t window = 0;
  // "fp32", "bf16" or "fp16"; empty: the job's, and of files fp32.
  std::string dtype;
  bool allow_emulation = false;
  // 0: the job's; of files 1 thread, and 32 pictures a batch.
  int threads = 0;
  int64_t batch = 0;
  std::vector<double> mean;
  std::vector<double> std;
  std::optional<double> eval_crop;
  // "bilinear" or "bicubic"; empty: as for training.
  std::string interpolation;
};

// What --model takes, for a program's footer.
extern const char kModelHelp[];

// Adds the options to a program's.
void AddInferenceOptions(CLI::App* app, InferenceOptions* options);

// Parameters without gradients, of any dtype, and the copies of weights that products read fastest.
class InferenceParameters : public ParameterAccess {
 public:
  // Takes the memory from `arena`, for the copies too, which outlives the object as `table` does.
  InferenceParameters(const ParameterTable& table, DType dtype, Arena* arena);

  // What a Context needs to use the copies, which are made in the first forward pass: after that
  // weights are loaded no more.
  PackedWeights* packed() { return &*packed_; }

  // Reads and rounds all weights. Throws Error when one can't be read or is beyond the dtype.
  void Load(const WeightsFile& weights);
  // The weights that a model starts with, rounded.
  void Initialize(uint64_t seed);

  TensorView Acquire(int unit) override { return units_[unit]; }
  void Release(int) override {}
  TensorView Gradient(int unit) override;
  bool TakeUnwritten(int parameter) override;
  void GradientReady(int unit) override;

 private:
  const ParameterTable& table_;
  std::vector<TensorView> units_;
  std::optional<PackedWeights> packed_;
};

class Inference {
 public:
  // Opens, checks, verifies and loads the weights. Throws UsageError for options that contradict
  // each other or the model, Error for everything else.
  explicit Inference(const InferenceOptions& options);

  // Of the model, data and training; `data` has how pictures are prepared, but no path.
  const JobConfig& config() const { return config_; }
  const ImportReport& report() const { return report_; }
  // What the weights came from: the file, or the checkpoint's folder.
  const std::string& source() const { return report_.file; }
  // Step of training; -1: not known.
  int64_t step() const { return step_; }
  // Size of the pictures that the model was trained with, if all had one and were not resampled.
  int64_t picture_height() const { return picture_.height; }
  int64_t picture_width() const { return picture_.width; }
  // "checkpoint", "file", "arguments" or "ImageNet": where mean and std come from.
  const std::string& normalisation() const { return normalisation_; }

  // The job's evaluation of a data set prepared as `data` says. Throws Error when a picture can't
  // be had.
  Evaluation Evaluate(const DataConfig& data, const Dataset& dataset);
  // Calls visit(index, logits) for every sample in order, with (K) logits. Throws Error likewise.
  void Classify(const DataConfig& data, const Dataset& dataset,
                const std::function<void(int64_t index, std::span<const float> logits)>& visit);

 private:
  void ChooseModel(const WeightSource& source, const InferenceOptions& options);
  void ReadJob(const WeightSource& source);
  void ChooseSizes(const InferenceOptions& options);
  void ChoosePreparation(const InferenceOptions& options);
  void ChooseArithmetic(const InferenceOptions& options);
  // With copies of the weights where there is room for them.
  void Reserve();
  void Reserve(bool packed);

  JobConfig config_;
  ImportReport report_;
  int64_t step_ = -1;
  DataIdentity picture_;
  std::string normalisation_;
  std::unique_ptr<Model> model_;
  std::optional<MemoryClasses> memory_;
  std::optional<InferenceParameters> parameters_;
  Context context_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_INFERENCE_H_
