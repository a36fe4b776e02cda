// Optimizer state off the GPU that updates with it, by the CUDA backend in the emulator: bits,
// memory, checkpoints, faults; over ranks at every ZeRO stage under mpirun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <functional>
#include <map>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/error.h"
#include "kernels/placement.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/distributed/offload_test_util.h"
#include "tests/distributed/shared_folder.h"
#include "worker/compute_device.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Kind = OptimizerConfig::Kind;

constexpr int kSteps = 3;

// The rank's GPU, for the process's life.
Accelerator* TheGpu() {
  static const auto* device = new ComputeDevice(TakeDevice(DeviceRequest::kCuda, &TestWorld()));
  return device->gpu.get();
}

class GpuTraining : public FakeTraining {
 public:
  explicit GpuTraining(const FakeOptions& options)
      : FakeTraining(&TestWorld(), options, /*dry=*/false, TheGpu()) {}
};

// Small pieces, so that units are cut into several, and lanes are used again within one.
FakeOptions ToHost(FakeOptions options) {
  options.offload.kind = Offload::kHost;
  options.offload.piece_elements = 8192;
  return options;
}

// The same, to files below this folder.
FakeOptions ToDisk(FakeOptions options, const std::string& folder,
                   FileOps& ops = FileOps::System()) {
  options.offload = OffloadTo(folder, ops);
  return options;
}

FakeOptions AtStage(int stage, DType dtype, Kind kind = Kind::kAdamW) {
  return {.stage = stage,
          .optimizer = kind,
          .leaves = 4,
          .dtype = dtype,
          .accumulation = DefaultAccumulation(stage)};
}

// What a rank sees of a training: of each step the norm and all weights, and its state at the end.
struct Course {
  std::vector<double> norms;
  std::vector<std::vector<float>> weights;
  // Where moments are on a disk, of weights alone.
  std::map<std::string, std::vector<float>> state;
};

// The elements that the rank has of each tensor.
std::map<std::string, std::vector<float>> StateOf(const std::vector<TensorPiece>& pieces) {
  std::map<std::string, std::vector<float>> state;
  for (const TensorPiece& piece : pieces) state[piece.tensor] = ElementsOf(piece);
  return state;
}

Course Train(FakeTraining* training) {
  Course course;
  for (int step = 0; step < kSteps; ++step) {
    course.norms.push_back(training->Step().norm);
    // Every other update runs beside the next step, which waits for units as it uses them.
    if (step % 2 == 0) course.weights.push_back(training->Weights());
  }
  course.state = StateOf(training->engine().OwnedState());
  return course;
}

// One at a time: the ranks' GPUs are joined once.
Course Train(const FakeOptions& options) {
  GpuTraining training(options);
  return Train(&training);
}

void ExpectSame(const Course& got, const Course& expected) {
  EXPECT_EQ(got.norms, expected.norms);
  EXPECT_EQ(got.weights, expected.weights);
  EXPECT_FALSE(got.state.empty());
  for (const auto& [tensor, elements] : got.state) {
    EXPECT_EQ(elements, expected.state.at(tensor)) << tensor;
  }
}

// A rank alone has everything at any stage.
std::vector<int> Stages() {
  return TestWorld().size() == 1 ? std::vector<int>{0} : std::vector<int>{0, 1, 2, 3};
}

void ExpectNoBitChanged(DType dtype) {
  for (const int stage : Stages()) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    const FakeOptions options = AtStage(stage, dtype);
    const Course expected = Train(options);
    ExpectSame(Train(ToHost(options)), expected);
    const SharedFolder folder;
    ExpectSame(Train(ToDisk(options, folder / "run")), expected);
  }
}

TEST(CudaOffload, ChangesNoBit) { ExpectNoBitChanged(DType::kF32); }

TEST(CudaOffload, ChangesNoBitInSixteenBits) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    ExpectNoBitChanged(dtype);
  }
}

TEST(CudaOffload, ChangesNoBitOfSgdNorWithoutOverlap) {
  FakeOptions options = AtStage(1, DType::kBF16, Kind::kSgd);
  const Course expected = Train(options);
  options.overlap = false;
  ExpectSame(Train(ToHost(options)), expected);
  const SharedFolder folder;
  ExpectSame(Train(ToDisk(options, folder / "run")), expected);
}

// Moments in bfloat16 are rounded by the same draws, whoever updates which elements.
TEST(CudaOffload, MomentsInBf16AreTheSameAtEveryStage) {
  const SharedFolder folder;
  FakeOptions options = AtStage(1, DType::kBF16);
  options.moments = DType::kBF16;
  const Course expected = Train(ToDisk(options, folder / "run"));
  options.stage = 3;
  options.accumulation = DefaultAccumulation(3);
  const Course other = Train(ToDisk(options, folder / "run"));
  EXPECT_EQ(other.norms, expected.norms);
  EXPECT_EQ(other.weights, expected.weights);
  // And not those of moments in float32.
  options.moments = DType::kF32;
  EXPECT_NE(Train(ToDisk(options, folder / "run")).weights, expected.weights);
}

// Everything as planned, and once for all steps. Returns the plan.
MemoryClasses TakenByTwoSteps(const FakeOptions& options) {
  GpuTraining training(options);
  MemoryClasses planned = training.Plan(Device::kCuda);
  const int64_t blocks = Arena::HostBlocks();
  for (int step = 0; step < 2; ++step) training.WholeStep();
  EXPECT_EQ(Arena::HostBlocks(), blocks);
  const MemoryClasses& taken = training.memory();
  for (const auto arena :
       {&MemoryClasses::parameters, &MemoryClasses::gradients, &MemoryClasses::optimizer,
        &MemoryClasses::staging, &MemoryClasses::offloaded}) {
    EXPECT_EQ((taken.*arena).high_water(), (planned.*arena).high_water()) << (taken.*arena).name();
  }
  EXPECT_EQ(planned.HostHighWater(), planned.staging.high_water() + planned.offloaded.high_water());
  return planned;
}

// On the GPU are the buffers; on the host all of the state, or as many buffers again.
TEST(CudaOffload, TakesWhatIsPlanned) {
  const SharedFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const FakeOptions options = AtStage(1, dtype);
    const size_t element = dtype == DType::kF32 ? 8 : 10;
    const size_t buffers = 4 * 8192 * element;
    const MemoryClasses host = TakenByTwoSteps(ToHost(options));
    EXPECT_EQ(host.optimizer.high_water(), buffers);
    EXPECT_GE(host.offloaded.high_water(),
              FakeTable().TotalElements() * element / TestWorld().size());
    const MemoryClasses disk = TakenByTwoSteps(ToDisk(options, folder / "run"));
    EXPECT_EQ(disk.optimizer.high_water(), buffers);
    EXPECT_EQ(disk.offloaded.high_water(), buffers + 4096);
  }
}

// Of tensors, wherever they are in a checkpoint.
std::map<std::string, uint64_t> ChecksumsOf(const CheckpointReader& checkpoint) {
  std::map<std::string, uint64_t> checksums;
  for (const ShardRecord& shard : checkpoint.shards()) {
    for (const PieceRecord& piece : shard.pieces) {
      if (piece.tensor.starts_with("padding/")) continue;
      checksums[piece.tensor + " " + std::to_string(piece.begin)] = piece.checksum;
    }
  }
  return checksums;
}

// A checkpoint goes on with state elsewhere, at another stage, to the same weights.
TEST(CudaOffload, StateMovesThroughCheckpoints) {
  const SharedFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    const std::string dir = folder / NameOf(dtype);
    const FakeOptions options = AtStage(1, dtype);
    std::vector<float> expected;
    {
      GpuTraining training(ToHost(options));
      for (int step = 0; step < 2; ++step) training.Step();
      SaveTogether(training, dir);
      training.Step();
      expected = training.Weights();
    }
    const auto reader = CheckpointReader::Open(dir);
    for (const FakeOptions& other :
         {ToHost(AtStage(3, dtype)), AtStage(2, dtype), ToHost(AtStage(0, dtype)),
          ToDisk(AtStage(3, dtype), dir + "-run")}) {
      GpuTraining resumed(other);
      resumed.engine().Load(*reader);
      resumed.set_step(2);
      resumed.Step();
      EXPECT_EQ(resumed.Weights(), expected) << other.stage;
    }
    // What was saved there is what is saved from elsewhere.
    for (const FakeOptions& other : {options, ToDisk(options, dir + "-run")}) {
      const std::string saved = dir + (other.offload.kind == Offload::kDisk ? "-disk" : "-gpu");
      GpuTraining training(other);
      for (int step = 0; step < 2; ++step) training.Step();
      SaveTogether(training, saved);
      EXPECT_EQ(ChecksumsOf(*CheckpointReader::Open(saved)), ChecksumsOf(*reader));
    }
  }
}

// Copies for a save, as another thread reads them while the training goes on.
void ExpectCopiesOfTheirStep(const FakeOptions& options) {
  GpuTraining training(options);
  const size_t bytes = 12 * 2 * training.table().TotalElements();
  Arena memory = ReservePinnedArena("copy", bytes, TheGpu());
  const std::span<float> buffer =
      memory.Allocate({static_cast<int64_t>(bytes / sizeof(float))}).span();
  training.Step();
  for (int save = 0; save < 2; ++save) {
    const auto expected = StateOf(training.engine().OwnedState());
    const std::vector<TensorPiece> pieces = training.engine().CopyState(buffer);
    training.Step();
    std::thread([&] { EXPECT_EQ(StateOf(pieces), expected); }).join();
    EXPECT_NE(StateOf(training.engine().OwnedState()), expected);
  }
}

TEST(CudaOffload, CopiesOfTheStateAreOfTheirStep) {
  const SharedFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    ExpectCopiesOfTheirStep(ToHost(AtStage(1, dtype)));
    ExpectCopiesOfTheirStep(ToDisk(AtStage(1, dtype), folder / "run"));
  }
}

// While it lives the emulator makes this fail.
class Fault {
 public:
  explicit Fault(const char* name) { setenv("SWINFLEET_CUDA_FAULT", name, 1); }
  ~Fault() { unsetenv("SWINFLEET_CUDA_FAULT"); }
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;
};

TEST(CudaOffload, MemoryThatCantBePinnedIsAnError) {
  const Fault fault("pinning");
  EXPECT_THAT(MessageOf([] { GpuTraining training(ToHost({})); }),
              AllOf(HasSubstr("of the host's memory can't be pinned"),
                    HasSubstr("offload disk takes buffers alone"), HasSubstr("offloaded state")));
}

// What the disk says, beside pieces that are on the GPU.
TEST(CudaOffload, ADiskThatFailsIsAnErrorOfTheUpdate) {
  if (TestWorld().size() > 1) GTEST_SKIP() << "the ranks do not fail together";
  const SharedFolder folder;
  const auto with = [&](const std::function<void(FailingFileOps*)>& fail) {
    FailingFileOps ops;
    // By threads, which make the calls that fail.
    GpuTraining training(ToDisk(AtStage(1, DType::kBF16), folder / "run", ops));
    training.WholeStep();
    fail(&ops);
    return MessageOf([&] { training.WholeStep(); });
  };
  EXPECT_THAT(with([](FailingFileOps* ops) { ops->writes_left = 5; }), HasSubstr("No space left"));
  EXPECT_THAT(with([](FailingFileOps* ops) { ops->reads_left = 7; }), HasSubstr("Input/output"));
  EXPECT_THAT(with([](FailingFileOps* ops) { ops->syncs_left = 0; }), HasSubstr("moments"));
}

// Whether the call fails, or the copy itself, which whoever waits for the update is told.
TEST(CudaOffload, CopiesThatFailAreErrorsOfTheUpdate) {
  if (TestWorld().size() > 1) GTEST_SKIP() << "the ranks do not fail together";
  const SharedFolder folder;
  const FakeOptions options = AtStage(1, DType::kF32);
  for (const char* name : {"copying", "copy"}) {
    for (const FakeOptions& offloaded : {ToHost(options), ToDisk(options, folder / "run")}) {
      GpuTraining training(offloaded);
      training.WholeStep();
      const Fault fault(name);
      EXPECT_THAT(MessageOf([&] { training.WholeStep(); }), HasSubstr("CUDA: ")) << name;
    }
  }
}

}  // namespace
}  // namespace swinfleet
