// Collectives of GPUs' memory over the emulated ranks, held against those of the host's.
#include "distributed/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "distributed/shard_layout.h"
#include "kernels/error.h"
#include "tests/distributed/collective_values.h"
#include "tests/distributed/mpi_test_main.h"
#include "worker/compute_device.h"

namespace swinfleet {
namespace {

using std::chrono::milliseconds;

// The rank's GPU, for the process's life.
Accelerator* TheGpu() {
  static const auto* device = new ComputeDevice(TakeDevice(DeviceRequest::kCuda, &TestWorld()));
  return device->gpu.get();
}

int Rank() { return TestWorld().rank(); }
size_t Ranks() { return static_cast<size_t>(TestWorld().size()); }

// n elements on the GPU.
template <typename T>
class OnGpu {
 public:
  explicit OnGpu(const std::vector<T>& values)
      : n_(values.size()),
        data_(static_cast<T*>(TheGpu()->Allocate(std::max<size_t>(n_, 1) * sizeof(T)))) {
    TheGpu()->CopyIn(values.data(), data_, n_ * sizeof(T));
  }
  ~OnGpu() { TheGpu()->Free(data_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

  std::span<T> span() const { return {data_, n_}; }
  TensorView view() const {
    return {data_, Shape{static_cast<int64_t>(n_)}, DType::kF32, Device::kCuda};
  }
  std::vector<T> Read() const {
    std::vector<T> values(n_);
    TheGpu()->CopyOut(data_, values.data(), n_ * sizeof(T));
    return values;
  }

 private:
  const size_t n_;
  T* const data_;
};

class NcclCommunicatorTest : public testing::Test {
 protected:
  NcclCommunicatorTest()
      : scratch_(std::vector<float>(NcclCommunicator::ScratchBytes(kScratch, TestWorld().size()) /
                                    sizeof(float))),
        context_{.ops = &TheGpu()->ops(),
                 .stream = TheGpu()->stream(),
                 .device = Device::kCuda,
                 .accelerator = TheGpu()},
        ranks_(std::make_unique<NcclCommunicator>(&TestWorld(), scratch_.view(), &context_)) {}

  // Several pieces of a message for the longer ones.
  static constexpr size_t kScratch = 16 << 10;
  // Also such as can't be cut into equal shards.
  const std::vector<size_t> sizes_ = {0, 1, 2, 3, 7, 1000, 4097, 20001};

  const OnGpu<float> scratch_;
  Context context_;
  std::unique_ptr<NcclCommunicator> ranks_;
};

// Whether it comes to hold.
bool Soon(const std::function<bool()>& condition) {
  for (int i = 0; i < 3000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

std::vector<float> Values(size_t n, size_t salt = 0) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = Value(Rank(), i + salt);
  return values;
}

std::vector<uint16_t> Bf16Values(size_t n) {
  std::vector<uint16_t> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = Bf16Value(Rank(), i);
  return values;
}

// Whether two ranges have the same bits; NaN too.
template <typename T>
void ExpectSameBits(std::span<const T> got, std::span<const T> expected) {
  ASSERT_EQ(got.size(), expected.size());
  EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size_bytes()), 0) << got.size();
}

template <typename T>
std::span<const T> Shard(const std::vector<T>& values) {
  const size_t n = values.size() / Ranks();
  return std::span(values).subspan(n * ShardLayout::ShardIndex(Rank(), TestWorld().size()), n);
}

TEST_F(NcclCommunicatorTest, SumsHaveTheBitsOfTheHosts) {
  for (const size_t n : sizes_) {
    SCOPED_TRACE(n);
    std::vector<float> all = Values(n), shards = Values(n * Ranks());
    const OnGpu<float> gpu_all(all), gpu_shards(shards);
    TestWorld().AllReduce(all, "all")->Wait();
    TestWorld().ReduceScatter(shards, "shards")->Wait();
    ranks_->AllReduce(gpu_all.span(), "all")->Wait();
    ranks_->ReduceScatter(gpu_shards.span(), "shards")->Wait();
    ExpectSameBits<float>(gpu_all.Read(), all);
    ExpectSameBits(Shard(gpu_shards.Read()), Shard(shards));
  }
}

TEST_F(NcclCommunicatorTest, SoHaveThoseOfBf16) {
  for (const size_t n : sizes_) {
    SCOPED_TRACE(n);
    std::vector<uint16_t> all = Bf16Values(n), shards = Bf16Values(n * Ranks());
    const OnGpu<uint16_t> gpu_all(all), gpu_shards(shards);
    TestWorld().AllReduceBf16(all, "all")->Wait();
    TestWorld().ReduceScatterBf16(shards, "shards")->Wait();
    ranks_->AllReduceBf16(gpu_all.span(), "all")->Wait();
    ranks_->ReduceScatterBf16(gpu_shards.span(), "shards")->Wait();
    ExpectSameBits<uint16_t>(gpu_all.Read(), all);
    ExpectSameBits(Shard(gpu_shards.Read()), Shard(shards));
  }
}

TEST_F(NcclCommunicatorTest, GathersSpreadShards) {
  for (const size_t n : sizes_) {
    SCOPED_TRACE(n);
    std::vector<float> floats = Values(n * Ranks());
    std::vector<uint16_t> halves = Bf16Values(n * Ranks());
    const OnGpu<float> gpu_floats(floats);
    const OnGpu<uint16_t> gpu_halves(halves);
    TestWorld().AllGather(std::span(floats), "floats")->Wait();
    TestWorld().AllGather(std::span(halves), "halves")->Wait();
    ranks_->AllGather(gpu_floats.span(), "floats")->Wait();
    ranks_->AllGather(gpu_halves.span(), "halves")->Wait();
    ExpectSameBits<float>(gpu_floats.Read(), floats);
    ExpectSameBits<uint16_t>(gpu_halves.Read(), halves);
  }
}

TEST_F(NcclCommunicatorTest, TheLibrarysSumsAreSums) {
  ranks_->UseLibrarySums(true);
  std::vector<float> all = Values(1001), shards = Values(1000 * Ranks());
  const OnGpu<float> gpu_all(all), gpu_shards(shards);
  TestWorld().AllReduce(all, "all")->Wait();
  TestWorld().ReduceScatter(shards, "shards")->Wait();
  ranks_->AllReduce(gpu_all.span(), "all")->Wait();
  ranks_->ReduceScatter(gpu_shards.span(), "shards")->Wait();
  EXPECT_THAT(gpu_all.Read(), testing::Pointwise(testing::FloatNear(1e-5f), all));
  const std::vector<float> got = gpu_shards.Read();
  EXPECT_THAT(Shard(got), testing::Pointwise(testing::FloatNear(1e-5f), Shard(shards)));
  // The emulator's order is another one, which shows from three ranks on.
  if (Ranks() > 2) {
    EXPECT_NE(gpu_all.Read(), all);
  }
}

// What computes before and after, on the other stream, is ordered by the collective and its handle:
// with the race checker in any case, else in the order that the emulator happens to take.
TEST_F(NcclCommunicatorTest, ComputingAndCollectivesWaitForEachOther) {
  constexpr size_t kMany = 20, kSize = 840;
  std::vector<std::unique_ptr<OnGpu<float>>> buffers, results;
  std::vector<std::unique_ptr<CollectiveHandle>> handles;
  for (size_t k = 0; k < kMany; ++k) {
    buffers.push_back(std::make_unique<OnGpu<float>>(Values(kSize, k)));
    results.push_back(std::make_unique<OnGpu<float>>(std::vector<float>(kSize)));
    const TensorView view = buffers[k]->view();
    context_.ops->add({.x = view, .y = view}, context_);
    handles.push_back(ranks_->AllReduce(buffers[k]->span(), "one of many"));
  }
  const auto read = [&](size_t k) {
    handles[k]->Wait();
    context_.ops->cast({.x = buffers[k]->view(), .y = results[k]->view()}, context_);
    context_.ops->fill({.x = buffers[k]->view(), .value = 0}, context_);
  };
  // Out of order, twice, and by the destructor alone.
  read(kMany - 1);
  read(3);
  handles[3]->Wait();
  for (size_t k = 0; k < kMany; ++k) {
    if (k == 3 || k == kMany - 1) continue;
    handles[k].reset();
    context_.ops->cast({.x = buffers[k]->view(), .y = results[k]->view()}, context_);
    context_.ops->fill({.x = buffers[k]->view(), .value = 0}, context_);
  }
  for (size_t k = 0; k < kMany; ++k) {
    std::vector<float> expected = Values(kSize, k);
    for (float& value : expected) value += value;
    TestWorld().AllReduce(expected, "one of many")->Wait();
    ExpectSameBits<float>(results[k]->Read(), expected);
  }
}

// What the host is waited for may be what the GPUs' exchange needs: it goes on beside the host.
TEST_F(NcclCommunicatorTest, GoesOnWhileTheHostIsElsewhere) {
  const OnGpu<float> values(Values(1000));
  const auto handle = ranks_->AllReduce(values.span(), "beside the host");
  if (Rank() == 0) {
    handle->Wait();
    TheGpu()->Wait();
  }
  TestWorld().Barrier("the host");
}

TEST_F(NcclCommunicatorTest, WaitsAtOnceIfToldTo) {
  const OnGpu<float> values(Values(1000));
  ranks_->WaitAtOnce(true);
  const auto handle = ranks_->AllReduce(values.span(), "one");
  EXPECT_EQ(ranks_->position().name, "one");
  EXPECT_FALSE(ranks_->position().in_progress);
}

TEST_F(NcclCommunicatorTest, ReportsWhereItIs) {
  ranks_->Connect();
  ranks_->Barrier("before");
  const CollectivePosition before = ranks_->position();
  EXPECT_EQ(before.name, "before");
  EXPECT_GT(before.sequence, 0u);
  const OnGpu<float> values(Values(840));
  const uint64_t sent = ranks_->bytes_sent();
  const double waited = ranks_->wait_seconds();
  if (Rank() == 0) std::this_thread::sleep_for(milliseconds(600));
  const auto handle = ranks_->AllReduce(values.span(), "gradients of a unit");
  handle->Wait();
  if (Rank() == 1) {
    // Its GPU waits for rank 0's.
    EXPECT_TRUE(Soon([&] { return ranks_->position().in_progress; }));
    EXPECT_EQ(ranks_->position().name, "gradients of a unit");
    EXPECT_EQ(ranks_->position().sequence, before.sequence + 1);
  }
  TheGpu()->Wait();
  EXPECT_TRUE(Soon([&] { return ranks_->recent().back().ended > 0; }));
  EXPECT_FALSE(ranks_->position().in_progress);
  EXPECT_EQ(ranks_->position().sequence, before.sequence + 1);
  EXPECT_EQ(ranks_->bytes_sent() - sent, 2 * 840 * sizeof(float) / Ranks() * (Ranks() - 1));
  if (Rank() == 1) {
    EXPECT_GT(ranks_->wait_seconds() - waited, 0.1);
  }
  const CollectiveRecord last = ranks_->recent().back();
  EXPECT_EQ(last.operation, "all-reduce");
  EXPECT_EQ(last.name, "gradients of a unit");
  EXPECT_EQ(last.bytes, 840 * sizeof(float));
  EXPECT_GE(last.started, last.posted);
  EXPECT_GE(last.ended, last.started);
  EXPECT_EQ(ranks_->failure(), "");
}

TEST_F(NcclCommunicatorTest, SmallThingsAreTheHosts) {
  std::vector<double> sums = {1.0};
  ranks_->AllReduceSum(sums, "sums");
  EXPECT_EQ(sums[0], static_cast<double>(Ranks()));
  std::vector<double> all(Ranks());
  const double own = Rank();
  ranks_->AllGather(std::span(&own, 1), all, "values");
  EXPECT_EQ(all.back(), static_cast<double>(Ranks() - 1));
  EXPECT_EQ(ranks_->AllGatherText("rank " + std::to_string(Rank()), "texts").back(),
            "rank " + std::to_string(Ranks() - 1));
  EXPECT_EQ(ranks_->recent().size(), 3u);
}

// A rank does not come, and another thread ends the waiting, also of a copy that comes after.
TEST_F(NcclCommunicatorTest, CanBeGivenUp) {
  ranks_->Connect();
  const OnGpu<float> values(Values(1000));
  std::vector<float> copy(1000);
  TheGpu()->Pin(copy.data(), copy.size() * sizeof(float));
  if (Rank() != 0) {
    const auto handle = ranks_->AllReduce(values.span(), "without rank 0");
    handle->Wait();
    const DeviceRead read = {values.view().data, copy.data(), values.view().Bytes()};
    TheGpu()->CopyOutBeside({&read, 1});
    std::thread reader([] { EXPECT_THROW(TheGpu()->WaitForCopies(), Error); });
    std::thread other([&] {
      EXPECT_TRUE(Soon([&] { return ranks_->position().in_progress; }));
      ranks_->GiveUp();
    });
    EXPECT_THROW(TheGpu()->Wait(), Error);
    other.join();
    reader.join();
    EXPECT_THROW(ranks_->AllReduce(values.span(), "more"), Error);
    EXPECT_THROW(ranks_->Barrier("more"), Error);
  } else {
    ranks_->GiveUp();
  }
  TheGpu()->Unpin(copy.data());
  TestWorld().Barrier("given up");
  // Another group is of use again.
  ranks_.reset();
  ranks_ = std::make_unique<NcclCommunicator>(&TestWorld(), scratch_.view(), &context_);
  ranks_->AllReduce(values.span(), "again")->Wait();
  TheGpu()->Wait();
}

// A rank does not come, and the others' hosts wait in the midst of a call, because their streams
// are full: wherever that is, another thread learns in what they wait, and ends it.
TEST_F(NcclCommunicatorTest, AHostWhoseStreamsAreFullKeepsNobody) {
  const OnGpu<float> values(Values(1024)), shards(Values(1024 * Ranks()));
  for (size_t first = 0; first < 6; ++first) {
    ranks_ = std::make_unique<NcclCommunicator>(&TestWorld(), scratch_.view(), &context_);
    ranks_->Connect();
    const uint64_t before = ranks_->position().sequence;
    std::atomic<size_t> posted = 0;
    const auto post = [&] {
      for (; posted < 1000; ++posted) {
        // These put another number of things on the stream, which moves where it is full.
        (posted < first ? ranks_->ReduceScatter(shards.span(), "without rank 0")
                        : ranks_->AllReduce(values.span(), "without rank 0"))
            ->Wait();
      }
    };
    if (Rank() != 0) {
      std::thread other([&] {
        EXPECT_TRUE(Soon([&] { return ranks_->position().in_progress; }));
        for (size_t seen = 0; seen != posted;) {
          seen = posted;
          std::this_thread::sleep_for(milliseconds(50));
        }
        EXPECT_EQ(ranks_->position().sequence, before + 1);
        EXPECT_TRUE(Soon([&] {
          const std::vector<CollectiveRecord> recent = ranks_->recent();
          return std::ranges::any_of(recent, [&](const CollectiveRecord& record) {
            return record.sequence == before + 1 && record.started > 0 && record.ended == 0;
          });
        })) << first;
        ranks_->GiveUp();
      });
      EXPECT_THROW(post(), Error);
      other.join();
      EXPECT_LT(posted, 100u);
    } else {
      ranks_->GiveUp();
    }
    ranks_.reset();
    TestWorld().Barrier("given up");
  }
}

}  // namespace
}  // namespace swinfleet
