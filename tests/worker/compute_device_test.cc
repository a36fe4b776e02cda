// Which GPU each rank takes, and what they do where one has none; runs under mpirun.
#include "worker/compute_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/error.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/worker/small_jobs.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;

struct FakeBackend : CudaBackend {
  std::vector<Gpu> Gpus() const override {
    if (!problem.empty()) throw Error(problem);
    return gpus;
  }
  std::unique_ptr<Accelerator> Open(const Gpu&) const override {
    if (!open_problem.empty()) throw Error(open_problem);
    return std::make_unique<FakeGpu>();
  }
  void RequireCollectives() const override {
    if (!collectives_problem.empty()) throw Error(collectives_problem);
  }

  std::vector<Gpu> gpus;
  std::string problem, open_problem, collectives_problem;
};

FakeBackend backend;

const CudaBackend& OpenFake() { return backend; }

int Rank() { return TestWorld().rank(); }
int Ranks() { return TestWorld().size(); }
bool Last() { return Rank() == Ranks() - 1; }

// A host of `count` GPUs, which all ranks see.
void SeeGpus(int count) {
  backend = {};
  for (int i = 0; i < count; ++i) {
    backend.gpus.push_back({"fake", "GPU-" + std::to_string(i), size_t{1} << 30, i});
  }
}

ComputeDevice Take(DeviceRequest request) { return TakeDevice(request, &TestWorld(), &OpenFake); }

std::string ProblemOf(DeviceRequest request) {
  try {
    Take(request);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TakeDevice, RanksTakeOneAfterTheOther) {
  SeeGpus(Ranks() + 1);
  const ComputeDevice device = Take(DeviceRequest::kAuto);
  ASSERT_NE(device.gpu, nullptr);
  EXPECT_EQ(device.text, "fake, GPU " + std::to_string(Rank()));
}

// As where a launcher shows each rank its own alone, or on hosts with one each.
TEST(TakeDevice, WhatIsShownToOneRankAloneIsItsOwn) {
  backend = {};
  backend.gpus = {{"fake", "GPU-of-" + std::to_string(Rank()), size_t{1} << 30, 0}};
  EXPECT_EQ(Take(DeviceRequest::kCuda).text, "fake, GPU 0");
}

TEST(TakeDevice, TooFewGpusAreForNobody) {
  SeeGpus(Ranks() - 1);
  const std::string last = "rank " + std::to_string(Ranks() - 1) + ": the ";
  EXPECT_THAT(ProblemOf(DeviceRequest::kCuda), HasSubstr(last));
  const ComputeDevice device = Take(DeviceRequest::kAuto);
  EXPECT_EQ(device.gpu, nullptr);
  EXPECT_THAT(device.text, HasSubstr("the CPU, because " + last));
}

TEST(TakeDevice, ARankWithoutKeepsTheOthersFromTheirs) {
  SeeGpus(Ranks());
  if (Last()) backend.problem = "there is no driver";
  EXPECT_THAT(ProblemOf(DeviceRequest::kCuda), HasSubstr("there is no driver"));
  EXPECT_THAT(Take(DeviceRequest::kAuto).text, HasSubstr("there is no driver"));
  EXPECT_EQ(Take(DeviceRequest::kAuto).gpu, nullptr);
}

TEST(TakeDevice, SoDoesOneThatCantOpenIts) {
  SeeGpus(Ranks());
  if (Last()) backend.open_problem = "it is taken";
  EXPECT_THAT(ProblemOf(DeviceRequest::kCuda), HasSubstr("it is taken"));
  EXPECT_EQ(Take(DeviceRequest::kAuto).gpu, nullptr);
}

TEST(TakeDevice, SeveralRanksNeedWhatTheirGpusExchangeBy) {
  SeeGpus(Ranks());
  if (Last()) backend.collectives_problem = "there is no NCCL";
  EXPECT_THAT(ProblemOf(DeviceRequest::kCuda), HasSubstr("there is no NCCL"));
  EXPECT_THAT(Take(DeviceRequest::kAuto).text, HasSubstr("there is no NCCL"));
  const std::unique_ptr<Communicator> alone = MakeSelfCommunicator();
  EXPECT_NE(TakeDevice(DeviceRequest::kCuda, alone.get(), &OpenFake).gpu, nullptr);
}

TEST(TakeDevice, TheCpuIsTakenWithoutAWord) {
  SeeGpus(Ranks());
  const ComputeDevice device = Take(DeviceRequest::kCpu);
  EXPECT_EQ(device.gpu, nullptr);
  EXPECT_EQ(device.text, "the CPU");
}

TEST(WhyNotOnCpu, StateIsInTheHostsMemoryAnyway) {
  JobConfig job;
  EXPECT_EQ(WhyNotOnCpu(job), "");
  job.parallel.offload = Offload::kHost;
  EXPECT_THAT(WhyNotOnCpu(job), HasSubstr("leave it out, or use disk, or GPUs (--device cuda)"));
  EXPECT_EQ(WhyNotOnGpu(job), "");
}

TEST(TakeDevice, RanksAskForTheSame) {
  SeeGpus(Ranks());
  EXPECT_THAT(ProblemOf(Last() ? DeviceRequest::kCpu : DeviceRequest::kAuto),
              HasSubstr("rank 0 has --device auto and rank " + std::to_string(Ranks() - 1) +
                        " --device cpu"));
}

// ---- Jobs that are not for GPUs ----

JobConfig SwinOfWindows(int64_t window, int64_t heads) {
  JobConfig job = SmallJob(Architecture::kSwinV2);
  job.model.image_h = job.model.image_w = 2 * window;
  job.model.window_size = window;
  job.model.depths = {2};
  job.model.num_heads = {heads};
  job.model.embed_dim = 8 * heads;
  return job;
}

// All tokens of a picture are one window of the decoder's.
JobConfig MaeOf(int64_t side, DType dtype) {
  JobConfig job = SmallPretraining(PretrainConfig::Method::kMae);
  job.model.image_h = job.model.image_w = side * job.model.patch_size;
  job.train.dtype = dtype;
  return job;
}

TEST(WhyNotOnGpu, SmallJobsAre) {
  for (const auto arch : {Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin}) {
    EXPECT_EQ(WhyNotOnGpu(SmallJob(arch)), "");
  }
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kMae,
                            PretrainConfig::Method::kGreenMim}) {
    EXPECT_EQ(WhyNotOnGpu(SmallPretraining(method)), "");
  }
}

TEST(WhyNotOnGpu, LargestWindows) {
  EXPECT_EQ(WhyNotOnGpu(SwinOfWindows(64, 127)), "");
  EXPECT_EQ(
      WhyNotOnGpu(SwinOfWindows(64, 128)),
      "windows of 4096 tokens have more position biases for 128 heads than 32 bits can number: "
      "use smaller windows or fewer heads");
  // 8,101 and 8,282 tokens of at most 8,160; 16,130 and 16,385 of at most 16,320.
  EXPECT_EQ(WhyNotOnGpu(MaeOf(90, DType::kF32)), "");
  EXPECT_EQ(WhyNotOnGpu(MaeOf(91, DType::kF32)),
            "windows of 8282 tokens are too large in float32: use smaller windows");
  EXPECT_EQ(WhyNotOnGpu(MaeOf(127, DType::kBF16)), "");
  EXPECT_EQ(WhyNotOnGpu(MaeOf(128, DType::kBF16)),
            "windows of 16385 tokens are too large in bfloat16: use smaller windows");
}

// Each group of visible tokens has biases of its own.
TEST(WhyNotOnGpu, GroupsOfVisibleTokens) {
  JobConfig job = SmallPretraining(PretrainConfig::Method::kGreenMim);
  job.pretrain.group_size = 4096;
  EXPECT_EQ(WhyNotOnGpu(job), "");
  job.model.num_heads = {64, 64};
  job.model.embed_dim = 512;
  EXPECT_THAT(WhyNotOnGpu(job), HasSubstr("windows of 4096 tokens have more position biases"));
}

TEST(WhyNotOnGpu, WideHeads) {
  JobConfig job = SmallPretraining(PretrainConfig::Method::kMae);
  job.pretrain.decoder_dim = 130;
  EXPECT_THAT(WhyNotOnGpu(job), HasSubstr("more than 64 channels"));
  job.pretrain.decoder_dim = 128;
  EXPECT_EQ(WhyNotOnGpu(job), "");
}

}  // namespace
}  // namespace swinfleet
