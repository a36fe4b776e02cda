// The memory of window attention does not grow with the number of windows.
#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"
#include "tests/kernels/window_attention_case.h"

namespace swinfleet::testing {
namespace {

constexpr int64_t kHeads = 3, kDim = 32, kWindow = 8;

TensorView DryView(const Shape& shape) {
  static float somewhere = 0;
  return {&somewhere, shape, DType::kF32, Device::kDryRun};
}

// Bytes of scratch of forward and backward, the larger one, on `batch` square maps.
size_t WorkspaceOf(int64_t batch, int64_t side, int threads) {
  Arena workspace = Arena::DryRun("workspace");
  Context context{
      .ops = &DryRunOps(), .workspace = &workspace, .threads = threads, .count = nullptr};
  const auto map = [&](int64_t channels) { return DryView({batch, 1, side, side, channels}); };
  const TensorView bias = DryView({kHeads, kWindow * kWindow, kWindow * kWindow});
  WindowAttentionForwardArgs forward;
  forward.geometry = Geometry({batch, side, side, kWindow, kWindow, kWindow / 2, kWindow / 2});
  forward.heads = kHeads;
  forward.qkv = map(3 * kHeads * kDim);
  forward.logit_scale = DryView({kHeads});
  forward.bias = bias;
  forward.out = map(kHeads * kDim);
  forward.lse = map(kHeads);
  context.ops->window_attention_forward(forward, context);
  WindowAttentionBackwardArgs backward;
  backward.geometry = forward.geometry;
  backward.heads = kHeads;
  backward.qkv = backward.dqkv = forward.qkv;
  backward.logit_scale = backward.dlogit_scale = forward.logit_scale;
  backward.bias = backward.dbias = bias;
  backward.lse = forward.lse;
  backward.dout = forward.out;
  context.ops->window_attention_backward(backward, context);
  return workspace.high_water();
}

TEST(AttentionWorkspace, IsFlatInTheNumberOfWindows) {
  for (const int threads : {1, 2, 8}) {
    const size_t of_16_windows = WorkspaceOf(1, 32, threads);
    EXPECT_GT(of_16_windows, 0u);
    EXPECT_EQ(WorkspaceOf(16, 32, threads), of_16_windows) << threads << " threads";
    EXPECT_EQ(WorkspaceOf(1, 384, threads), of_16_windows) << threads << " threads";
  }
}

}  // namespace
}  // namespace swinfleet::testing
