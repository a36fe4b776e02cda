// NCCL's substitute: what it refuses, as the library does, and what it exchanges. Each rank is a
// process of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/device_buffer.h"

namespace swinfleet::cuda_testing {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Values = std::vector<float>;

// A rank of a group, in its process.
class RankOfGroup {
 public:
  RankOfGroup(const ncclUniqueId& id, int rank, int ranks) : rank_(rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    result_ = Settled(ncclCommInitRankConfig(&comm_, ranks, id, rank, &config));
  }

  // What it comes to in the end.
  ncclResult_t Settled(ncclResult_t result) {
    while (result == ncclInProgress) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ncclCommGetAsyncError(comm_, &result);
    }
    return result;
  }
  void Leave() {
    EXPECT_EQ(Settled(ncclCommFinalize(comm_)), ncclSuccess);
    EXPECT_EQ(ncclCommDestroy(comm_), ncclSuccess);
  }
  // Sends n floats to the other one of two, and receives as many.
  ncclResult_t Swap(const float* send, float* receive, size_t n) {
    ncclGroupStart();
    ncclSend(send, n, ncclFloat32, 1 - rank_, comm_, stream_);
    ncclRecv(receive, n, ncclFloat32, 1 - rank_, comm_, stream_);
    return Settled(ncclGroupEnd());
  }

  const int rank_;
  ncclResult_t result_;
  ncclComm_t comm_ = nullptr;
  // Beyond what there is: the greatest priority.
  const Stream stream_{-100};
};

class NcclTest : public testing::Test {
 protected:
  NcclTest() {
    emulator::SetOrder(5);
    std::string pattern = fs::temp_directory_path() / "swinfleet-nccl-test-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    setenv("TMPDIR", folder_.c_str(), 1);
    setenv("SWINFLEET_CUDA_GPUS", "4", 1);
    ncclGetUniqueId(&id_);
  }
  ~NcclTest() override {
    unsetenv("TMPDIR");
    unsetenv("SWINFLEET_CUDA_GPUS");
    fs::remove_all(folder_);
  }

  using Body = std::function<void(RankOfGroup&)>;
  // Runs ranks until all have ended. What failed in them, and why they died, in Said.
  void Run(int ranks, const Body& body, bool one_gpu = false) {
    std::vector<pid_t> processes;
    for (int rank = 0; rank < ranks; ++rank) {
      const pid_t process = fork();
      if (process != 0) {
        processes.push_back(process);
        continue;
      }
      const std::string said = folder_ + "/said-" + std::to_string(rank);
      if (freopen(said.c_str(), "w", stderr) == nullptr) _exit(2);
      setvbuf(stderr, nullptr, _IONBF, 0);
      if (freopen(said.c_str(), "a", stdout) == nullptr) _exit(2);
      const rlimit no_core = {0, 0};
      setrlimit(RLIMIT_CORE, &no_core);
      alarm(60);
      cudaSetDevice(one_gpu ? 0 : rank);
      RankOfGroup group(id_, rank, ranks);
      body(group);
      fflush(nullptr);
      _exit(HasFailure() ? 1 : 0);
    }
    statuses_.clear();
    for (const pid_t process : processes) {
      int status = 0;
      waitpid(process, &status, 0);
      statuses_.push_back(status);
    }
  }
  void ExpectSuccess() {
    for (size_t rank = 0; rank < statuses_.size(); ++rank) {
      EXPECT_EQ(statuses_[rank], 0) << Said(static_cast<int>(rank));
    }
  }
  std::string Said(int rank) const {
    std::ifstream file(folder_ + "/said-" + std::to_string(rank));
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  // That a rank ends with this message, whatever becomes of the others.
  void ExpectDeath(int ranks, const Body& body, const std::string& message) {
    Run(ranks, body);
    EXPECT_TRUE(WIFSIGNALED(statuses_[0]) && WTERMSIG(statuses_[0]) == SIGABRT) << Said(0);
    EXPECT_THAT(Said(0), HasSubstr("cuda emulator: NCCL: " + message));
  }

  std::string folder_;
  ncclUniqueId id_;
  std::vector<int> statuses_;
};

TEST_F(NcclTest, Collectives) {
  Run(3, [](RankOfGroup& group) {
    ASSERT_EQ(group.result_, ncclSuccess);
    const auto r = static_cast<float>(group.rank_);
    const DeviceBuffer<float> sums(Values{r, 10 * r, 1});
    const DeviceBuffer<float> shards(Values{r, 10 * r, 100 * r});
    const DeviceBuffer<float> all(Values{-1, -1, -1, -1, -1, -1});
    const DeviceBuffer<float> own(Values{r, r + 10});
    EXPECT_EQ(group.Settled(ncclAllReduce(sums.data(), sums.data(), 3, ncclFloat32, ncclSum,
                                          group.comm_, group.stream_)),
              ncclSuccess);
    EXPECT_EQ(group.Settled(ncclReduceScatter(shards.data(), shards.data() + group.rank_, 1,
                                              ncclFloat32, ncclSum, group.comm_, group.stream_)),
              ncclSuccess);
    EXPECT_EQ(group.Settled(ncclAllGather(own.data(), all.data(), 2, ncclFloat32, group.comm_,
                                          group.stream_)),
              ncclSuccess);
    group.stream_.Wait();
    EXPECT_EQ(sums.Read(), (Values{3, 30, 3}));
    EXPECT_EQ(shards.Read()[group.rank_], (Values{3, 30, 300})[group.rank_]);
    EXPECT_EQ(all.Read(), (Values{0, 10, 1, 11, 2, 12}));
    group.Leave();
  });
  ExpectSuccess();
  // Nothing is left of the group but what the ranks have said.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 3);
}

TEST_F(NcclTest, MessagesKeepTheirOrder) {
  Run(2, [](RankOfGroup& group) {
    const auto r = static_cast<float>(group.rank_);
    const DeviceBuffer<float> first(Values{r, r + 1}), second(Values{r + 5, r + 6});
    const DeviceBuffer<float> one(Values{0, 0}), two(Values{0, 0});
    EXPECT_EQ(group.Swap(first.data(), one.data(), 2), ncclSuccess);
    EXPECT_EQ(group.Swap(second.data(), two.data(), 2), ncclSuccess);
    EXPECT_EQ(one.Read(), (Values{1 - r, 2 - r}));
    EXPECT_EQ(two.Read(), (Values{6 - r, 7 - r}));
    group.Leave();
  });
  ExpectSuccess();
}

TEST_F(NcclTest, RefusesAGpuThatTwoRanksHave) {
  Run(
      2, [](RankOfGroup& group) { EXPECT_EQ(group.result_, ncclInvalidUsage); },
      /*one_gpu=*/true);
  ExpectSuccess();
}

TEST_F(NcclTest, RefusesNullAndRanksThatThereAreNot) {
  Run(2, [](RankOfGroup& group) {
    const DeviceBuffer<float> buffer(4);
    ncclGroupStart();
    EXPECT_EQ(ncclSend(nullptr, 4, ncclFloat32, 1 - group.rank_, group.comm_, group.stream_),
              ncclInvalidArgument);
    EXPECT_EQ(ncclRecv(buffer.data(), 4, ncclFloat32, 2, group.comm_, group.stream_),
              ncclInvalidArgument);
    EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
    EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
    EXPECT_EQ(ncclAllGather(buffer.data(), nullptr, 4, ncclFloat32, group.comm_, group.stream_),
              ncclInvalidArgument);
    group.Leave();
  });
  ExpectSuccess();
}

TEST_F(NcclTest, FindsRanksThatCallDifferentThings) {
  ExpectDeath(
      2,
      [](RankOfGroup& group) {
        const DeviceBuffer<float> buffer(std::vector<float>(8));
        group.Swap(buffer.data(), buffer.data() + 4, group.rank_ == 0 ? 2 : 3);
        group.stream_.Wait();
      },
      "rank 0 has called a message of 2 elements of type 7, and rank 1 a message of 3");
}

TEST_F(NcclTest, FindsWhatIsCalledOutOfTurn) {
  const auto with_buffer = [](const std::function<void(RankOfGroup&, float*)>& call) {
    return [call](RankOfGroup& group) {
      const DeviceBuffer<float> buffer(std::vector<float>(8));
      call(group, buffer.data());
    };
  };
  ExpectDeath(1, with_buffer([](RankOfGroup& group, float*) {
                ncclGroupStart();
                group.stream_.Wait();
              }),
              "streams are waited for while a group of calls is open");
  ExpectDeath(2, with_buffer([](RankOfGroup& group, float* data) {
                ncclSend(data, 1, ncclFloat32, 1 - group.rank_, group.comm_, group.stream_);
              }),
              "a message outside of a group");
  ExpectDeath(2, with_buffer([](RankOfGroup& group, float* data) {
                for (;;) {
                  ncclAllGather(data, data + 2, 1, ncclFloat32, group.comm_, group.stream_);
                }
              }),
              "an all-gather while an earlier call has not got through");
  ExpectDeath(1, with_buffer([](RankOfGroup& group, float* data) {
                ncclCommAbort(group.comm_);
                ncclAllGather(data, data, 1, ncclFloat32, group.comm_, group.stream_);
              }),
              "a call after ncclCommAbort");
  ExpectDeath(1, with_buffer([](RankOfGroup& group, float* data) {
                const Stream stream;
                ncclAllGather(data, data, 1, ncclFloat32, group.comm_, stream);
              }),
              "a stream whose messages queue behind kernels");
  ExpectDeath(2, with_buffer([](RankOfGroup& group, float* data) {
                ncclAllGather(data + 1, data, 2, ncclFloat32, group.comm_, group.stream_);
              }),
              "buffers that overlap other than in place");
  ExpectDeath(1, with_buffer([](RankOfGroup& group, float* data) {
                ncclAllReduce(data, data, 1, ncclFloat32, ncclMax, group.comm_, group.stream_);
              }),
              "other sums than of float32");
}

// The host is told that its call has not got through, and does not wait in it.
TEST_F(NcclTest, CallsDoNotWaitForRoom) {
  Run(2, [](RankOfGroup& group) {
    const DeviceBuffer<float> buffer(std::vector<float>(2));
    const std::string full = fs::temp_directory_path() / "full";
    const auto swap = [&] { return group.Swap(buffer.data(), buffer.data() + 1, 1); };
    if (group.rank_ == 1) {
      while (!fs::exists(full)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      for (size_t i = 0; i <= emulator::kQueueEntries; ++i) EXPECT_EQ(swap(), ncclSuccess);
      return group.Leave();
    }
    for (size_t i = 0; i < emulator::kQueueEntries; ++i) EXPECT_EQ(swap(), ncclSuccess);
    ncclGroupStart();
    ncclSend(buffer.data(), 1, ncclFloat32, 1, group.comm_, group.stream_);
    ncclRecv(buffer.data() + 1, 1, ncclFloat32, 1, group.comm_, group.stream_);
    ncclResult_t result = ncclGroupEnd();
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(result, ncclInProgress);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ncclCommGetAsyncError(group.comm_, &result);
    }
    std::ofstream(full).close();
    EXPECT_EQ(group.Settled(result), ncclSuccess);
    group.Leave();
  });
  ExpectSuccess();
}

// As NCCL waits for a rank that is gone; what is known of it can be asked for, and Abort ends it.
TEST_F(NcclTest, WaitsForWhoIsGoneUntilItAborts) {
  Run(2, [](RankOfGroup& group) {
    if (group.rank_ == 1) _exit(0);
    const DeviceBuffer<float> buffer(std::vector<float>(8));
    EXPECT_EQ(group.Swap(buffer.data(), buffer.data() + 4, 4), ncclSuccess);
    std::thread other([&] {
      ncclResult_t result = ncclSuccess;
      while (result == ncclSuccess) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        ncclCommGetAsyncError(group.comm_, &result);
      }
      EXPECT_EQ(result, ncclRemoteError);
      ncclCommAbort(group.comm_);
    });
    group.stream_.Wait();
    other.join();
  });
  ExpectSuccess();
}

}  // namespace
}  // namespace swinfleet::cuda_testing
