// golden_check: runs what a golden describes with the product's code and compares. The parts that
// its sources share; tests/golden/data/README.md describes the format and the measures.
#ifndef SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_H_
#define SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "core/config/job_config.h"
#include "core/memory/compute.h"
#include "core/nn/model.h"
#include "core/nn/parameters.h"
#include "distributed/communicator.h"
#include "kernels/error.h"
#include "kernels/ops.h"

namespace swinfleet::golden {

using Json = nlohmann::json;

// A golden that is in order, but asks for something that the product can't do.
class Unsupported : public Error {
 public:
  using Error::Error;
};

// What models run on: so many threads of the CPU, or a GPU. Single operations run on the CPU.
struct Machine {
  int threads = 1;
  Accelerator* gpu = nullptr;
};

// A float32 tensor with its shape. Without elements: an absent argument of an operation.
struct Tensor {
  std::vector<float> values;
  Shape shape;

  static Tensor Zeros(const Shape& shape) {
    return Tensor{std::vector<float>(static_cast<size_t>(shape.NumElements())), shape};
  }
  TensorView View() { return values.empty() ? TensorView{} : ViewOf(values.data(), shape); }
  // The same elements under another shape.
  TensorView View(const Shape& other) { return View().Reshape(other); }
};

// One file. Remembers which of its tensors were read, so that none goes unnoticed.
class Golden {
 public:
  // Throws Error when the file isn't a golden.
  explicit Golden(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::string& name() const { return name_; }
  const std::string& kind() const { return kind_; }
  const Json& config() const { return config_; }

  // A metadata entry as plain text; empty if there is none.
  std::string Text(const std::string& key) const;
  // A metadata entry parsed as JSON; null if there is none.
  Json Parsed(const std::string& key) const;

  bool Has(const std::string& name) const { return file_.Find(name) != nullptr; }
  const StoredTensor* Find(const std::string& name) const { return file_.Find(name); }
  const std::vector<StoredTensor>& tensors() const { return file_.tensors(); }
  // A float32 tensor. Throws Error when it's missing or of another type.
  Tensor Load(const std::string& name) const;
  // One of this very shape.
  Tensor Load(const std::string& name, const Shape& shape) const;
  std::vector<int64_t> LoadIntegers(const std::string& name) const;
  bool WasRead(const std::string& name) const { return read_.contains(name); }

 private:
  SafetensorsFile file_;
  std::string name_;
  std::string kind_;
  Json config_;
  mutable std::set<std::string> read_;
};

// The largest allowed errors of a golden, by what is compared.
struct Tolerances {
  double outputs = 0;
  double gradients = 0;
  double after_steps = 0;
  // Error of the movement of all parameters together, and of the worst tensor.
  double movement = 6e-4;
  double movement_worst = 9e-3;
  // Where they come from, for the report.
  std::string source;
};

// Rates, against tensors and against the float64 decimals of the metadata, whatever the kind.
inline constexpr double kStoredRate = 1e-6;
inline constexpr double kExactRate = 1e-12;

// From MANIFEST.json in the golden's folder, or the table by kind when there is none (or the golden
// isn't in it). Throws Error for a manifest that can't be read.
Tolerances FindTolerances(const Golden& golden);

// Compares results with a golden's tensors and keeps account.
class Comparison {
 public:
  // With `verbose` every tensor gets a line in `out`, else only failures do.
  Comparison(const Golden& golden, const Tolerances& tolerances, bool verbose, std::ostream& out);

  const Tolerances& tolerances() const { return tolerances_; }

  // The error max|x - reference| / max|reference| of the golden's tensor `name`, against the
  // tolerance of its kind (output/, grad/, after_steps/) or, where that isn't negative,
  // `tolerance`. `note` tells two results for one tensor apart.
  void Compare(const std::string& name, std::span<const float> values, const std::string& note = "",
               double tolerance = -1);
  void Compare(const std::string& name, std::span<const double> values,
               const std::string& note = "", double tolerance = -1);
  // Masks, partitions and integers: equal, element by element.
  void CompareExact(const std::string& name, std::span<const float> values);
  void CompareExact(const std::string& name, std::span<const int64_t> values);
  // Numbers of the metadata.
  void CompareNumbers(const std::string& name, std::span<const double> values,
                      std::span<const double> reference, double tolerance);
  // Error of the movement from `before` to after_steps/<name> of all these parameters.
  struct Moved {
    std::string name;
    std::vector<float> before;
    std::vector<float> after;
  };
  void CompareMovement(const std::vector<Moved>& parameters);
  // Anything else that has to hold.
  void Expect(bool holds, const std::string& name, const std::string& failure);

  // Accounts for what nobody looked at, writes the summary, and returns whether all is well.
  bool Finish();

 private:
  struct Worst {
    double part = -1;
    double error = 0;
    double tolerance = 0;
    std::string name;
  };
  double ToleranceOf(const std::string& name) const;
  void Record(const std::string& name, double error, double tolerance, const std::string& note);
  void Fail(const std::string& name, const std::string& why);

  const Golden& golden_;
  Tolerances tolerances_;
  bool verbose_;
  std::ostream& out_;
  std::set<std::string> compared_;
  int comparisons_ = 0;
  int failures_ = 0;
  Worst worst_;
};

// Runs single operations: dry first, to learn their scratch memory, then on the CPU.
class OpRunner {
 public:
  explicit OpRunner(int threads) : threads_(threads) {}
  int threads() const { return threads_; }

  template <typename Args>
  void Run(void (*OpTable::*op)(const Args&, Context&), const Args& args) const {
    WithContext([&](Context& context) { (context.ops->*op)(args, context); });
  }
  // Runs `body` twice, with the contexts of the dry run and of the CPU.
  void WithContext(const std::function<void(Context&)>& body) const;

 private:
  int threads_;
};

// A number, or two that are (height, width). Throws Unsupported for other lists.
std::array<int64_t, 2> Pair(const Json& value);

// The model that a golden's config describes. Throws Unsupported for another architecture, a
// setting that isn't known, or dimensions that can't be built.
ModelConfig ParseModel(const Json& config);
// A classifier of these dimensions.
std::unique_ptr<Model> MakeClassifier(const ModelConfig& config);
ScheduleConfig ParseSchedule(const Json& config);
OptimizerConfig ParseOptimizer(const Json& config);

// A model with the golden's parameters, in this process.
class ModelRunner {
 public:
  // Throws Error when the golden's parameters aren't the model's.
  ModelRunner(const Golden& golden, std::unique_ptr<Model> model, const Machine& machine);

  const ParameterTable& table() const { return model_->parameters(); }
  LocalParameters& parameters() { return parameters_; }
  const Machine& machine() const { return machine_; }

  struct Pass {
    std::vector<float> image;
    Shape image_shape;          // (B, in_chans, h, w), or with frames
    std::vector<float> target;  // (B, K), for cross entropy
    std::vector<int32_t> mask;
    Shape mask_shape;
    // Another loss, on the CPU: writes the pictures' losses and the gradient of their sum, times
    // grad_scale.
    std::function<void(const TensorView& output, const TensorView& loss, const TensorView& doutput,
                       Arena& activations, Context& context)>
        loss;
    int64_t pictures = 0;
    // Multiplies the gradient of the sum of the pictures' losses.
    double grad_scale = 1;
    bool want_image_gradient = false;
  };
  struct Result {
    std::vector<float> logits;  // (B, K), or whatever the model's output is
    std::vector<float> loss;    // (B)
    std::vector<float> image_gradient;
    // What modules returned, by their official name.
    std::map<std::string, std::vector<float>> captured;
    double MeanLoss() const;
  };
  // Forward and backward, on the machine; parameters' gradients are added up. `parameters`: where
  // these are, if not here.
  Result Run(Pass pass, ParameterAccess* parameters = nullptr);
  // The norm of all gradients.
  double GradientNorm();

 private:
  // On dry-run memory nothing is touched.
  void Execute(Pass& pass, ParameterAccess& parameters, Result& result, MemoryClasses* memory,
               Context& context);
  void ComputeLoss(Pass& pass, const TensorView& output, const TensorView& doutput, Result& result,
                   Arena& activations, Context& context);

  std::unique_ptr<Model> model_;
  LocalParameters parameters_;
  Machine machine_;
};

// A classification golden's batch, as one pass over all of it.
ModelRunner::Pass LoadBatch(const Golden& golden, const ModelConfig& config);
// Pictures [begin, begin + count) of a batch.
ModelRunner::Pass Slice(const ModelRunner::Pass& batch, int64_t begin, int64_t count);
// Targets (B, K) for a loss of this type ("cross_entropy", "label_smoothing...", "soft_target...").
std::vector<float> LoadTargets(const Golden& golden, const std::string& loss, double smoothing,
                               int64_t pictures, int64_t classes);

// Ranks that train together by the ZeRO engine.
struct EngineRanks {
  Communicator* communicator = nullptr;
  int zero_stage = 0;
};

// One a kind.
void CheckClassification(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckVideo(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckAccumulation(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckTrajectory(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckTrajectoryOverRanks(const Golden& golden, const Machine& machine,
                              const EngineRanks& ranks, Comparison& comparison);
void CheckSchedule(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckParameterGroups(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckOp(const Golden& golden, const Machine& machine, Comparison& comparison);
// Operations around windows.
void CheckWindowAttention(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckPositionBias(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckCosineCore(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckAttentionMask(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckWindowPartition(const Golden& golden, const OpRunner& runner, Comparison& comparison);
// What the data loader does to a batch.
void CheckMixup(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckCutmixBox(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckMaskGenerator(const Golden& golden, const OpRunner& runner, Comparison& comparison);

// Masked image modelling.
void CheckSimMim(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckMae(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckGreenMim(const Golden& golden, const Machine& machine, Comparison& comparison);
void CheckNormTargets(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckGreenGrouping(const Golden& golden, const OpRunner& runner, Comparison& comparison);
void CheckGreenPrepare(const Golden& golden, const OpRunner& runner, Comparison& comparison);

// Masked pixels whose prediction is so near to the target that rounding decides the sign of their
// gradient: how many the latest pass had, and whether the next one takes the other sign for them.
struct KinkPixels {
  int64_t count = 0;
  bool flip = false;
};
// A SimMIM golden's model, and its batch with its loss.
struct SimMimCase {
  ModelConfig model;
  PretrainConfig pretrain;
  ModelRunner::Pass pass;
  // Of targets that are not normalised.
  std::shared_ptr<KinkPixels> kink;
};
SimMimCase LoadSimMim(const Golden& golden);
// The decoder of MAE and GreenMIM.
void ParseDecoder(const Json& config, PretrainConfig* pretrain);
// Gives a pass with pictures and masks the product's loss of pre-training.
void UseMaskedLoss(const ModelConfig& model, const PretrainConfig& pretrain,
                   ModelRunner::Pass* pass, const std::shared_ptr<KinkPixels>& kink = nullptr);
// The loss and the gradients of a pass.
void ComparePass(const Golden& golden, const ModelRunner::Result& result, ModelRunner& runner,
                 const std::string& note, Comparison& comparison);
// The golden's fixed position embedding, with what models make of it.
void ComparePositions(const Golden& golden, const std::string& name, int64_t height, int64_t width,
                      bool class_token, Comparison& comparison);

// output/loss and loss_float64 of an operation whose loss is sum(y * dy), and dy itself.
void CompareDotLoss(const Golden& golden, std::span<const float> y, std::span<const float> dy,
                    Comparison& comparison);
// loss_float64 of the metadata, where there is one.
void CompareExactLoss(const Golden& golden, std::span<const double> losses, Comparison& comparison);

// How a file fared; also the exit codes, of which the smallest above 0 over all files is returned.
enum class Outcome { kPassed = 0, kFailed = 1, kUnsupported = 3, kUnreadable = 4 };
// With `ranks` a trajectory is trained by all of them, and without a GPU there is nothing else.
Outcome CheckFile(const std::string& path, const Machine& machine, bool verbose, std::ostream& out,
                  const EngineRanks* ranks = nullptr);

}  // namespace swinfleet::golden

#endif  // SWINFLEET_TESTS_GOLDEN_GOLDEN_CHECK_H_
