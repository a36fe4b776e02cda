#include "worker/attempt.h"

#include <glog/logging.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "core/checkpoint/file_ops.h"
#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/run_folder.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/memory/compute.h"
#include "core/nn/model.h"
#include "distributed/cpu_division.h"
#include "distributed/zero_engine.h"
#include "kernels/error.h"
#include "kernels/thread_placement.h"
#include "worker/budget_agreement.h"
#include "worker/checkpointer.h"
#include "worker/compute_device.h"
#include "worker/confinement.h"
#include "worker/evaluate.h"
#include "worker/initial_weights.h"
#include "worker/input_watch.h"
#include "worker/memory_budget.h"
#include "worker/memory_plan.h"
#include "worker/metrics_log.h"
#include "worker/model_json.h"
#include "worker/normalisation.h"
#include "worker/processor.h"
#include "worker/reproducibility.h"
#include "worker/trace_recorder.h"
#include "worker/train_step.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The job can't go on, and every rank knows.
class JobFailure : public Error {
 public:
  using Error::Error;
};

// What an earlier attempt had is not there now, and may be again for the next one.
class OutOfReach : public Error {
 public:
  using Error::Error;
};

// Does `work`, which reads model.init_from. A path that leads nowhere is a mistake in the job, not
// a file that is out of reach for the moment: no further attempt would find it.
void ReadInitialWeights(const std::function<void()>& work) {
  try {
    work();
  } catch (const FileError& error) {
    switch (error.code()) {
      case ENOENT:
      case ENOTDIR:
      case EISDIR:
      case ELOOP:
      case ENAMETOOLONG:
      case EACCES:
      case EPERM:
        throw Error(std::string("model.init_from: ") + error.what());
      default:
        throw;
    }
  }
}

class Attempt {
 public:
  Attempt(const AttemptOptions& options, Communicator* communicator, Reporter* reporter)
      : options_(options),
        config_(options.config),
        ranks_(communicator),
        communicator_(communicator),
        reporter_(reporter) {}
  // The engine's communicator goes with the engine.
  ~Attempt() { reporter_->SetCommunicator(ranks_); }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  AttemptResult Run();

 private:
  bool leader() const { return communicator_->rank() == 0; }
  // Runs `work` on this rank; if it throws Error on any rank, throws JobFailure on all of them.
  void Agree(const std::string& what, const std::function<void()>& work);
  // The same, but files that can't be read, what else is out of reach, and pictures that there is
  // no memory for at the moment end this process, so that the whole attempt is made again, instead
  // of failing the job for good.
  void AgreeOrRetry(const std::string& what, const std::function<void()>& work);

  // Data that an earlier attempt could use is only out of reach (its mount may be away): this
  // attempt ends, not the job.
  void OpenData();
  void OpenSplits();
  // Hosts may hold copies of their own: all must be the same.
  void CompareData();
  // Labels lie within the classes; throws Error that names the split.
  void CheckSplit(const Dataset& dataset, const std::string& split) const;
  // Divides the host's CPUs among its ranks: threads, and where they run.
  void DivideCpusOfHost();
  void KeepOnCpus(const CpuShare& share);
  // Sets config_'s checkpointing and sequential attention if it has a budget, on all ranks alike.
  void KeepBudget(const PlanOptions& facts);
  // The launch's device, unless the job can't be computed there and nobody insists.
  void ChooseDevice();
  void ReserveMemory();
  // Of a run that has not begun: rank 0 opens and verifies model.init_from.
  void CheckInitialWeights();
  // Parameters to skip are parameters of model.init_from, or of an imported start.
  void RefuseSkipsOfNothing() const;
  void ClaimFolder();
  void RestoreState();
  void LoadCheckpoint(const CheckpointReader& reader);
  void LoadInitialWeights(const std::string& path);
  void MakeLoader();

  // Trains. What was trained before a failure of all ranks together is kept.
  Outcome Train();
  Outcome TrainToTheEnd();
  // Saves what there is, one try, on all ranks.
  void KeepState();
  // This rank's next micro-batch. Null when it can't be had for good; then input_problem_ says why.
  Batch* NextBatch();
  // Counts a step that took so many seconds. Fails the job after too many in a row that are not
  // finite.
  void Account(const StepResult& result, double seconds);
  // Fails the job if the newest step made a weight that is not finite, in the tensor of that name:
  // no later step would mend it.
  void RequireFinite(const std::string& nonfinite_weight);
  void EvaluateNow();
  bool EvaluationDue() const;
  CheckpointMeta Meta() const;
  // A line of progress, on all ranks at the same steps.
  void Report();
  // Steps of this rank.
  struct Interval {
    int64_t steps = 0;
    // Never zero, since it is divided by.
    double seconds = 1e-9;
    // Of them, those that computing waited for communication, updates for the disk of offloaded
    // state, and steps for pictures.
    double exposed_seconds = 0;
    double disk_wait_seconds = 0;
    double input_wait_seconds = 0;
    // Of the time, 0..1.
    double ShareOf(double part) const { return steps > 0 ? std::min(1.0, part / seconds) : 0; }
  };
  // Memory of all ranks and their waiting for pictures, into progress_.
  void GatherFigures(const Interval& interval);
  // How far the training is, into progress_.
  void FillPosition();

  const AttemptOptions& options_;
  // With the memory plan that its budget leads to, once memory is reserved.
  JobConfig config_;
  // The attempt's, and the engine's as soon as there is one.
  Communicator* const ranks_;
  Communicator* communicator_;
  Reporter* reporter_;

  std::optional<ThreadPlacement> placement_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Dataset> train_data_, eval_data_;
  // What this attempt computes on; null: the CPU.
  Accelerator* gpu_ = nullptr;
  std::optional<Compute> compute_;
  size_t save_copy_bytes_ = 0;
  // Of operations in a step.
  size_t calls_of_step_ = 0;
  // Rank 0's, from the check to the load.
  std::unique_ptr<WeightsFile> checked_weights_;
  std::unique_ptr<RunFolderLock> lock_;
  std::unique_ptr<ZeroEngine> engine_;
  std::unique_ptr<TrainStep> train_step_;
  std::unique_ptr<Checkpointer> checkpointer_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<MetricsLog> metrics_;
  std::optional<TraceRecorder> tracer_;

  int64_t steps_per_epoch_ = 0;
  int64_t total_steps_ = 0;
  // Steps done, and those of them that were done before this attempt.
  int64_t step_ = 0;
  int64_t first_step_ = 0;
  int64_t skipped_ = 0;
  // Broken pictures that others stood for in training, over all attempts.
  int64_t replaced_ = 0;
  std::string input_problem_;
  int64_t nonfinite_in_a_row_ = 0;
  // Training can't go on from the present weights, so that they are not worth a checkpoint.
  bool weights_spoiled_ = false;
  TrainingProgress progress_;

  InputWatch input_watch_;
  // Of the last step, on this rank.
  double input_wait_seconds_ = 0;
  // Since the last line of progress.
  Interval interval_;
};

void Attempt::Agree(const std::string& what, const std::function<void()>& work) {
  std::string problem;
  try {
    work();
  } catch (const Error& error) {
    problem = error.what();
  }
  const std::vector<std::string> all = communicator_->AllGatherText(problem, what);
  std::string message;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    // What several ranks found alike is said once.
    if (all[rank].empty() || message.find(all[rank]) != std::string::npos) continue;
    message += (message.empty() ? "" : "\n") +
               (all.size() > 1 ? "rank " + std::to_string(rank) + ": " : "") + all[rank];
  }
  if (!message.empty()) throw JobFailure(message);
}

void Attempt::AgreeOrRetry(const std::string& what, const std::function<void()>& work) {
  std::exception_ptr passing;
  Agree(what, [&] {
    try {
      work();
    } catch (const FileError&) {
      passing = std::current_exception();
    } catch (const OutOfMemoryError&) {
      passing = std::current_exception();
    } catch (const OutOfReach&) {
      passing = std::current_exception();
    }
  });
  if (passing) std::rethrow_exception(passing);
}

void Attempt::CheckSplit(const Dataset& dataset, const std::string& split) const {
  try {
    CheckLabels(dataset, config_.model.num_classes);
  } catch (const Error& error) {
    throw Error("split " + split + " of " + config_.data.path + ": " + error.what());
  }
}

void Attempt::OpenSplits() {
  train_data_ = OpenDataset(config_.data, config_.data.train_split);
  eval_data_ = OpenDataset(config_.data, config_.data.eval_split);
  // Pre-training takes no notice of labels.
  if (!config_.pretrain.on()) {
    CheckSameClasses(*train_data_, *eval_data_);
    CheckSplit(*train_data_, config_.data.train_split);
    CheckSplit(*eval_data_, config_.data.eval_split);
  }
  const int64_t count = train_data_->identity().count;
  steps_per_epoch_ = Loader::StepsPerEpoch(count, config_.train.global_batch);
  if (steps_per_epoch_ == 0) {
    throw Error("train.global_batch " + std::to_string(config_.train.global_batch) +
                " is larger than the training data, " + std::to_string(count) +
                " pictures: use at most that many");
  }
}

void Attempt::CompareData() {
  const std::vector<std::string> seen =
      communicator_->AllGatherText("training " + train_data_->identity().ToString() +
                                       ", evaluation " + eval_data_->identity().ToString(),
                                   "data identity");
  for (size_t rank = 1; rank < seen.size(); ++rank) {
    if (seen[rank] == seen[0]) continue;
    throw Error("the ranks see different data in " + config_.data.path + ": rank 0 " + seen[0] +
                "; rank " + std::to_string(rank) + " " + seen[rank]);
  }
}

void Attempt::OpenData() {
  const auto agree = [&](const std::string& what, const std::function<void()>& work) {
    if (options_.attempt == 1) return Agree(what, work);
    AgreeOrRetry(what, [&] {
      try {
        work();
      } catch (const Error& error) {
        throw OutOfReach("the data in " + config_.data.path +
                         ", which an earlier attempt had, is not to be had now: " + error.what() +
                         ". This attempt ends; the job goes on once the data is there again");
      }
    });
  };
  agree("open the data", [&] { OpenSplits(); });
  // Fails on all ranks or on none.
  agree("compare the data", [&] { CompareData(); });
  total_steps_ = steps_per_epoch_ * config_.train.epochs;
}

void Attempt::DivideCpusOfHost() {
  RankCpus own;
  Agree("look for CPUs", [&] { own = RankCpus::Here(); });
  const CpuShare share = ShareCpus(own, communicator_);
  int& threads = config_.parallel.threads_per_rank;
  if (config_.parallel.threads_follow_cores) {
    const double wanted = share.DefaultThreads();
    std::vector<double> all(communicator_->size());
    communicator_->AllGather(std::span<const double>(&wanted, 1), all, "threads of the ranks");
    threads = static_cast<int>(*std::ranges::min_element(all));
    LOG_IF(INFO, leader()) << "threads a rank: " << threads << ", as many as each has cores";
  }
  // A rank that has its CPUs for itself has been given them by the system or a launcher.
  if (share.sharers > 1) KeepOnCpus(share);
}

void Attempt::KeepOnCpus(const CpuShare& share) {
  // For all ranks of the host together.
  const bool speaks = share.index == 0;
  const std::string ranks = std::to_string(share.sharers) + " ranks share " +
                            std::to_string(share.allowed.size()) + " CPUs";
  const int threads = config_.parallel.threads_per_rank;
  if (!options_.pin || std::getenv("OMP_PROC_BIND") != nullptr) {
    LOG_IF(INFO, speaks) << ranks << "; threads are not kept on CPUs, because "
                         << (options_.pin ? "OMP_PROC_BIND is set" : "--pin is off");
    return;
  }
  if (share.cores.empty()) {
    LOG_IF(WARNING, speaks) << ranks << ", too few to keep each on its own: threads run anywhere. "
                            << "Start fewer ranks on this host";
    return;
  }
  const ThreadCpus cpus = PlaceThreads(share, threads);
  try {
    placement_.emplace(cpus);
  } catch (const Error& error) {
    LOG(WARNING) << "threads are not kept on CPUs: " << error.what();
    return;
  }
  LOG_IF(INFO, speaks) << ranks << ": each keeps its compute threads (" << threads
                       << ") on cores of its own (" << share.cores.size() << " of this rank)";
}

void Attempt::KeepBudget(const PlanOptions& facts) {
  if (config_.memory.budget == 0) return;
  ChoiceSearch own;
  Agree("choose within the budget",
        [&] { own = ChooseForBudget(config_, communicator_->size(), facts); });
  // Fails on all ranks or on none.
  Agree("choose alike", [&] {
    const std::string chosen = AgreeOnChoice(own, facts, communicator_, &config_);
    LOG_IF(INFO, leader()) << chosen;
  });
}

void Attempt::ChooseDevice() {
  gpu_ = options_.gpu;
  std::string taken = options_.device_text;
  if (gpu_ != nullptr) {
    const std::string problem = WhyNotOnGpu(config_);
    if (!problem.empty() && options_.device == DeviceRequest::kCuda) {
      throw JobFailure("this job can't be computed on GPUs, and --device cuda says to: " + problem);
    }
    if (!problem.empty()) {
      gpu_ = nullptr;
      taken = "the CPU, because " + problem;
      LOG_IF(INFO, leader()) << "computes on " << taken;
    }
  }
  if (gpu_ != nullptr) return;
  const std::string problem = WhyNotOnCpu(config_);
  if (!problem.empty()) {
    throw JobFailure("this job would compute on " + taken + ", and can't: " + problem);
  }
  Agree("check the processor", [&] {
    RequireNative(config_.train.dtype, config_.train.allow_emulation,
                  "use train.dtype fp32, other hosts, or train.allow_emulation: true");
  });
}

void Attempt::ReserveMemory() {
  ChooseDevice();
  DivideCpusOfHost();
  const PlanOptions facts = {.device = gpu_ == nullptr ? Device::kCpu : Device::kCuda,
                             .data = FactsOf(*train_data_, *eval_data_)};
  KeepBudget(facts);
  Agree("reserve memory", [&] {
    const MemoryPlan plan =
        PlanMemory(config_, communicator_->rank(), communicator_->size(), facts);
    compute_.emplace(plan.memory, gpu_, config_.parallel.threads_per_rank, config_.train.matmul);
    save_copy_bytes_ = plan.save_copy_bytes;
    calls_of_step_ = static_cast<size_t>(plan.step.calls);
    LOG_IF(INFO, leader()) << "memory of a rank: " << plan.memory.Report();
  });
  model_ = MakeModel(config_.model, config_.pretrain, config_.memory);
  ZeroOptions zero = ZeroOptionsFor(config_, model_->parameters());
  zero.offload.attempt = options_.attempt;
  // A folder or a disk that can't be used is not to be had by trying again.
  Agree("prepare the optimizer's state", [&] {
    engine_ = std::make_unique<ZeroEngine>(model_->parameters(), communicator_, zero,
                                           &compute_->memory, &compute_->context);
  });
  communicator_ = engine_->communicator();
  reporter_->SetCommunicator(communicator_);
  Agree("connect the ranks", [&] { communicator_->Connect(); });
  train_step_ = std::make_unique<TrainStep>(config_, steps_per_epoch_, model_.get(), engine_.get(),
                                            &compute_->memory, &compute_->context);
}

void Attempt::CheckInitialWeights() {
  if (config_.init_from.empty() && config_.init_skip.empty()) return;
  AgreeOrRetry("check the initial weights", [&] {
    // What has begun, or has an imported start, goes on from its own weights.
    if (!leader() || HoldsRun(config_.run_dir)) return;
    RefuseSkipsOfNothing();
    ReadInitialWeights([&] {
      checked_weights_ =
          OpenInitialWeights(config_, ResolveWeights(config_.init_from), model_->parameters());
      checked_weights_->Verify();
    });
  });
}

void Attempt::RefuseSkipsOfNothing() const {
  if (!config_.init_from.empty() || config_.init_skip.empty()) return;
  throw Error(
      "model.init_skip is set, and all parameters would start at random, since there is"
      " neither model.init_from nor an imported start in " +
      config_.run_dir + "; set init_from, or leave init_skip out");
}

void Attempt::ClaimFolder() {
  const auto claim = [&] {
    if (!leader()) return;
    ClaimRunFolder(config_.run_dir, options_.job_id, options_.identity_text);
    if (options_.job_id == kLocalJobId) lock_ = std::make_unique<RunFolderLock>(config_.run_dir);
  };
  // A folder that an earlier attempt could use is only out of reach.
  if (options_.attempt > 1) return AgreeOrRetry("claim the run folder", claim);
  Agree("claim the run folder", claim);
}

void Attempt::RestoreState() {
  std::unique_ptr<CheckpointReader> reader;
  std::string dir, initial;
  const int attempt = static_cast<int>(options_.attempt);
  AgreeOrRetry("choose a checkpoint", [&] {
    if (!leader()) return;
    ResumeChoice choice = FindNewestGood(config_.run_dir, attempt, options_.resume_from);
    for (const std::string& line : choice.LogLines(10)) {
      LOG_IF(WARNING, !choice.rejected.empty()) << line;
      LOG_IF(INFO, choice.rejected.empty()) << line;
    }
    // A start that was imported is a checkpoint too.
    if (choice.reader == nullptr) RefuseSkipsOfNothing();
    BeginAttempt(config_.run_dir, attempt,
                 choice.reader == nullptr ? 0 : choice.reader->meta().step);
    reader = std::move(choice.reader);
    if (reader != nullptr) dir = reader->dir();
    // One rank chooses, since a run that goes on has a newer checkpoint for the next one to look.
    if (dir.empty() && !config_.init_from.empty()) {
      ReadInitialWeights([&] {
        initial = checked_weights_ ? checked_weights_->source().path()
                                   : ResolveWeights(config_.init_from);
      });
    }
  });
  initial = communicator_->AllGatherText(initial, "initial weights").front();
  dir = communicator_->AllGatherText(dir, "chosen checkpoint").front();
  AgreeOrRetry("restore the state", [&] {
    if (dir.empty()) {
      engine_->Initialize(config_.train.seed);
      if (!initial.empty()) ReadInitialWeights([&] { LoadInitialWeights(initial); });
      return;
    }
    if (reader == nullptr) reader = CheckpointReader::OpenManifest(dir);
    LoadCheckpoint(*reader);
  });
  checkpointer_ =
      std::make_unique<Checkpointer>(config_, options_.attempt, steps_per_epoch_, save_copy_bytes_,
                                     communicator_, engine_.get(), gpu_, reporter_);
  checkpointer_->SetLast(dir);
  if (leader() && step_ > 0 && dir != options_.resume_from) {
    reporter_->ReportCheckpoint(dir, step_);
  }
}

void Attempt::LoadInitialWeights(const std::string& path) {
  const ParameterTable& table = model_->parameters();
  std::unique_ptr<WeightsFile> weights = std::move(checked_weights_);
  if (weights == nullptr) {
    weights = OpenInitialWeights(config_, path, table);
    weights->Verify();
  }
  std::vector<float> values;
  for (int i = 0; i < static_cast<int>(table.parameters().size()); ++i) {
    if (weights->skipped(i)) continue;
    values.resize(table.parameters()[i].size());
    weights->Read(i, 0, values);
    engine_->SetParameter(i, values);
  }
  LOG_IF(INFO, leader()) << weights->report().ToString();
}

void Attempt::LoadCheckpoint(const CheckpointReader& reader) {
  const CheckpointMeta& meta = reader.meta();
  const DataIdentity& data = train_data_->identity();
  // Weights that were imported have seen no data yet.
  if (meta.step > 0 && !(meta.data == data)) {
    throw Error("the training data has changed since " + reader.dir() + " was saved: it was " +
                meta.data.ToString() + ", it is " + data.ToString() +
                ". Restore the data, or start a new run");
  }
  if (meta.step > total_steps_) {
    throw Error("the checkpoint " + reader.dir() + " is at step " + std::to_string(meta.step) +
                ", but the job ends at " + std::to_string(total_steps_));
  }
  const std::string differences =
      meta.reproducibility.Differences(MakeReproducibilityKey(config_, gpu_));
  LOG_IF(WARNING, leader() && meta.step > 0 && !differences.empty())
      << "the resumed run will not have the same bits as an undisturbed one: " << differences;
  engine_->Load(reader);
  // A job that does not say how pictures are normalised goes on as it began.
  if (meta.step > 0) NormaliseAsTrained(meta, &config_.data);
  step_ = first_step_ = meta.step;
  skipped_ = meta.skipped_steps;
  nonfinite_in_a_row_ = meta.consecutive_nonfinite;
  train_step_->loss_scaler().Restore(meta.loss_scale);
  const auto metric = [&](const char* name) {
    const auto found = meta.metrics.find(name);
    return found == meta.metrics.end() ? 0.0 : found->second;
  };
  progress_.loss = metric("loss");
  progress_.top1 = metric("top1");
  progress_.top5 = metric("top5");
  progress_.eval_loss = metric("eval_loss");
  progress_.evaluated_step = static_cast<int64_t>(metric("evaluated_step"));
  progress_.eval_replaced_pictures = static_cast<int64_t>(metric("eval_replaced_pictures"));
  replaced_ = static_cast<int64_t>(metric("replaced_pictures"));
  progress_.has_accuracy = !config_.pretrain.on();
}

void Attempt::MakeLoader() {
  Agree("start the loader", [&] {
    LoaderOptions options = LoaderOptionsFor(config_);
    options.micro_batches_per_step = config_.train.micro_batches();
    const ShardLayout::Leaves& own = train_step_->leaves();
    options.first_leaf = own.first;
    options.leaves = own.count;
    options.leaf_stride = own.stride;
    options.first_step = step_;
    loader_ = std::make_unique<Loader>(train_data_.get(), options);
  });
  LOG_IF(INFO, leader()) << NormalisationText(config_.data);
}

CheckpointMeta Attempt::Meta() const {
  CheckpointMeta meta;
  meta.job_spec = options_.spec_text;
  meta.step = step_;
  meta.attempt = static_cast<int>(options_.attempt);
  meta.seed = config_.train.seed;
  meta.data_position = step_ * config_.train.global_batch;
  meta.data = train_data_->identity();
  meta.normalisation = Normalisation{config_.data.mean, config_.data.std};
  meta.reproducibility = MakeReproducibilityKey(config_, gpu_);
  meta.model = ModelConfigToJson(config_.model, config_.pretrain);
  meta.skipped_steps = skipped_;
  meta.consecutive_nonfinite = nonfinite_in_a_row_;
  meta.loss_scale = train_step_->loss_scaler().state();
  meta.metrics = {{"loss", progress_.loss},
                  {"top1", progress_.top1},
                  {"top5", progress_.top5},
                  {"eval_loss", progress_.eval_loss},
                  {"evaluated_step", static_cast<double>(progress_.evaluated_step)},
                  {"eval_replaced_pictures", static_cast<double>(progress_.eval_replaced_pictures)},
                  {"replaced_pictures", static_cast<double>(replaced_)}};
  meta.ranks = communicator_->size();
  meta.zero_stage = config_.parallel.zero_stage;
  return meta;
}

void Attempt::Account(const StepResult& result, double seconds) {
  ++step_;
  replaced_ += result.replaced_pictures;
  reporter_->SetStep(step_);
  if (metrics_ != nullptr) metrics_->Step(step_, result, seconds, input_wait_seconds_);
  progress_.loss = result.loss;
  progress_.learning_rate = result.learning_rate;
  progress_.grad_norm = result.grad_norm;
  if (!result.skipped) {
    nonfinite_in_a_row_ = 0;
    return;
  }
  ++skipped_;
  if (result.failed) ++nonfinite_in_a_row_;
  LOG_IF(WARNING, leader()) << "step " << step_ << " skipped: the loss is " << result.loss
                            << ", the gradient's norm " << result.grad_norm
                            << "; first tensor that is not finite: " << result.first_nonfinite
                            << (result.failed ? "" : "; the loss scale is halved");
  if (nonfinite_in_a_row_ >= config_.train.max_nonfinite_steps) {
    weights_spoiled_ = true;
    throw JobFailure(std::to_string(nonfinite_in_a_row_) +
                     " steps in a row were not finite, the last at step " + std::to_string(step_) +
                     "; first tensor: " + result.first_nonfinite +
                     ". Lower the learning rate, or clip gradients");
  }
}

void Attempt::RequireFinite(const std::string& nonfinite_weight) {
  if (nonfinite_weight.empty()) return;
  weights_spoiled_ = true;
  const bool f16 = config_.train.dtype == DType::kF16;
  throw JobFailure("step " + std::to_string(step_) + " made a weight of " + nonfinite_weight +
                   (f16 ? " that fp16 can't hold: it ends at 65504" : " that is not finite") +
                   ". Lower the learning rate, or clip gradients" +
                   (f16 ? ", or use train.dtype bf16 or fp32" : ""));
}

bool Attempt::EvaluationDue() const {
  if (step_ == total_steps_) return true;
  const int64_t every = config_.train.eval_every_epochs * steps_per_epoch_;
  return every > 0 && step_ % every == 0;
}

void Attempt::EvaluateNow() {
  reporter_->SetPhase(Phase::kEvaluate);
  // A picture that can't be decoded fails the job on all ranks, with its name.
  std::vector<double> sums;
  AgreeOrRetry("evaluate", [&] {
    sums = EvaluateShare(config_, *eval_data_, model_.get(), engine_.get(), communicator_->rank(),
                         communicator_->size(), &compute_->memory, &compute_->context);
  });
  const Evaluation evaluation = SumShares(&sums, communicator_);
  progress_.top1 = evaluation.top1;
  progress_.top5 = evaluation.top5;
  progress_.eval_loss = evaluation.loss;
  progress_.eval_replaced_pictures = evaluation.replaced_pictures;
  progress_.evaluated_step = step_;
  if (metrics_ != nullptr) metrics_->Evaluated(step_, evaluation);
  progress_.has_accuracy = !config_.pretrain.on();
  std::ostringstream line;
  line << "step " << step_ << ": ";
  if (progress_.has_accuracy) {
    line << "top-1 " << 100 * evaluation.top1 << "%, top-5 " << 100 * evaluation.top5 << "% of ";
  }
  line << evaluation.pictures << " pictures, loss " << evaluation.loss;
  if (evaluation.replaced_pictures > 0) {
    line << "; of the pictures " << evaluation.replaced_pictures
         << " are broken, others stood for them";
  }
  LOG_IF(INFO, leader()) << line.str();
  reporter_->SetPhase(Phase::kTrain);
}

void Attempt::FillPosition() {
  // Without data there is no position.
  if (steps_per_epoch_ == 0) return;
  progress_.step = step_;
  progress_.total_steps = total_steps_;
  progress_.epoch = (step_ + steps_per_epoch_ - 1) / steps_per_epoch_;
  progress_.epochs = config_.train.epochs;
  progress_.skipped_steps = skipped_;
  progress_.replaced_pictures = replaced_;
}

void Attempt::GatherFigures(const Interval& interval) {
  const double own[] = {static_cast<double>(ProcessPeakBytes()),
                        interval.ShareOf(interval.input_wait_seconds)};
  std::vector<double> all(2 * communicator_->size());
  communicator_->AllGather(own, all, "figures of the ranks");
  progress_.peak_memory_rank_bytes = 0;
  progress_.peak_memory_total_bytes = 0;
  progress_.input_wait = 0;
  int slowest = 0;
  for (int rank = 0; rank < communicator_->size(); ++rank) {
    const uint64_t bytes = static_cast<uint64_t>(all[2 * rank]);
    progress_.peak_memory_rank_bytes = std::max(progress_.peak_memory_rank_bytes, bytes);
    progress_.peak_memory_total_bytes += bytes;
    // The others wait for the rank that waits for its pictures.
    if (all[2 * rank + 1] <= progress_.input_wait) continue;
    progress_.input_wait = all[2 * rank + 1];
    slowest = rank;
  }
  if (interval.steps == 0) return;
  const std::string held_up =
      input_watch_.Note(progress_.input_wait, interval.steps, slowest, config_.data);
  LOG_IF(WARNING, leader() && !held_up.empty()) << held_up;
}

void Attempt::Report() {
  const Interval interval = std::exchange(interval_, {});
  GatherFigures(interval);
  if (!leader()) return;
  FillPosition();
  if (interval.steps > 0) {
    const double steps = static_cast<double>(interval.steps);
    progress_.images_per_second =
        steps * static_cast<double>(config_.train.global_batch) / interval.seconds;
    progress_.eta_seconds = static_cast<double>(total_steps_ - step_) * interval.seconds / steps;
    progress_.exposed_communication = interval.ShareOf(interval.exposed_seconds);
    progress_.exposed_communication_seconds = interval.exposed_seconds / steps;
    progress_.disk_wait_seconds = interval.disk_wait_seconds / steps;
    metrics_->Speed(step_, progress_.images_per_second);
  }
  metrics_->Flush();
  reporter_->ReportProgress(progress_);
}

Batch* Attempt::NextBatch() {
  tracer_->Note();
  try {
    return loader_->Next();
  } catch (const FileError&) {
    // As in AgreeOrRetry: this process ends, and with it the launch.
    throw;
  } catch (const OutOfMemoryError&) {
    throw;
  } catch (const Error& error) {
    input_problem_ = error.what();
    return nullptr;
  }
}

Outcome Attempt::Train() {
  try {
    return TrainToTheEnd();
  } catch (const JobFailure&) {
    KeepState();
    throw;
  }
}

void Attempt::KeepState() {
  if (checkpointer_->InFlight()) checkpointer_->Finish();
  const std::string dir = CheckpointDir(config_.run_dir, static_cast<int>(options_.attempt), step_);
  if (weights_spoiled_ || step_ == first_step_ || checkpointer_->last() == dir) return;
  if (metrics_ != nullptr) metrics_->Flush();
  checkpointer_->Begin(Meta());
  checkpointer_->Finish();
}

Outcome Attempt::TrainToTheEnd() {
  // The evaluation may be what an earlier attempt ended in.
  if (step_ > 0 && EvaluationDue() && progress_.evaluated_step != step_) EvaluateNow();
  Report();
  while (step_ < total_steps_) {
    const StepFlags flags = {.cancel = reporter_->CancelRequested(),
                             .stop = reporter_->StopRequested(),
                             .saved = checkpointer_->PartWritten(),
                             .trace = tracer_->Asked()};
    const Clock::time_point begin = Clock::now();
    const double waited_before = loader_->wait_seconds();
    tracer_->BeginStep(step_ + 1);
    const StepResult result =
        train_step_->Run(step_, step_ - skipped_, flags, [&] { return NextBatch(); });
    tracer_->EndStep(result.trace);
    RequireFinite(result.nonfinite_weight);
    if (result.without_input > 0) {
      Agree("training pictures", [&] {
        if (!input_problem_.empty()) throw Error(input_problem_);
      });
    }
    input_wait_seconds_ = loader_->wait_seconds() - waited_before;
    const double seconds = SecondsSince(begin);
    interval_.seconds += seconds;
    interval_.exposed_seconds += result.exposed_seconds;
    interval_.disk_wait_seconds += result.disk_wait_seconds;
    interval_.input_wait_seconds += input_wait_seconds_;
    ++interval_.steps;
    Account(result, seconds);

    // Before an evaluation, which may take long: a crash in it must not cost what is written.
    if (checkpointer_->InFlight() && result.saved == communicator_->size()) {
      checkpointer_->Finish();
    }
    const bool leaves = result.cancel > 0 || result.stop > 0;
    // The next step would look through the weights that this one makes; whoever evaluates or saves
    // them does not wait for it.
    const bool saves = leaves || (step_ < total_steps_ && checkpointer_->Due(step_));
    if (saves || EvaluationDue()) RequireFinite(engine_->FirstNonfiniteWeight());
    // Before this step's own save, which keeps the figures. A save that began first would be no
    // safer: it is only committed in a later step, unless training stood still for the disk.
    if (EvaluationDue()) EvaluateNow();
    if (step_ % config_.train.log_every_steps == 0 || step_ == total_steps_) Report();
    if (leaves) {
      // One try: who leaves does not wait for a full disk.
      checkpointer_->Begin(Meta());
      checkpointer_->Finish();
      return result.cancel > 0 ? Outcome::kCancelled : Outcome::kStopped;
    }
    if (saves) {
      // A run that goes on from this checkpoint has the figures of all steps before it.
      if (metrics_ != nullptr) metrics_->Flush();
      checkpointer_->Begin(Meta());
    }
  }
  return Outcome::kSucceeded;
}

AttemptResult Attempt::Run() {
  AttemptResult result;
  try {
    reporter_->SetPhase(Phase::kLoad);
    if (!options_.roots.empty()) {
      AgreeOrRetry("check its paths",
                   [&] { CheckConfined(config_, options_.resume_from, options_.roots); });
    }
    // The folder last: a job that can't run leaves nothing behind.
    OpenData();
    ReserveMemory();
    CheckInitialWeights();
    ClaimFolder();
    const int64_t elements = model_->parameters().TotalElements();
    LOG_IF(INFO, leader()) << "model of " << elements << " parameters; " << total_steps_
                           << " steps of " << config_.train.global_batch << " pictures, "
                           << steps_per_epoch_ << " an epoch; " << communicator_->size()
                           << " ranks, ZeRO " << config_.parallel.zero_stage;
    // Masters and two moments in float32, at most.
    reporter_->SetStateBytes(static_cast<uint64_t>(elements) * 3 * sizeof(float));
    RestoreState();
    if (leader()) {
      metrics_ = std::make_unique<MetricsLog>(config_.run_dir, options_.attempt, step_,
                                              config_.metrics.tensorboard);
    }
    MakeLoader();
    reporter_->SetStep(step_);
    reporter_->SetPhase(Phase::kTrain);
    tracer_.emplace(TraceRecorderOptions{.run_dir = config_.run_dir,
                                         .attempt = options_.attempt,
                                         .calls_of_step = calls_of_step_},
                    &compute_->context, communicator_, reporter_);
    const bool all_done = step_ == total_steps_ && progress_.evaluated_step == step_;
    result.outcome = Train();
    if (result.outcome == Outcome::kSucceeded && !all_done) checkpointer_->SaveNow(Meta());
    LOG_IF(INFO, leader()) << "memory used: " << compute_->memory.Report() << "; process at most "
                           << ProcessPeakBytes() / (1 << 20) << " MiB";
  } catch (const JobFailure& failure) {
    result.outcome = Outcome::kFailed;
    result.message = failure.what();
  }
  if (tracer_) tracer_->Finish();
  reporter_->SetPhase(Phase::kIdle);
  FillPosition();
  result.progress = progress_;
  if (checkpointer_ != nullptr) result.last_checkpoint = checkpointer_->last();
  return result;
}

}  // namespace

AttemptResult RunAttempt(const AttemptOptions& options, Communicator* communicator,
                         Reporter* reporter) {
  return Attempt(options, communicator, reporter).Run();
}

}  // namespace swinfleet
