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
  EXPECT_EQ(got.state, expected.state);
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
}

// On the GPU are the buffers, on the host all of the state; as planned, and once for all steps.
TEST(CudaOffload, TakesWhatIsPlanned) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    GpuTraining training(ToHost(AtStage(1, dtype)));
    const MemoryClasses planned = training.Plan(Device::kCuda);
    const int64_t blocks = Arena::HostBlocks();
    for (int step = 0; step < 2; ++step) training.WholeStep();
    EXPECT_EQ(Arena::HostBlocks(), blocks);
    const MemoryClasses& taken = training.memory();
    for (const auto arena :
         {&MemoryClasses::parameters, &MemoryClasses::gradients, &MemoryClasses::optimizer,
          &MemoryClasses::staging, &MemoryClasses::offloaded}) {
      EXPECT_EQ((taken.*arena).high_water(), (planned.*arena).high_water())
          << (taken.*arena).name();
    }
    const size_t element = dtype == DType::kF32 ? 8 : 10;
    EXPECT_EQ(taken.optimizer.high_water(), 4 * 8192 * element);
    EXPECT_EQ(taken.offloaded.device(), Device::kCpu);
    EXPECT_EQ(planned.HostHighWater(),
              planned.staging.high_water() + planned.offloaded.high_water());
    EXPECT_GE(planned.offloaded.high_water(),
              training.table().TotalElements() * element / TestWorld().size());
  }
}

// A checkpoint goes on with state elsewhere, at another stage, to the same weights.
TEST(CudaOffload, StateMovesThroughCheckpoints) {
  const SharedFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    const std::string dir = folder / NameOf(dtype);
    std::vector<float> expected;
    {
      GpuTraining training(ToHost(AtStage(1, dtype)));
      for (int step = 0; step < 2; ++step) training.Step();
      SaveTogether(training, dir);
      training.Step();
      expected = training.Weights();
    }
    const auto reader = CheckpointReader::Open(dir);
    for (const FakeOptions& options :
         {ToHost(AtStage(3, dtype)), AtStage(2, dtype), ToHost(AtStage(0, dtype))}) {
      GpuTraining resumed(options);
      resumed.engine().Load(*reader);
      resumed.set_step(2);
      resumed.Step();
      EXPECT_EQ(resumed.Weights(), expected) << options.stage;
    }
    // What was saved there is what is saved without.
    GpuTraining again(AtStage(1, dtype));
    for (int step = 0; step < 2; ++step) again.Step();
    SaveTogether(again, dir + "-again");
    const auto checksums = [](const CheckpointReader& checkpoint) {
      std::map<std::string, uint64_t> sums;
      for (const ShardRecord& shard : checkpoint.shards()) {
        for (const PieceRecord& piece : shard.pieces) {
          sums[piece.tensor + " " + std::to_string(piece.begin)] = piece.checksum;
        }
      }
      return sums;
    };
    EXPECT_EQ(checksums(*CheckpointReader::Open(dir + "-again")), checksums(*reader));
  }
}

// Copies for a save, as another thread reads them while the training goes on.
TEST(CudaOffload, CopiesOfTheStateAreOfTheirStep) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    GpuTraining training(ToHost(AtStage(1, dtype)));
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
}

std::string MessageOf(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
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

// Whether the call fails, or the copy itself, which whoever waits for the update is told.
TEST(CudaOffload, CopiesThatFailAreErrorsOfTheUpdate) {
  if (TestWorld().size() > 1) GTEST_SKIP() << "the ranks do not fail together";
  for (const char* name : {"copying", "copy"}) {
    GpuTraining training(ToHost(AtStage(1, DType::kF32)));
    training.WholeStep();
    const Fault fault(name);
    EXPECT_THAT(MessageOf([&] { training.WholeStep(); }), HasSubstr("CUDA: ")) << name;
  }
}

}  // namespace
}  // namespace swinfleet
