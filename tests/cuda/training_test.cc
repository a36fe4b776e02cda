// Models of every kind trained by the CUDA backend, as a program opens it, in the emulator; over
// ranks at every ZeRO stage under mpirun. What they come to is held against the CPU's.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/checkpoint/async_saver.h"
#include "kernels/op_entries.h"
#include "kernels/profile.h"
#include "tests/cuda/counting_gpu.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/worker/trainer.h"
#include "worker/compute_device.h"
#include "worker/dry_run.h"
#include "worker/trace_recorder.h"

namespace swinfleet {
namespace {

using Method = PretrainConfig::Method;

constexpr int kSteps = 2;

// The rank's GPU, for the process's life.
Accelerator* TheGpu() {
  static const auto* device = new ComputeDevice(TakeDevice(DeviceRequest::kCuda, &TestWorld()));
  return device->gpu.get();
}

// While one lives, the emulator ends the process where more is reserved: memory, and on one rank
// also streams and events, of which ranks take as many as their exchange happens to have under way.
class AllIsReserved {
 public:
  explicit AllIsReserved(bool alone) {
    setenv("SWINFLEET_CUDA_RESERVED", alone ? "all" : "memory", 1);
  }
  ~AllIsReserved() { unsetenv("SWINFLEET_CUDA_RESERVED"); }
  AllIsReserved(const AllIsReserved&) = delete;
  AllIsReserved& operator=(const AllIsReserved&) = delete;
};

class RankTrainer : public Trainer {
 public:
  using Trainer::Trainer;

  StepResult RunStep(int64_t step, bool broken = false, const StepFlags& flags = {}) {
    std::optional<AllIsReserved> reserved;
    if (step > 0) reserved.emplace(communicator_->size() == 1);
    int64_t leaf = 0;
    Batch batch;
    return step_.Run(step, step, flags, [&] {
      batch = RandomBatch(job_, step * job_.train.micro_batches() + step_.leaves()[leaf++]);
      if (broken) batch.image[0] = NAN;
      return &batch;
    });
  }
  StepResult RunProfiled(int64_t step, Profile* profile) {
    const OpTable* const plain = std::exchange(context_.ops, &ProfilingOps());
    context_.profile = profile;
    const StepResult result = RunStep(step);
    context_.profile = nullptr;
    context_.ops = plain;
    return result;
  }
  size_t planned_calls() const { return static_cast<size_t>(plan_.step.calls); }
  Context* context() { return &context_; }
  ZeroEngine& engine() { return engine_; }
  size_t save_copy_bytes() const { return plan_.save_copy_bytes; }
  // Everything is as large as the dry run said, on the GPU and beside it.
  void ExpectPlannedMemory() const {
    const MemoryClasses& planned = plan_.memory;
    EXPECT_EQ(memory_.parameters.high_water(), planned.parameters.high_water());
    EXPECT_EQ(memory_.gradients.high_water(), planned.gradients.high_water());
    EXPECT_EQ(memory_.optimizer.high_water(), planned.optimizer.high_water());
    EXPECT_EQ(memory_.staging.high_water(), planned.staging.high_water());
    EXPECT_LE(memory_.activations.high_water(), planned.activations.high_water());
    EXPECT_LE(memory_.workspace.high_water(), planned.workspace.high_water());
  }
};

JobConfig WithStage(JobConfig job, int stage) {
  job.parallel.zero_stage = stage;
  job.train.accumulation = DefaultAccumulation(stage);
  return job;
}

// Two micro-batches of two pictures, and of Swin V2 one block less, so that the emulator is
// soon done.
JobConfig Short(JobConfig job) {
  if (job.model.arch == Architecture::kSwinV2) {
    // Few pairs of tokens.
    job.model.window_size = 2;
    job.model.depths = {2, 1};
  }
  job.train.micro_batch = 2;
  job.train.global_batch = 4;
  job.train.optimizer.learning_rate = 1e-3;
  job.train.clip_grad_norm = 0.5;
  return job;
}

// Four micro-batches of one picture, so that the order of sums makes a difference.
JobConfig InFourParts(JobConfig job) {
  job.train.micro_batch = 1;
  return job;
}

JobConfig OfMixedClips() {
  JobConfig job = Short(SmallJob(Architecture::kVideoSwin));
  job.train.mix.mixup_alpha = 0.8;
  return job;
}

struct Kind {
  std::string name;
  JobConfig job;
  // Elements of weights and activations.
  DType dtype = DType::kF32;
};

std::vector<Kind> Kinds() {
  const std::vector<Kind> models = {
      {"SwinV1", InFourParts(Short(SmallJob(Architecture::kSwinV1)))},
      {"SwinV2", Short(SmallJob(Architecture::kSwinV2))},
      {"VideoSwin", OfMixedClips()},
      {"SimMim", InFourParts(Short(SmallPretraining(Method::kSimMim)))},
      {"Mae", Short(SmallPretraining(Method::kMae))},
      {"GreenMim", Short(SmallPretraining(Method::kGreenMim))},
  };
  std::vector<Kind> kinds;
  for (const Kind& model : models) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      kinds.push_back({model.name + "_" + NameOf(dtype), model.job, dtype});
      kinds.back().job.train.dtype = dtype;
    }
  }
  return kinds;
}

// Losses that part by more than this are no roundings: two steps of models of two stages.
double ToleranceOf(DType dtype) {
  if (dtype == DType::kF32) return 1e-4;
  return dtype == DType::kBF16 ? 3e-2 : 1e-2;
}

struct Outcome {
  std::vector<StepResult> steps;
  std::vector<float> weights;
};

// By a rank alone where there is no communicator, on the CPU where there is no GPU.
Outcome Train(const JobConfig& job, Communicator* communicator, Accelerator* gpu) {
  RankTrainer trainer(job, communicator, gpu);
  Outcome outcome;
  for (int step = 0; step < kSteps; ++step) outcome.steps.push_back(trainer.RunStep(step));
  trainer.ExpectPlannedMemory();
  outcome.weights = trainer.Weights();
  return outcome;
}

class CudaModels : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Trained, CudaModels, testing::ValuesIn(Kinds()),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(CudaModels, ComeToWhatTheCpuComesTo) {
  const JobConfig job = WithStage(GetParam().job, 0);
  const double tolerance = ToleranceOf(GetParam().dtype);
  const Outcome expected = Train(job, nullptr, nullptr);
  const Outcome got = Train(job, nullptr, TheGpu());
  for (int step = 0; step < kSteps; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const StepResult &here = got.steps[step], there = expected.steps[step];
    EXPECT_EQ(here.skipped, there.skipped) << here.first_nonfinite;
    EXPECT_NEAR(here.loss, there.loss, tolerance * std::abs(there.loss));
    // A norm gathers what all gradients are off by.
    EXPECT_NEAR(here.grad_norm, there.grad_norm, 10 * tolerance * there.grad_norm);
  }
}

// What each model comes to on a rank alone.
const Outcome& Alone(const Kind& kind) {
  static std::map<std::string, Outcome> known;
  const auto found = known.find(kind.name);
  if (found != known.end()) return found->second;
  return known[kind.name] = Train(WithStage(kind.job, 0), nullptr, TheGpu());
}

struct StagedKind {
  Kind kind;
  int stage = 0;
};

std::vector<StagedKind> StagedKinds() {
  std::vector<StagedKind> staged;
  for (const Kind& kind : Kinds()) {
    for (int stage = 0; stage <= 3; ++stage) staged.push_back({kind, stage});
  }
  return staged;
}

class CudaRanks : public testing::TestWithParam<StagedKind> {};

INSTANTIATE_TEST_SUITE_P(Trained, CudaRanks, testing::ValuesIn(StagedKinds()), [](const auto& p) {
  return p.param.kind.name + "_zero" + std::to_string(p.param.stage);
});

// However many ranks there are, and at whatever stage.
TEST_P(CudaRanks, HaveTheBitsOfOneAlone) {
  const auto& [kind, stage] = GetParam();
  const Outcome& expected = Alone(kind);
  const Outcome got = Train(WithStage(kind.job, stage), &TestWorld(), TheGpu());
  for (int step = 0; step < kSteps; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    EXPECT_EQ(got.steps[step].skipped, expected.steps[step].skipped);
    EXPECT_EQ(got.steps[step].loss, expected.steps[step].loss);
    EXPECT_EQ(got.steps[step].grad_norm, expected.steps[step].grad_norm);
  }
  EXPECT_TRUE(got.weights == expected.weights);
}

// Gradients are exchanged in bfloat16; on one rank they are added up in it.
TEST(CudaTraining, WithSumsInSixteenBits) {
  for (const auto accumulation : {Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    SCOPED_TRACE(static_cast<int>(accumulation));
    JobConfig job = Short(SmallJob(Architecture::kSwinV1));
    const std::vector<StepResult> expected = Train(WithStage(job, 0), nullptr, nullptr).steps;
    job.parallel.zero_stage = 1;
    job.train.accumulation = accumulation;
    RankTrainer trainer(job, &TestWorld(), TheGpu());
    for (int step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(trainer.RunStep(step).loss, expected[step].loss,
                  ToleranceOf(DType::kBF16) * expected[step].loss);
    }
  }
}

// The first tensor that is not finite has the same name on both.
TEST(CudaTraining, NamesWhatIsNotFinite) {
  const JobConfig job = Short(SmallJob(Architecture::kSwinV1));
  RankTrainer cpu(job), gpu(job, &TestWorld(), TheGpu());
  const StepResult expected = cpu.RunStep(0, /*broken=*/true);
  ASSERT_TRUE(expected.skipped);
  EXPECT_EQ(gpu.RunStep(0, /*broken=*/true).first_nonfinite, expected.first_nonfinite);
  EXPECT_EQ(gpu.RunStep(1).first_nonfinite, "");
}

TEST(CudaTraining, NamesWeightsThatAreNotFinite) {
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    JobConfig job = Short(SmallJob(Architecture::kSwinV1));
    job.train.dtype = dtype;
    job.train.optimizer.learning_rate = dtype == DType::kF32 ? 1e39 : 1e6;
    RankTrainer trainer(job, &TestWorld(), TheGpu());
    EXPECT_EQ(trainer.RunStep(0).nonfinite_weight, "");
    EXPECT_NE(trainer.RunStep(1).nonfinite_weight, "");
  }
}

// As much pinned memory as was planned.
class PinnedCopy {
 public:
  explicit PinnedCopy(size_t bytes)
      : arena_(Arena::OnHost("copy", bytes)),
        buffer_(arena_.Allocate({static_cast<int64_t>(bytes / sizeof(float))}).span()) {
    if (!buffer_.empty()) TheGpu()->Pin(buffer_.data(), buffer_.size_bytes());
  }
  ~PinnedCopy() {
    if (!buffer_.empty()) TheGpu()->Unpin(buffer_.data());
  }
  PinnedCopy(const PinnedCopy&) = delete;
  PinnedCopy& operator=(const PinnedCopy&) = delete;
  std::span<float> buffer() const { return buffer_; }

 private:
  Arena arena_;
  std::span<float> buffer_;
};

// What the rank has of each tensor.
std::map<std::string, std::vector<float>> ElementsIn(const std::vector<TensorPiece>& pieces) {
  std::map<std::string, std::vector<float>> elements;
  for (const TensorPiece& piece : pieces) elements[piece.tensor] = ElementsOf(piece);
  return elements;
}

// Whatever has been updated before somebody reads them, and one save after the other.
void ExpectCopiesOfTheirStep(int stage, DType dtype) {
  JobConfig job = WithStage(Short(SmallJob(Architecture::kSwinV1)), stage);
  // A unit that is large enough for both ranks to have a part of it.
  job.model.embed_dim = 16;
  job.model.depths = {1, 1};
  job.train.dtype = dtype;
  RankTrainer trainer(job, &TestWorld(), TheGpu());
  const PinnedCopy copy(trainer.save_copy_bytes());
  EXPECT_FALSE(trainer.RunStep(0).skipped);
  for (int step = 1; step < 3; ++step) {
    const auto expected = ElementsIn(trainer.engine().OwnedState());
    const std::vector<TensorPiece> pieces = trainer.engine().CopyState(copy.buffer());
    EXPECT_FALSE(trainer.RunStep(step).skipped);
    std::thread([&] { EXPECT_EQ(ElementsIn(pieces), expected); }).join();
    EXPECT_NE(ElementsIn(trainer.engine().OwnedState()), expected);
  }
}

TEST(CudaTraining, CopiesOfTheStateAreOfTheirStep) {
  for (const int stage : TestWorld().size() == 1 ? std::vector<int>{0} : std::vector{0, 1, 2, 3}) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    ExpectCopiesOfTheirStep(stage, DType::kF32);
  }
}

TEST(CudaTraining, CopiesOfMastersAreOfTheirStep) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    ExpectCopiesOfTheirStep(3, dtype);
  }
}

// What was called, where and with what: the outermost scope first.
std::string TextOf(const Profile& profile, const Profile::Call& call) {
  std::string text = std::string(kOpNames[call.op]) + " " + std::to_string(call.matrix_flops) +
                     " FLOP " + std::to_string(call.bytes) + " B " + std::to_string(call.launches) +
                     " launches";
  for (int scope = call.scope; scope >= 0; scope = profile.scopes()[scope].parent) {
    text = profile.scopes()[scope].name + " / " + text;
  }
  for (const TensorView& tensor : call.tensors) {
    text += std::string(", ") + NameOf(tensor.dtype) + " " + tensor.shape.ToString();
  }
  return text;
}

// Of those that compute, in their order.
std::vector<std::string> CallsOf(const Profile& profile) {
  std::vector<std::string> calls;
  for (const Profile::Call& call : profile.calls()) {
    if (!call.exchanges) calls.push_back(TextOf(profile, call));
  }
  return calls;
}

// In the step that comes after `steps` others: what is gathered ahead differs from the first.
std::vector<std::string> PlannedCalls(const JobConfig& job, int steps) {
  DryRun run(
      job,
      [](DryRun* /*run*/) {
        return MakeDryRunCommunicator(TestWorld().rank(), TestWorld().size());
      },
      Device::kCuda);
  for (int step = 0; step < steps; ++step) run.Step();
  Profile profile(CudaDryRunOps());
  run.context.ops = &ProfilingOps();
  run.context.profile = &profile;
  run.Step();
  return CallsOf(profile);
}

void ExpectSameCalls(const std::vector<std::string>& calls,
                     const std::vector<std::string>& planned) {
  ASSERT_EQ(calls.size(), planned.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSERT_EQ(calls[i], planned[i]) << i;
    EXPECT_NE(calls[i].find(" / "), std::string::npos) << "no module: " << calls[i];
  }
}

// One after the other, within the step, and none before the host called it.
void ExpectTimesOfAStep(const Profile& profile, const Profile::Span& step) {
  double last = step.begin, computed = 0, started = 0;
  for (const Profile::Call& call : profile.calls()) {
    SCOPED_TRACE(TextOf(profile, call));
    EXPECT_GT(call.span.seconds, 0);
    // To as much as the two clocks are known to differ.
    EXPECT_GE(call.span.begin, call.host.begin - 1e-3);
    EXPECT_LE(call.span.end(), step.end());
    if (call.exchanges) continue;
    EXPECT_GE(call.span.begin, last - 1e-9);
    last = call.span.end();
    computed += call.span.seconds;
    started += call.host.seconds;
  }
  EXPECT_LE(computed, step.seconds);
  EXPECT_LE(last, step.end());
  // Alone the emulator computes nothing before the host waits.
  if (TestWorld().size() > 1) return;
  EXPECT_GE(profile.calls()[0].span.begin, profile.calls()[10].host.begin);
  EXPECT_GT(computed, started);
}

// Each exchange was a collective of the step, and what was added in it was within it.
void ExpectExchanges(const Profile& profile, const Communicator& communicator) {
  std::map<uint64_t, std::string> names;
  for (const CollectiveRecord& record : communicator.recent()) {
    names[record.sequence] = record.name;
  }
  for (const Profile::Exchange& exchange : profile.exchanges()) {
    EXPECT_TRUE(names.contains(exchange.sequence)) << exchange.sequence;
    EXPECT_GT(exchange.span.seconds, 0) << names[exchange.sequence];
  }
  int additions = 0;
  for (const Profile::Call& call : profile.calls()) {
    if (!call.exchanges) continue;
    ++additions;
    const auto around = [&](const Profile::Exchange& exchange) {
      return exchange.span.begin <= call.span.begin &&
             call.span.end() <= exchange.span.end() + 1e-9;
    };
    EXPECT_TRUE(std::ranges::any_of(profile.exchanges(), around)) << TextOf(profile, call);
  }
  const bool alone = TestWorld().size() == 1;
  EXPECT_EQ(profile.exchanges().empty(), alone);
  EXPECT_EQ(additions == 0, alone);
}

// A step in a profile has all calls of the plan and the bits of one without; from the second step
// on nothing is taken from the GPU outside of it.
TEST(CudaTraining, ProfilesAreOfTheirStep) {
  JobConfig job = WithStage(Short(SmallJob(Architecture::kSwinV2)), 3);
  job.model.depths = {1, 1};
  job.train.global_batch = 2 * TestWorld().size();
  constexpr int kRun = 3, kProfiled = 1;
  std::vector<StepResult> expected;
  std::vector<float> weights;
  {
    RankTrainer plain(job, &TestWorld(), TheGpu());
    for (int step = 0; step < kRun; ++step) expected.push_back(plain.RunStep(step));
    weights = plain.Weights();
  }
  CountingGpu gpu(TheGpu());
  RankTrainer trainer(job, &TestWorld(), &gpu);
  for (int step = 0; step < kRun; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const int64_t taken = gpu.taken();
    StepResult result;
    if (step == kProfiled) {
      Profile profile(&gpu, trainer.planned_calls());
      EXPECT_EQ(gpu.taken(), taken + 1) << "a clock";
      Profile::Span whole = {.begin = profile.Now()};
      result = trainer.RunProfiled(step, &profile);
      profile.Finish();
      whole.seconds = profile.Now() - whole.begin;
      EXPECT_EQ(gpu.taken(), taken + 1);
      ExpectSameCalls(CallsOf(profile), PlannedCalls(job, step));
      ExpectTimesOfAStep(profile, whole);
      ExpectExchanges(profile, *trainer.engine().communicator());
    } else {
      result = trainer.RunStep(step);
      EXPECT_TRUE(step == 0 || gpu.taken() == taken);
    }
    EXPECT_EQ(result.loss, expected[step].loss);
    EXPECT_EQ(result.grad_norm, expected[step].grad_norm);
  }
  EXPECT_EQ(trainer.Weights(), weights);
}

class OneTrace : public Reporter {
 public:
  void SetPhase(Phase) override {}
  void SetStep(int64_t) override {}
  void ReportProgress(const TrainingProgress&) override {}
  void ReportCheckpoint(const std::string&, int64_t) override {}
  bool CancelRequested() override { return false; }
  std::optional<TraceRequest> TakeTraceRequest() override {
    return std::exchange(request, std::nullopt);
  }
  void ReportTrace(const TraceResult& reported) override { result = reported; }

  std::optional<TraceRequest> request;
  std::optional<TraceResult> result;
};

// The rows of a trace's process, and how many events of each kind they have.
struct TraceRows {
  explicit TraceRows(const std::string& path) {
    std::ifstream file(path);
    const auto trace = nlohmann::json::parse(file);
    for (const auto& event : trace.at("traceEvents")) {
      const int row = event.at("tid");
      if (event.at("name") == "thread_name") names[row] = event.at("args").at("name");
      if (event.at("ph") != "X") continue;
      EXPECT_GE(event.at("dur").get<double>(), 0);
      ++events[{row, event.at("cat")}];
    }
  }
  std::map<int, std::string> names;
  std::map<std::pair<int, std::string>, size_t> events;
};

// As a running job does it: asked in a step, which is as any other, and recorded in the next two.
TEST(CudaTraining, TracesOfStepsOnRequest) {
  const JobConfig job = WithStage(Short(SmallJob(Architecture::kSwinV1)), 1);
  std::string pattern = std::filesystem::temp_directory_path() / "swinfleet-trace-XXXXXX";
  const std::string folder = mkdtemp(pattern.data());
  RankTrainer trainer(job, &TestWorld(), TheGpu());
  OneTrace reporter;
  TraceRecorder recorder({.run_dir = folder, .calls_of_step = trainer.planned_calls()},
                         trainer.context(), trainer.engine().communicator(), &reporter);
  const auto run = [&](int64_t step) {
    const StepFlags flags = {.trace = recorder.Asked()};
    recorder.BeginStep(step);
    const StepResult result = trainer.RunStep(step, /*broken=*/false, flags);
    recorder.EndStep(result.trace);
  };
  run(0);
  reporter.request = TraceRequest{.id = "t", .steps = 2, .ranks = TestWorld().size()};
  for (int step = 1; step < 5; ++step) run(step);
  recorder.Finish();
  ASSERT_TRUE(reporter.result.has_value());
  ASSERT_EQ(reporter.result->error, "");
  TraceRows rows(reporter.result->path);
  const size_t calls = 2 * trainer.planned_calls();
  EXPECT_EQ((rows.events[{1, "step"}]), 2u);
  EXPECT_EQ((rows.events[{1, "op"}]), calls);
  EXPECT_EQ(rows.names.size(), 3u);
  EXPECT_GT((rows.events[{2, "collective"}]), 0u) << "of the host at least";
  const size_t modules = rows.events[{1, "module"}];
  EXPECT_GT(modules, 0u);
  const size_t additions = rows.events[{2, "op"}];
  EXPECT_EQ(additions == 0, TestWorld().size() == 1);
  EXPECT_GE((rows.events[{3, "host"}]), 2 + modules + calls + additions);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace swinfleet
