#include "worker/roofline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

#include "core/nn/model.h"
#include "kernels/op_entries.h"

namespace swinfleet {
namespace {

// Products of 16 bits take 1 s a TFLOP, in TF32 2 s, of float32 10 s, memory 1 s a TB.
const GpuLimits kGpu = {"gpu", "GPU", 1e12, 5e11, 1e11, 1e12};
constexpr double kLaunch = 0.5;

Profile::Call CallOf(std::string_view op, DType dtype, double flops, double bytes) {
  Profile::Call call;
  call.op = static_cast<int>(std::ranges::find(kOpNames, op) - kOpNames.begin());
  call.matrix_flops = flops;
  call.bytes = bytes;
  call.launches = 1;
  call.tensors = {{nullptr, Shape{1}, dtype, Device::kDryRun}};
  return call;
}

TEST(Roofline, EachCallIsHeldBackByTheSlowest) {
  const Roofline roofline =
      RooflineOf({CallOf("linear_forward", DType::kBF16, 4e12, 1e12),
                  CallOf("linear_forward", DType::kBF16, 1e12, 2e12),
                  CallOf("add", DType::kF32, 0, 1e12), CallOf("fill", DType::kF32, 0, 1e9)},
                 Matmul::kFloat32, kGpu, kLaunch);
  ASSERT_EQ(roofline.operations.size(), 3u);
  const RooflineRow& linear = roofline.operations[0];
  EXPECT_EQ(linear.name, "linear_forward");
  EXPECT_EQ(linear.calls, 2);
  EXPECT_EQ(linear.launches, 2);
  EXPECT_EQ(linear.bound(), Bound::kCompute);
  EXPECT_DOUBLE_EQ(linear.seconds, 4 + 2);
  EXPECT_DOUBLE_EQ(linear.compute_seconds, 4 + 1);
  EXPECT_EQ(roofline.operations[1].bound(), Bound::kMemory);
  EXPECT_EQ(roofline.operations[2].bound(), Bound::kLaunch);
  EXPECT_DOUBLE_EQ(roofline.operations[2].seconds, kLaunch);
  EXPECT_DOUBLE_EQ(roofline.all.seconds, 6 + 1 + kLaunch);
  EXPECT_DOUBLE_EQ(roofline.ShareOfPeak(), 5 / 7.5);
}

TEST(Roofline, Float32ProductsAreMadeBesideTensorCores) {
  for (const auto& [op, dtype, seconds] :
       {std::tuple("linear_forward", DType::kF16, 1.0),
        std::tuple("linear_forward", DType::kF32, 10.0),
        std::tuple("position_table_forward", DType::kBF16, 10.0)}) {
    const Roofline roofline = RooflineOf({CallOf(op, dtype, 1e12, 0)}, Matmul::kFloat32, kGpu, 0);
    EXPECT_DOUBLE_EQ(roofline.all.seconds, seconds) << op << " " << NameOf(dtype);
  }
}

// Of libraries alone, and what is not float32 stays as it is.
TEST(Roofline, Tf32ProductsAreMadeOnTensorCores) {
  for (const auto& [op, dtype, seconds] :
       {std::tuple("linear_backward_weight", DType::kF32, 2.0),
        std::tuple("patch_embedding_forward", DType::kF32, 2.0),
        std::tuple("window_attention_forward", DType::kF32, 10.0),
        std::tuple("position_table_forward", DType::kF32, 10.0),
        std::tuple("linear_forward", DType::kF16, 1.0)}) {
    const Roofline roofline = RooflineOf({CallOf(op, dtype, 1e12, 0)}, Matmul::kTf32, kGpu, 0);
    EXPECT_DOUBLE_EQ(roofline.all.seconds, seconds) << op << " " << NameOf(dtype);
  }
}

// For the norm of the gradients and for the look through the weights, however large a unit is.
TEST(Roofline, SumsOfSquaresAreOneCallAUnit) {
  JobConfig job;
  job.model = *ModelPreset("swinv2_tiny_window8_256");
  job.train.micro_batch = job.train.global_batch = 1;
  job.memory.checkpointing.assign(job.model.num_stages(), MemoryConfig::Checkpointing::kNone);
  job.memory.sequential_windows.assign(job.model.num_stages(), 0);
  const int64_t units =
      std::ssize(MakeModel(job.model, job.pretrain, job.memory)->parameters().units());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    job.train.dtype = dtype;
    const Roofline roofline = RooflineOf(job, /*rank=*/0, /*ranks=*/1, kGpu, kLaunch);
    const auto sums = std::ranges::find(roofline.operations, "sum_of_squares", &RooflineRow::name);
    ASSERT_NE(sums, roofline.operations.end());
    EXPECT_EQ(sums->calls, 2 * units) << NameOf(dtype);
    EXPECT_EQ(sums->launches, 2 * units) << NameOf(dtype);
  }
}

}  // namespace
}  // namespace swinfleet
