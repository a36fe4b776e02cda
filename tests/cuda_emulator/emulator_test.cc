// The emulator against kernels that are right, in many orders, and against one fault at a time.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "kernels/error.h"
#include "tests/cuda_emulator/device_buffer.h"
#include "tests/cuda_emulator/faulty_kernels.h"

namespace swinfleet::cuda_testing {
namespace {

using Values = std::vector<float>;

constexpr uint64_t kOrders[] = {0, 1, 2, 3, 4, 5};

Values Numbers(int n) {
  Values values(n);
  for (int i = 0; i < n; ++i) values[i] = static_cast<float>(i % 100 + 1);
  return values;
}

Values RunMirror(Fault fault) {
  const int blocks = 3, n = blocks * 64;
  const DeviceBuffer<float> in(Numbers(n)), out(static_cast<size_t>(n));
  const Stream stream;
  Mirror(in.data(), out.data(), blocks, fault, stream);
  return out.Read();
}

Values MirrorOf(const Values& in) {
  Values out = in;
  for (size_t i = 0; i < in.size(); i += 64) {
    std::reverse(out.begin() + static_cast<ptrdiff_t>(i),
                 out.begin() + static_cast<ptrdiff_t>(i) + 64);
  }
  return out;
}

template <typename Kernel>
Values RunWarps(const Kernel& kernel, int n, Fault fault) {
  const DeviceBuffer<float> in(Numbers(n)), out(static_cast<size_t>(n));
  const Stream stream;
  kernel(in.data(), out.data(), n, fault, stream);
  return out.Read();
}

Values SumsOfWarps(const Values& in) {
  Values out(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    const size_t first = i / 32 * 32;
    for (size_t j = first; j < std::min(first + 32, in.size()); ++j) out[i] += in[j];
  }
  return out;
}

class EmulatorTest : public ::testing::Test {
 protected:
  void SetUp() override { emulator::SetOrder(0); }
};
using EmulatorDeathTest = EmulatorTest;

// What only accesses themselves show.
#define SKIP_WITHOUT_RACE_CHECKER() \
  if (!emulator::ChecksRaces()) GTEST_SKIP() << "the race checker's build has this test"

TEST_F(EmulatorTest, BarrierInAnyOrder) {
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    EXPECT_EQ(RunMirror(Fault::kNone), MirrorOf(Numbers(192))) << "order " << order;
  }
}

TEST_F(EmulatorTest, ShufflesInAnyOrder) {
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    for (int n : {1, 31, 64, 100, 1000}) {
      EXPECT_EQ(RunWarps(WarpSums, n, Fault::kNone), SumsOfWarps(Numbers(n))) << n;
      EXPECT_EQ(RunWarps(SharedWarpSums, n, Fault::kNone), SumsOfWarps(Numbers(n))) << n;
    }
  }
}

TEST_F(EmulatorTest, AsynchronousCopiesArriveAtTheirWait) {
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    for (int n : {4, 256, 1000}) EXPECT_EQ(RunWarps(AsyncCopies, n, Fault::kNone), Numbers(n));
  }
}

TEST_F(EmulatorTest, AtomicsOfManyBlocks) {
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    const DeviceBuffer<float> sum(Values{5});
    const Stream stream;
    CountAtomically(sum.data(), 1000, stream);
    EXPECT_EQ(sum.Read(), Values{1005});
  }
}

TEST_F(EmulatorTest, VotesAndNeighbours) {
  std::vector<int> in(32);
  unsigned expected = 0;
  for (int i = 0; i < 32; ++i) in[i] = i % 3 == 0 ? i : 0;
  for (int i = 0; i < 32; ++i) expected |= (in[i] != 0 ? 1u : 0u) << i;
  const DeviceBuffer<int> numbers(in), any(1), all(1), below(32), above(32);
  const DeviceBuffer<unsigned> lanes(1);
  const Stream stream;
  Votes(numbers.data(), lanes.data(), any.data(), all.data(), stream);
  EXPECT_EQ(lanes.Read()[0], expected);
  EXPECT_EQ(any.Read()[0], 1);
  EXPECT_EQ(all.Read()[0], 0);
  Neighbours(numbers.data(), below.data(), above.data(), stream);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(below.Read()[i], in[std::max(i - 1, 0)]);
    EXPECT_EQ(above.Read()[i], in[std::min(i + 1, 31)]);
  }
}

uint16_t Bits(float x, bool bfloat16) {
  return bfloat16 ? std::bit_cast<uint16_t>(__float2bfloat16_rn(x))
                  : std::bit_cast<uint16_t>(__float2half_rn(x));
}

TEST_F(EmulatorTest, TilesOfTensorCores) {
  for (bool bfloat16 : {false, true}) {
    for (bool transposed : {false, true}) {
      std::vector<uint16_t> a(256), b(128);
      Values expected(128);
      // Small whole numbers: exact in both types.
      const auto in_a = [](int i, int k) { return static_cast<float>((3 * i + 5 * k) % 11 - 5); };
      const auto in_b = [](int k, int j) { return static_cast<float>((7 * k + 2 * j) % 13 - 6); };
      for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < 16; ++k) a[i * 16 + k] = Bits(in_a(i, k), bfloat16);
      }
      for (int k = 0; k < 16; ++k) {
        for (int j = 0; j < 8; ++j) {
          b[transposed ? j * 16 + k : k * 8 + j] = Bits(in_b(k, j), bfloat16);
          for (int i = 0; i < 16; ++i) expected[i * 8 + j] += in_a(i, k) * in_b(k, j);
        }
      }
      const DeviceBuffer<uint16_t> da(a), db(b);
      const DeviceBuffer<float> d(128);
      const Stream stream;
      Tile(da.data(), db.data(), d.data(), bfloat16, transposed, stream);
      EXPECT_EQ(d.Read(), expected) << bfloat16 << transposed;
    }
  }
}

// ---- Faults within a kernel ----

TEST_F(EmulatorDeathTest, DivergentBarriers) {
  // Half of the block does not wait: its reads are a race, which the checker meets first.
  EXPECT_DEATH(RunMirror(Fault::kDivergentBarrier),
               emulator::ChecksRaces()
                   ? "race in shared memory"
                   : "never come(.|\n)*__syncthreads at .*faulty_kernels.cu:[0-9]+");
  EXPECT_DEATH(RunMirror(Fault::kOtherBarrier), "never come(.|\n)*faulty_kernels.cu:[0-9]+");
}

TEST_F(EmulatorDeathTest, ShufflesWithAbsentLanes) {
  EXPECT_DEATH(RunWarps(WarpSums, 64, Fault::kAbsentLane),
               "never come(.|\n)*__shfl_xor_sync at .*faulty_kernels.cu(.|\n)*has ended");
  EXPECT_DEATH(RunWarps(WarpSums, 64, Fault::kMaskWithoutMe),
               "lane 31, which is not in its mask|leaves the lane out");
}

TEST_F(EmulatorDeathTest, StoresOutOfBounds) {
  EXPECT_DEATH(RunMirror(Fault::kOutOfBounds),
               "wrote outside of an allocation|not in one allocation|AddressSanitizer");
  EXPECT_DEATH(RunMirror(Fault::kOutOfShared),
               "beyond its 256 bytes of shared memory|outside of shared memory|AddressSanitizer");
}

TEST_F(EmulatorTest, UninitialisedSharedMemoryIsNaN) {
  Values expected = MirrorOf(Numbers(192));
  const Values got = RunMirror(Fault::kUninitialised);
  for (size_t i = 0; i < got.size(); ++i) {
    // Also in blocks that follow one that wrote there.
    if (i % 64 == 63) {
      EXPECT_TRUE(std::isnan(got[i])) << i;
    } else {
      EXPECT_EQ(got[i], expected[i]);
    }
  }
}

// The copies come after the loads.
TEST_F(EmulatorTest, MissingWaitForCopiesLeavesNaN) {
  if (emulator::ChecksRaces()) {
    EXPECT_DEATH(RunWarps(AsyncCopies, 256, Fault::kMissingWait), "race in shared memory");
    return;
  }
  // The first thread to store stores the last one's.
  EXPECT_TRUE(std::isnan(RunWarps(AsyncCopies, 256, Fault::kMissingWait).back()));
}

TEST_F(EmulatorTest, MissingBarrierShowsInSomeOrder) {
  if (emulator::ChecksRaces()) GTEST_SKIP() << "ends at the race: RemovedBarriersAreRaces";
  bool wrong = false;
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    wrong = wrong || RunMirror(Fault::kMissingBarrier) != MirrorOf(Numbers(192));
  }
  EXPECT_TRUE(wrong);
}

// In every order, also where the values come out well.
TEST_F(EmulatorDeathTest, RemovedBarriersAreRaces) {
  SKIP_WITHOUT_RACE_CHECKER();
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    EXPECT_DEATH(RunMirror(Fault::kMissingBarrier),
                 "race in shared memory: .*faulty_kernels.cu:[0-9]+.*faulty_kernels.cu:[0-9]+");
    EXPECT_DEATH(RunWarps(SharedWarpSums, 64, Fault::kMissingWarpBarrier),
                 "race in shared memory: .*faulty_kernels.cu:[0-9]+");
  }
}

TEST_F(EmulatorDeathTest, BlocksThatWriteOneElementAreARace) {
  SKIP_WITHOUT_RACE_CHECKER();
  EXPECT_DEATH(RunMirror(Fault::kBlocksCollide), "race in global memory.*faulty_kernels.cu:[0-9]+");
}

TEST_F(EmulatorDeathTest, HostMemoryInAKernel) {
  SKIP_WITHOUT_RACE_CHECKER();
  Values host(64);
  const DeviceBuffer<float> out(64);
  EXPECT_DEATH(
      {
        const Stream stream;
        Mirror(host.data(), out.data(), 1, Fault::kNone, stream);
        stream.Wait();
      },
      "touches host memory at .*faulty_kernels.cu:[0-9]+");
}

// ---- Streams ----

// One stream adds, another copies the sum elsewhere.
Values AddOnTwoStreams(bool wait) {
  const DeviceBuffer<float> from(Values(64, 1)), to(Values(64, 0));
  const Stream first, second;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  AddTo(from.data(), 41, 64, first);
  cudaEventRecord(event, first);
  if (wait) cudaStreamWaitEvent(second, event, 0);
  Mirror(from.data(), to.data(), 1, Fault::kNone, second);
  second.Wait();
  Values values(64);
  cudaMemcpy(values.data(), to.data(), 64 * sizeof(float), cudaMemcpyDeviceToHost);
  cudaEventDestroy(event);
  return values;
}

TEST_F(EmulatorTest, AFullStreamMakesTheHostWait) {
  const Stream stream;
  const DeviceBuffer<float> buffer(Values(8));
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaEventRecord(event, stream);
  for (size_t i = 1; i < emulator::kQueueEntries; ++i) {
    cudaMemsetAsync(buffer.data(), 0, sizeof(float), stream);
  }
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  cudaMemsetAsync(buffer.data(), 0, sizeof(float), stream);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  cudaEventDestroy(event);
}

TEST_F(EmulatorTest, EventsOrderStreams) {
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    EXPECT_EQ(AddOnTwoStreams(true), Values(64, 42));
  }
}

TEST_F(EmulatorDeathTest, MissingStreamWait) {
  if (emulator::ChecksRaces()) {
    for (uint64_t order : kOrders) {
      emulator::SetOrder(order);
      EXPECT_DEATH(AddOnTwoStreams(false), "race in global memory.*that nothing orders");
    }
    return;
  }
  bool wrong = false;
  for (uint64_t order : kOrders) {
    emulator::SetOrder(order);
    wrong = wrong || AddOnTwoStreams(false) != Values(64, 42);
  }
  EXPECT_TRUE(wrong);
}

// Both streams' work comes from one thread, and another one waits for the first stream's.
TEST_F(EmulatorDeathTest, WhatAnotherThreadWaitsForOrdersNothing) {
  SKIP_WITHOUT_RACE_CHECKER();
  const DeviceBuffer<float> from(Values(64, 1)), to(Values(64, 0));
  const auto run = [&] {
    const Stream first, second;
    AddTo(from.data(), 41, 64, first);
    std::thread([&] { first.Wait(); }).join();
    Mirror(from.data(), to.data(), 1, Fault::kNone, second);
    second.Wait();
  };
  EXPECT_DEATH(run(), "race in global memory.*that nothing orders");
}

// The host reads a result that it has not waited for.
TEST_F(EmulatorTest, WorkIsDeferredUntilTheHostWaits) {
  const DeviceBuffer<float> x(Values(64, 1));
  const auto read_early = [&] {
    const Stream stream;
    AddTo(x.data(), 1, 64, stream);
    Values values(64);
    cudaMemcpy(values.data(), x.data(), 64 * sizeof(float), cudaMemcpyDeviceToHost);
    return values;
  };
  if (emulator::ChecksRaces()) {
    EXPECT_DEATH(read_early(), "race in global memory.*that nothing orders");
  } else {
    EXPECT_EQ(read_early(), Values(64, 1));
  }
}

TEST_F(EmulatorTest, AsynchronousCopiesTakeWhatIsThereWhenTheyRun) {
  float* host = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&host), sizeof(float)), cudaSuccess);
  *host = 1;
  const DeviceBuffer<float> x(Values{0});
  const Stream stream;
  ASSERT_EQ(cudaMemcpyAsync(x.data(), host, sizeof(float), cudaMemcpyHostToDevice, stream),
            cudaSuccess);
  *host = 2;  // too early: the copy has not run
  EXPECT_EQ(x.Read(), Values{2});
  EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
}

TEST_F(EmulatorTest, CopiesGoToMemoryThatWasPinnedLater) {
  const DeviceBuffer<float> x(Values{1, 2, 3});
  const Stream stream;
  Values host(4);
  ASSERT_EQ(cudaHostRegister(host.data(), 4 * sizeof(float), cudaHostRegisterDefault), cudaSuccess);
  ASSERT_EQ(
      cudaMemcpyAsync(host.data() + 1, x.data(), 3 * sizeof(float), cudaMemcpyDeviceToHost, stream),
      cudaSuccess);
  EXPECT_EQ(host, Values(4));
  stream.Wait();
  EXPECT_EQ(host, (Values{0, 1, 2, 3}));
  EXPECT_EQ(cudaHostUnregister(host.data()), cudaSuccess);
}

TEST_F(EmulatorDeathTest, CopiesToMemoryThatIsNoLongerPinned) {
  const DeviceBuffer<float> x(Values{1});
  const Stream stream;
  float host = 0;
  const auto copy = [&] {
    cudaMemcpyAsync(&host, x.data(), sizeof(float), cudaMemcpyDeviceToHost, stream);
  };
  cudaHostRegister(&host, sizeof(float), cudaHostRegisterDefault);
  EXPECT_DEATH(
      {
        copy();
        cudaHostUnregister(&host);
        stream.Wait();
      },
      "no longer pinned");
  cudaHostUnregister(&host);
  EXPECT_DEATH(copy(), "not pinned");
  EXPECT_DEATH(cudaHostUnregister(&host), "was not registered");
}

// Each of them once, and whoever launches something is told of what nobody has asked for.
TEST_F(EmulatorTest, ErrorsThatWereAskedFor) {
  const DeviceBuffer<float> x(Values(64, 1));
  const Stream stream;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  Values host(1);
  const auto copy = [&] {
    return cudaMemcpyAsync(host.data(), x.data(), sizeof(float), cudaMemcpyDeviceToHost, stream);
  };
  const auto pin = [&] {
    return cudaHostRegister(host.data(), sizeof(float), cudaHostRegisterDefault);
  };
  setenv("SWINFLEET_CUDA_FAULT", "pinning", 1);
  EXPECT_EQ(pin(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(pin(), cudaSuccess);
  setenv("SWINFLEET_CUDA_FAULT", "copying", 1);
  EXPECT_EQ(copy(), cudaSuccess);
  EXPECT_EQ(copy(), cudaErrorLaunchFailure);
  EXPECT_THROW(AddTo(x.data(), 1, 64, stream), Error);
  AddTo(x.data(), 1, 64, stream);
  setenv("SWINFLEET_CUDA_FAULT", "copy", 1);
  EXPECT_EQ(copy(), cudaSuccess);
  cudaEventRecord(event, stream);
  EXPECT_EQ(cudaEventSynchronize(event), cudaErrorLaunchFailure);
  // Of the first copy.
  EXPECT_EQ(host, Values{1});
  EXPECT_EQ(copy(), cudaSuccess);
  cudaEventRecord(event, stream);
  EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(host, Values{2});
  unsetenv("SWINFLEET_CUDA_FAULT");
  cudaHostUnregister(host.data());
  cudaEventDestroy(event);
}

// Of a stream: from one event to the next all that stands between them.
TEST_F(EmulatorTest, EventsHaveTimes) {
  const size_t before = emulator::Events();
  const DeviceBuffer<float> x(Values(64, 1));
  const Stream stream;
  cudaEvent_t events[4] = {};
  for (cudaEvent_t& event : events) {
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
  }
  EXPECT_EQ(emulator::Events(), before + 4);
  const auto elapsed = [&](int from, int to, float* milliseconds) {
    return cudaEventElapsedTime(milliseconds, events[from], events[to]);
  };
  float few = 0, many = 0, all = 0;
  cudaEventRecord(events[0], stream);
  AddTo(x.data(), 1, 64, stream);
  cudaEventRecord(events[1], stream);
  for (int i = 0; i < 100; ++i) AddTo(x.data(), 1, 64, stream);
  EXPECT_EQ(elapsed(0, 2, &all), cudaErrorInvalidResourceHandle) << "not recorded";
  cudaEventRecord(events[2], stream);
  EXPECT_EQ(elapsed(0, 2, &all), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(events[1]), cudaSuccess);
  EXPECT_EQ(elapsed(0, 1, &few), cudaSuccess);
  EXPECT_EQ(elapsed(1, 2, &many), cudaErrorNotReady);
  EXPECT_EQ(elapsed(2, 1, &many), cudaErrorNotReady);
  stream.Wait();
  ASSERT_EQ(elapsed(1, 2, &many), cudaSuccess);
  ASSERT_EQ(elapsed(0, 2, &all), cudaSuccess);
  EXPECT_GT(few, 0);
  EXPECT_GT(many, few);
  EXPECT_NEAR(all, few + many, 1e-3 * all);
  ASSERT_EQ(elapsed(2, 1, &all), cudaSuccess);
  EXPECT_EQ(all, -many);
  cudaEventDestroy(events[3]);
  ASSERT_EQ(cudaEventCreateWithFlags(&events[3], cudaEventDisableTiming), cudaSuccess);
  cudaEventRecord(events[3], stream);
  stream.Wait();
  EXPECT_EQ(elapsed(0, 3, &all), cudaErrorInvalidResourceHandle) << "an event without a time";
  for (const cudaEvent_t event : events) cudaEventDestroy(event);
  EXPECT_EQ(emulator::Events(), before);
  EXPECT_EQ(cudaEventCreateWithFlags(&events[0], 0x80), cudaErrorInvalidValue);
}

TEST_F(EmulatorDeathTest, EventsThatAreGone) {
  const Stream stream;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDefault);
  cudaEventDestroy(event);
  EXPECT_DEATH(cudaEventRecord(event, stream), "an event that there is not");
  EXPECT_DEATH(cudaEventDestroy(event), "an event that there is not");
}

TEST_F(EmulatorDeathTest, ReservingMore) {
  const auto with = [](const char* reserved, const auto& reserve) {
    setenv("SWINFLEET_CUDA_RESERVED", reserved, 1);
    reserve();
    unsetenv("SWINFLEET_CUDA_RESERVED");
  };
  void* memory = nullptr;
  cudaEvent_t event = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<float> registered(16);
  const auto device = [&] { cudaMalloc(&memory, 16); };
  const auto pinned = [&] { cudaMallocHost(&memory, 16); };
  const auto pin = [&] { cudaHostRegister(registered.data(), 16, cudaHostRegisterDefault); };
  const auto make_event = [&] { cudaEventCreateWithFlags(&event, cudaEventDisableTiming); };
  const auto make_stream = [&] { cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); };
  EXPECT_DEATH(with("memory", device), "device memory is reserved");
  EXPECT_DEATH(with("memory", pinned), "pinned memory is reserved");
  EXPECT_DEATH(with("memory", pin), "pinned memory is reserved");
  EXPECT_DEATH(with("all", make_event), "an event is reserved");
  EXPECT_DEATH(with("all", make_stream), "a stream is reserved");
  EXPECT_DEATH(with("al", make_event), "nothing known");
  with("memory", make_event);
  EXPECT_NE(event, nullptr);
  cudaEventDestroy(event);
}

TEST_F(EmulatorTest, EventsLetTheHostWait) {
  const DeviceBuffer<float> x(Values(64, 1));
  const Stream stream;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  AddTo(x.data(), 1, 64, stream);
  cudaEventRecord(event, stream);
  ASSERT_EQ(cudaEventSynchronize(event), cudaSuccess);
  Values values(64);
  cudaMemcpy(values.data(), x.data(), 64 * sizeof(float), cudaMemcpyDeviceToHost);
  EXPECT_EQ(values, Values(64, 2));
  cudaEventDestroy(event);
}

TEST_F(EmulatorTest, FillsOnAStream) {
  const DeviceBuffer<float> x(Values(3, 1));
  const Stream stream;
  ASSERT_EQ(cudaMemsetAsync(x.data(), 0, 2 * sizeof(float), stream), cudaSuccess);
  EXPECT_EQ(x.Read(), (Values{0, 0, 1}));
}

// ---- What a device refuses, and what the host must not do ----

TEST_F(EmulatorTest, NewDeviceMemoryIsNaN) {
  const DeviceBuffer<float> x(5);
  for (float value : x.Read()) EXPECT_TRUE(std::isnan(value));
}

TEST_F(EmulatorDeathTest, HostReadsDeviceMemory) {
  const DeviceBuffer<float> x(Values(64, 1));
  EXPECT_DEATH(EXPECT_EQ(x.data()[0], 1), "host code touches device memory|AddressSanitizer");
}

TEST_F(EmulatorTest, LaunchesThatNoDeviceTakes) {
  const DeviceBuffer<float> x(Values(64, 1));
  const Stream stream;
  EXPECT_THROW(Mirror(x.data(), x.data(), 0, Fault::kNone, stream), Error);
  // More than any device has.
  EXPECT_EQ(emulator::AllocateDevice(size_t{1} << 40, 0), nullptr);
}

TEST_F(EmulatorDeathTest, Copies) {
  Values host(64);
  const DeviceBuffer<float> x(Values(64, 1));
  const Stream stream;
  EXPECT_DEATH(cudaMemcpy(x.data(), host.data(), 4, cudaMemcpyDeviceToHost), "another direction");
  EXPECT_DEATH(cudaMemcpy(x.data(), host.data(), 260, cudaMemcpyHostToDevice), "260 bytes");
  EXPECT_DEATH(cudaMemcpyAsync(x.data(), host.data(), 4, cudaMemcpyHostToDevice, stream),
               "not pinned");
  EXPECT_DEATH(AddTo(x.data(), 1, 64, nullptr), "default stream");
}

}  // namespace
}  // namespace swinfleet::cuda_testing
