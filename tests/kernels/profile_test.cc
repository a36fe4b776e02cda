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
#include "tests/kernels/fake_gpu.h"
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
  EXPECT_GE(attn.span.begin, forward.span.begin);
  EXPECT_LE(attn.span.begin + attn.span.seconds, forward.span.begin + forward.span.seconds);

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
    seconds += call.span.seconds;
  }
  const WorkCount whole = CountOf([&](Context& dry) { SmallStep().Run(dry); });
  EXPECT_EQ(flops, whole.matrix_flops);
  EXPECT_EQ(bytes, whole.bytes);
  EXPECT_EQ(whole.calls, 3);
  EXPECT_LE(seconds, forward.span.seconds);
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
  EXPECT_GE(profile.scopes()[0].span.seconds, profile.calls()[0].span.seconds);
  { const ProfileScope later(context, "backward"); }
  EXPECT_EQ(profile.scopes().size(), 1u);
}

// A step on a GPU whose clock counts the moments that are noted.
class GpuProfileTest : public ::testing::Test {
 protected:
  GpuProfileTest() {
    context_.device = Device::kCuda;
    context_.accelerator = &gpu_;
    context_.stream = gpu_.stream();
  }
  void Record(Profile* profile, const std::function<void()>& work) {
    context_.ops = &ProfilingOps();
    context_.profile = profile;
    work();
  }

  FakeGpu gpu_;
  Arena workspace_ = Arena::OnHost("workspace", 1 << 20);
  Context context_ = MakeContext(&workspace_);
  SmallStep step_;
};

TEST_F(GpuProfileTest, TimesAreThoseOfItsClock) {
  Profile profile(&gpu_, /*calls=*/3);
  EXPECT_TRUE(profile.of_gpu());
  EXPECT_GE(gpu_.room, 7u);
  EXPECT_EQ(gpu_.moments.size(), 1u);
  const int before = gpu_.reads;
  const double start = profile.Now();
  Record(&profile, [&] { step_.Run(context_); });
  const double end = profile.Now();
  // Nobody has waited for the step.
  EXPECT_EQ(gpu_.reads, before);
  EXPECT_EQ(profile.noted(), 6u);
  profile.Finish();
  EXPECT_EQ(profile.noted(), 0u);
  EXPECT_TRUE(gpu_.moments.empty());

  const auto& calls = profile.calls();
  ASSERT_EQ(calls.size(), 3u);
  // Since the clocks were compared some moments may have passed.
  EXPECT_GE(calls[0].span.begin, 1);
  EXPECT_LE(calls[0].span.begin, start + 5);
  double begin = calls[0].span.begin;
  for (const Profile::Call& call : calls) {
    EXPECT_NEAR(call.span.begin, begin, 1e-9);
    EXPECT_NEAR(call.span.seconds, 1, 1e-9);
    EXPECT_FALSE(call.exchanges);
    // The host was done with it long before.
    EXPECT_GE(call.host.begin, start);
    EXPECT_GT(call.host.seconds, 0);
    EXPECT_LE(call.host.end(), end);
    begin += 2;
  }
  const Profile::Scope &forward = profile.scopes()[0], &attn = profile.scopes()[1];
  EXPECT_EQ(forward.span.begin, calls[0].span.begin);
  EXPECT_NEAR(forward.span.seconds, 5, 1e-9);
  EXPECT_EQ(attn.span.begin, calls[1].span.begin);
  EXPECT_NEAR(attn.span.seconds, 1, 1e-9);
  EXPECT_LE(forward.host.begin, attn.host.begin);
  EXPECT_LE(forward.host.end(), end);
  EXPECT_GE(forward.host.end(), attn.host.end());
}

// As a step after the other reads them; moments are used again.
TEST_F(GpuProfileTest, TimesAreReadPartByPart) {
  Profile profile(&gpu_, /*calls=*/3);
  for (int step = 0; step < 4; ++step) {
    const size_t before = profile.noted();
    EXPECT_EQ(before, step == 0 ? 0u : 6u);
    Record(&profile, [&] { step_.Run(context_); });
    profile.ReadTimes(before);
    // The first one, the last one that was read, and those of this step.
    EXPECT_LE(gpu_.moments.size(), 8u);
  }
  EXPECT_NEAR(profile.calls()[8].span.seconds, 1, 1e-9);
  EXPECT_EQ(profile.calls()[9].span.seconds, 0) << "not read yet";
  profile.Finish();
  for (int i = 0; i < 12; ++i) {
    EXPECT_NEAR(profile.calls()[i].span.begin, profile.calls()[0].span.begin + 2 * i, 1e-9) << i;
  }
}

TEST_F(GpuProfileTest, ExchangesHaveAStreamOfTheirOwn) {
  Profile profile(&gpu_, /*calls=*/3, /*most_records=*/4);
  int other = 0, exchanges = 0;
  const auto add = [&](const Context& context) {
    float x[4] = {}, y[4] = {};
    Context calling = context;
    calling.ops->add({.x = ViewOf(x, {4}), .y = ViewOf(y, {4})}, calling);
  };
  Record(&profile, [&] {
    const ProfileScope scope(context_, "backward");
    add(context_);
    Context exchanging = context_;
    exchanging.stream = &other;
    for (uint64_t sequence : {7, 9}) {
      profile.RecordExchange(sequence, exchanging, [&] {
        ++exchanges;
        add(exchanging);
      });
    }
  });
  profile.Finish();
  EXPECT_EQ(exchanges, 2);
  ASSERT_EQ(profile.exchanges().size(), 2u);
  const Profile::Exchange& second = profile.exchanges()[1];
  EXPECT_EQ(second.sequence, 9u);
  EXPECT_NEAR(second.span.begin, profile.calls()[0].span.begin + 6, 1e-9);
  EXPECT_NEAR(second.span.seconds, 3, 1e-9);
  EXPECT_FALSE(profile.calls()[0].exchanges);
  const Profile::Call& within = profile.calls()[2];
  EXPECT_TRUE(within.exchanges);
  EXPECT_NEAR(within.span.begin, second.span.begin + 1, 1e-9);
  EXPECT_NEAR(within.span.seconds, 1, 1e-9);
  // The module computed no longer than what it computed itself.
  EXPECT_NEAR(profile.scopes()[0].span.seconds, 1, 1e-9);
}

TEST_F(GpuProfileTest, WhatIsNotRecordedHasNoMoments) {
  Profile profile(&gpu_, /*calls=*/3, /*most_records=*/1);
  EXPECT_EQ(gpu_.room, 4u);
  Record(&profile, [&] { step_.Run(context_); });
  EXPECT_EQ(profile.noted(), 2u);
  int exchanges = 0;
  for (uint64_t sequence : {1, 2}) {
    profile.RecordExchange(sequence, context_, [&] { ++exchanges; });
  }
  EXPECT_EQ(exchanges, 2);
  EXPECT_EQ(profile.exchanges().size(), 1u);
  profile.Finish();
  EXPECT_EQ(profile.left_out(), 2u);
  EXPECT_NEAR(profile.scopes()[0].span.seconds, 1, 1e-9);
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
