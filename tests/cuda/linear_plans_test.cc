// What linear layers ask of cuBLASLt beside computing, by its substitute, which counts that.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/checks.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/error.h"
#include "tests/cuda/test_device.h"
#include "tests/cuda_emulator/emulator.h"

namespace swinfleet::testing {
namespace {

using ::testing::HasSubstr;

// y (rows, 8) of x (rows, 16). There is room for offsets.
constexpr int64_t kOutputs = 8, kInputs = 16, kMostRows = 128;
constexpr size_t kMostOffset = 64, kBytes = kMostRows * kInputs * sizeof(float) + kMostOffset;

// Bytes from where memory begins, at multiples of 256.
struct Offsets {
  size_t x = 0, weight = 0, y = 0;
};

class LinearPlansTest : public ::testing::Test {
 protected:
  LinearPlansTest() : context_(workspace_.MakeContext(1)) {
    CHECK_LE(rows_, kMostRows);
    for (const auto& memory : {&x_, &weight_, &y_, &bias_}) {
      *memory = MakeDeviceMemory(kBytes, 0);
      // Numbers that bfloat16 has too.
      float values[kBytes / sizeof(float)];
      for (size_t i = 0; i < std::size(values); ++i) values[i] = 0.25f * static_cast<float>(i % 61);
      (*memory)->Store(std::string(reinterpret_cast<const char*>(values), kBytes));
    }
  }
  ~LinearPlansTest() override { WaitForBackend(context_); }

  TensorView View(const TensorMemory& memory, Shape shape, size_t offset = 0) const {
    return {static_cast<char*>(memory.data()) + offset, shape, dtype_, Device::kCuda};
  }

  // What the library was asked for meanwhile.
  int64_t Forward(const Offsets& at = {}, bool bias = true) {
    const int64_t before = emulator::LibraryPreparations();
    cuda::LinearForward({.x = View(*x_, {rows_, kInputs}, at.x),
                         .weight = View(*weight_, {kOutputs, kInputs}, at.weight),
                         .bias = bias ? View(*bias_, {kOutputs}) : TensorView{},
                         .y = View(*y_, {rows_, kOutputs}, at.y)},
                        context_);
    return emulator::LibraryPreparations() - before;
  }
  std::string Result() {
    WaitForBackend(context_);
    return y_->Bytes().substr(0, rows_ * kOutputs * SizeOf(dtype_));
  }

  // The process keeps plans: each test has shapes of its own.
  static inline int64_t tests = 0;
  const int64_t rows_ = ++tests;
  std::unique_ptr<TensorMemory> x_, weight_, y_, bias_;
  Workspace workspace_{1 << 20};
  Context context_;
  DType dtype_ = DType::kF32;
};

TEST_F(LinearPlansTest, AskTheLibraryOnceForAllProductsThatAreAlike) {
  EXPECT_GT(Forward(), 0);
  const std::string first = Result();
  EXPECT_EQ(Forward(), 0);
  EXPECT_EQ(Result(), first);
  // Another epilogue, another dtype.
  EXPECT_GT(Forward({}, /*bias=*/false), 0);
  EXPECT_NE(Result(), first);
  dtype_ = DType::kBF16;
  EXPECT_GT(Forward(), 0);
  // All of them are kept.
  EXPECT_EQ(Forward(), 0);
  dtype_ = DType::kF32;
  EXPECT_EQ(Forward({}, /*bias=*/false), 0);
  EXPECT_EQ(Forward(), 0);
  EXPECT_EQ(Result(), first);
}

// The bits may depend on what the library is told, and must not on where parameters come to lie.
TEST_F(LinearPlansTest, TellTheLibraryNoMoreOfAnAddressThanSixteenBytes) {
  Forward();
  for (const size_t offset : {size_t{16}, size_t{32}, size_t{48}, kMostOffset}) {
    EXPECT_EQ(Forward({.x = offset}) + Forward({.weight = offset}) + Forward({.y = offset}), 0)
        << offset;
  }
  for (const Offsets& at : {Offsets{.x = 8}, Offsets{.weight = 8}, Offsets{.y = 8}}) {
    EXPECT_GT(Forward(at), 0) << at.x << " " << at.weight << " " << at.y;
    EXPECT_EQ(Forward(at), 0);
  }
}

// A plan has the address of the first call's vector, and no other call may use it.
TEST_F(LinearPlansTest, TakeTheBiasOfEachCall) {
  Forward();
  const std::string with_first = Result();
  auto other = MakeDeviceMemory(kBytes, 0);
  other->Store(std::string(kBytes, 0));
  bias_.swap(other);
  EXPECT_EQ(Forward(), 0);
  EXPECT_NE(Result(), with_first);
  bias_.swap(other);
  Forward();
  EXPECT_EQ(Result(), with_first);
}

TEST_F(LinearPlansTest, SayWhichProductHasNoAlgorithm) {
  dtype_ = DType::kBF16;
  std::string problem;
  try {
    Forward({.weight = 1});
  } catch (const Error& error) {
    problem = error.what();
  }
  EXPECT_THAT(problem, HasSubstr("has no algorithm for the outputs of a linear layer: bfloat16 " +
                                 std::to_string(rows_) +
                                 " x 8 of sums over 16 products of bfloat16, epilogue BIAS, "
                                 "factors at multiples of 16 and 1 bytes, the result of 16, in a "
                                 "workspace of " +
                                 std::to_string(rows_ * kOutputs * sizeof(float) * 16) +
                                 " bytes: the functionality"));
  EXPECT_THAT(problem, HasSubstr("--device cpu"));
}

struct Plan {
  explicit Plan(int* made) : number(++*made) {}
  int number;
};

TEST(PlanCache, ForgetsAllPlansWhenThereAreTooMany) {
  cuda::PlanCache<int, Plan, 2> plans;
  int made = 0;
  for (const int key : {1, 2, 1, 2}) plans.Get(key, &made);
  EXPECT_EQ(made, 2);
  EXPECT_EQ(plans.Get(3, &made).number, 3);
  EXPECT_EQ(plans.Get(1, &made).number, 4);
  EXPECT_EQ(plans.Get(3, &made).number, 3);
}

}  // namespace
}  // namespace swinfleet::testing
