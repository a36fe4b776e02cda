// Profiles: the same bits as without, what is recorded, and where.
#include "kernels/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/op_entries.h"
#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// Tensors of a few operations, and the calls.
class SmallStep {
 public:
  SmallStep() {
    Random random(1);
    x_ = random.Normal(kRows * kChannels);
    weight_ = random.Normal(3 * kChannels * kChannels);
    for (Floats* zeros : {&qkv_, &out_, &lse_}) zeros->resize(3 * kRows * kChannels);
  }

  void Run(Context& context) {
    const ProfileScope outer(context, "forward");
    const LinearForwardArgs linear = {.x = ViewOf(x_.data(), {kRows, kChannels}),
                                      .weight = ViewOf(weight_.data(), {3 * kChannels, kChannels}),
                                      .bias = {},
                                      .y = ViewOf(qkv_.data(), {kRows, 3 * kChannels})};
    context.ops->linear_forward(linear, context);
    {
      const ProfileScope inner(context, "attn");
      context.ops->window_attention_forward(
          {.geometry = {.batch = 1, .height = 5, .width = 8, .window_h = 4, .window_w = 4},
           .heads = 2,
           .qkv = ViewOf(qkv_.data(), {1, 1, 5, 8, 3 * kChannels}),
           .logit_scale = {},
           .bias = {},
           .out = ViewOf(out_.data(), {1, 1, 5, 8, kChannels}),
           .lse = ViewOf(lse_.data(), {1, 1, 5, 8, 2}),
           .range = {}},
          context);
    }
    context.ops->add({.x = ViewOf(x_.data(), {kRows * kChannels}),
                      .y = ViewOf(out_.data(), {kRows * kChannels})},
                     context);
  }

  std::vector<Floats> results() const { return {qkv_, out_, lse_}; }

 private:
  static constexpr int64_t kRows = 40, kChannels = 16;
  Floats x_, weight_, qkv_, out_, lse_;
};

Context MakeContext(Arena* workspace) {
  return {.ops = &CpuOps(), .workspace = workspace, .threads = 2};
}

WorkCount CountOf(const std::function<void(Context&)>& work) {
  WorkCount count;
  Arena dry = Arena::DryRun("workspace");
  Context context = MakeContext(&dry);
  context.ops = &DryRunOps();
  context.count = &count;
  work(context);
  return count;
}

TEST(ProfileTest, TheListHasEveryOperationOnce) {
  const std::set<std::string> names(kOpNames.begin(), kOpNames.end());
  EXPECT_EQ(names.size(), kOps);
  std::set<void (*)()> functions, profiled;
  std::apply(
      [&](const auto&... entry) {
        (functions.insert(reinterpret_cast<void (*)()>(CpuOps().*entry.function)), ...);
        (profiled.insert(reinterpret_cast<void (*)()>(ProfilingOps().*entry.function)), ...);
      },
      kOpEntries);
  EXPECT_EQ(functions.size(), kOps);
  EXPECT_EQ(profiled.size(), kOps);
}

TEST(ProfileTest, RecordsWorkAndPlacesAndChangesNoBits) {
  Arena workspace = Arena::OnHost("workspace", 1 << 20);
  Context context = MakeContext(&workspace);
  SmallStep plain, profiled;
  plain.Run(context);

  Profile profile(CpuOps());
  context.ops = &ProfilingOps();
  context.profile = &profile;
  profiled.Run(context);
  EXPECT_EQ(plain.results(), profiled.results());
  EXPECT_EQ(workspace.used(), 0u);

  ASSERT_EQ(profile.scopes().size(), 2u);
  const Profile::Scope &forward = profile.scopes()[0], &attn = profile.scopes()[1];
  EXPECT_EQ(forward.name, "forward");
  EXPECT_EQ(forward.parent, -1);
  EXPECT_EQ(attn.name, "attn");
  EXPECT_EQ(attn.parent, 0);
  EXPECT_GE(attn.begin, forward.begin);
  EXPECT_LE(attn.begin + attn.seconds, forward.begin + forward.seconds);

  const auto& calls = profile.calls();
  ASSERT_EQ(calls.size(), 3u);
  const std::vector<std::string> names = {kOpNames[calls[0].op], kOpNames[calls[1].op],
                                          kOpNames[calls[2].op]};
  EXPECT_THAT(names, ::testing::ElementsAre("linear_forward", "window_attention_forward", "add"));
  EXPECT_EQ(calls[0].scope, 0);
  EXPECT_EQ(calls[1].scope, 1);
  EXPECT_EQ(calls[2].scope, 0);
  EXPECT_EQ(calls[0].matrix_flops, 2.0 * 40 * 16 * 48);
  EXPECT_EQ(calls[0].bytes, 4.0 * (40 * 16 + 48 * 16 + 40 * 48));
  ASSERT_EQ(calls[0].tensors.size(), 3u);
  EXPECT_EQ(calls[0].tensors[2].shape, (Shape{40, 48}));
  EXPECT_EQ(calls[2].matrix_flops, 0);
  double flops = 0, bytes = 0, seconds = 0;
  for (const Profile::Call& call : calls) {
    flops += call.matrix_flops;
    bytes += call.bytes;
    seconds += call.seconds;
  }
  const WorkCount whole = CountOf([&](Context& dry) { SmallStep().Run(dry); });
  EXPECT_EQ(flops, whole.matrix_flops);
  EXPECT_EQ(bytes, whole.bytes);
  EXPECT_EQ(whole.calls, 3);
  EXPECT_LE(seconds, forward.seconds);
  EXPECT_GT(profile.own_seconds(), 0);
}

TEST(ProfileTest, HasNoMoreRecordsThanItMay) {
  Arena workspace = Arena::OnHost("workspace", 1 << 20);
  Context context = MakeContext(&workspace);
  SmallStep plain, profiled;
  plain.Run(context);
  Profile profile(CpuOps(), /*most_records=*/1);
  context.ops = &ProfilingOps();
  context.profile = &profile;
  profiled.Run(context);
  // Made, and not recorded.
  EXPECT_EQ(plain.results(), profiled.results());
  ASSERT_EQ(profile.calls().size(), 1u);
  EXPECT_EQ(profile.left_out(), 2u);
  ASSERT_EQ(profile.scopes().size(), 1u);
  EXPECT_EQ(profile.scopes()[0].name, "forward");
  // The scope within it, which was left, was not mistaken for it.
  EXPECT_GE(profile.scopes()[0].seconds, profile.calls()[0].seconds);
  { const ProfileScope later(context, "backward"); }
  EXPECT_EQ(profile.scopes().size(), 1u);
}

TEST(ProfileTest, TheTablesProductIsPartOfItsCall) {
  Floats coords(2 * 9, 0.5f), w1(2 * 512, 0.1f), b1(512), w2(512, 0.01f), table(9);
  const PositionTableForwardArgs args = {.coords = ViewOf(coords.data(), {9, 2}),
                                         .w1 = ViewOf(w1.data(), {512, 2}),
                                         .b1 = ViewOf(b1.data(), {512}),
                                         .w2 = ViewOf(w2.data(), {1, 512}),
                                         .table = ViewOf(table.data(), {9, 1})};
  Arena workspace = Arena::OnHost("workspace", 1 << 20);
  Context context = MakeContext(&workspace);
  Profile profile(CpuOps());
  context.ops = &ProfilingOps();
  context.profile = &profile;
  context.ops->position_table_forward(args, context);
  ASSERT_EQ(profile.calls().size(), 1u);
  EXPECT_EQ(profile.calls()[0].scope, -1);
  EXPECT_EQ(profile.calls()[0].matrix_flops, 2.0 * 9 * 512);
}

}  // namespace
}  // namespace swinfleet::testing
