// Convolutions of the CUDA backend where the library has nothing that suits: by its substitute,
// whose algorithms are known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/convolution.h"
#include "kernels/error.h"
#include "tests/cuda/test_device.h"
#include "tests/cuda_emulator/emulator.h"

namespace swinfleet::testing {
namespace {

using cuda::Convolution;
using ::testing::HasSubstr;

constexpr size_t kBytes = 1024;

class ConvolutionTest : public ::testing::Test {
 protected:
  ConvolutionTest()
      : x_(MakeDeviceMemory(kBytes, 0)),
        w_(MakeDeviceMemory(kBytes, 0)),
        y_(MakeDeviceMemory(kBytes, 0)),
        context_(workspace_.MakeContext(1)) {}
  ~ConvolutionTest() override { WaitForBackend(context_); }

  template <typename Call>
  std::string ProblemOf(const Call& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  const std::unique_ptr<TensorMemory> x_, w_, y_;
  Workspace workspace_{64};
  Context context_;
};

// 2 pictures of 4 x 4 x 3 by 5 filters of 2 x 4.
Convolution Picture() {
  return {.map = {4, 4}, .kernel = {2, 4}, .batch = 2, .channels = 3, .filters = 5};
}

TEST_F(ConvolutionTest, SaysWhichOneHasNoAlgorithmThatItsWorkspaceSufficesFor) {
  const std::string filters = ProblemOf([&] {
    cuda::ConvolutionBackwardFilters(Picture(), x_->data(), y_->data(), w_->data(), {nullptr, 100},
                                     context_);
  });
  EXPECT_THAT(filters, HasSubstr("no algorithm for the filters' gradient of the convolution of "
                                 "2 x 3 x 4 x 4 float32 by 5 filters of 2 x 4"));
  // A copy of all tensors.
  EXPECT_THAT(filters, HasSubstr("no more than 100 bytes: it asks for " +
                                 std::to_string((96 + 120 + 20) * sizeof(float))));
  EXPECT_THAT(filters, HasSubstr("--device cpu"));
  EXPECT_THAT(ProblemOf([&] {
                cuda::ConvolutionBackwardInput(Picture(), y_->data(), w_->data(), x_->data(), {},
                                               context_);
              }),
              HasSubstr("the input's gradient of the convolution of 2 x 3"));
  // One needs nothing.
  EXPECT_EQ(ProblemOf([&] {
              cuda::ConvolutionForward(Picture(), x_->data(), w_->data(), y_->data(), {}, context_);
            }),
            "");
}

TEST_F(ConvolutionTest, AsksTheLibraryOnceForAllThatAreAlike) {
  // The process keeps plans: each run has a workspace of its own size.
  static size_t bytes = 4096;
  bytes += 512;
  Workspace room(1 << 16);
  const Context with_room = room.MakeContext(1);
  const auto asks = [&](const Convolution& c, size_t workspace_bytes) {
    const int64_t before = emulator::LibraryPreparations();
    ArenaScope scope(with_room.workspace);
    void* const memory = with_room.workspace->AllocateBytes(static_cast<int64_t>(workspace_bytes));
    const cuda::ConvolutionWorkspace workspace = {memory, workspace_bytes};
    cuda::ConvolutionForward(c, x_->data(), w_->data(), y_->data(), workspace, with_room);
    const int64_t of_forward = emulator::LibraryPreparations() - before;
    cuda::ConvolutionBackwardFilters(c, x_->data(), y_->data(), w_->data(), workspace, with_room);
    cuda::ConvolutionBackwardInput(c, y_->data(), w_->data(), x_->data(), workspace, with_room);
    WaitForBackend(with_room);
    return std::pair(of_forward, emulator::LibraryPreparations() - before - of_forward);
  };
  using Counts = std::pair<int64_t, int64_t>;
  // The library's handle is made at the first call of all.
  asks(Picture(), bytes - 256);
  const Counts first = asks(Picture(), bytes);
  EXPECT_GT(first.first, 0);
  EXPECT_GT(first.second, first.first);
  EXPECT_EQ(asks(Picture(), bytes), Counts());
  // What suffices for an algorithm, and what arithmetic it may take, are parts of the question.
  EXPECT_EQ(asks(Picture(), bytes + 256), first);
  Convolution other = Picture();
  other.tf32 = true;
  EXPECT_EQ(asks(other, bytes), first);
  other.batch = 1;
  EXPECT_EQ(asks(other, bytes), first);
}

TEST_F(ConvolutionTest, SaysWhatTheLibraryRefuses) {
  char* const unaligned = static_cast<char*>(x_->data()) + 4;
  EXPECT_THAT(
      ProblemOf([&] {
        cuda::ConvolutionForward(Picture(), unaligned, w_->data(), y_->data(), {}, context_);
      }),
      HasSubstr("cuDNN: the convolution of 2 x 3 x 4 x 4 float32 by 5 filters of 2 x 4 failed"));
}

}  // namespace
}  // namespace swinfleet::testing
