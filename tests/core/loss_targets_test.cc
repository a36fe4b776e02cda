#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "core/loss/targets.h"

namespace swinfleet {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TopCount Count(const std::vector<float>& logits, const std::vector<int64_t>& labels) {
  return CountTop(logits, labels, static_cast<int64_t>(logits.size() / labels.size()));
}

TEST(SmoothedTargets, SpreadsTheSmoothingOverAllClasses) {
  const std::vector<int64_t> labels = {2, 0};
  std::vector<float> target(8, 9.0f);
  SmoothedTargets(labels, 4, 0.1, target);
  const std::vector<float> expected = {0.025f, 0.025f, 0.925f, 0.025f,
                                       0.925f, 0.025f, 0.025f, 0.025f};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(target[i], expected[i]) << i;
}

TEST(SmoothedTargets, IsOneHotWithoutSmoothing) {
  const std::vector<int64_t> labels = {1};
  std::vector<float> target(3, 9.0f);
  SmoothedTargets(labels, 3, 0, target);
  EXPECT_EQ(target, (std::vector<float>{0, 1, 0}));
}

TEST(SmoothedTargetsDeathTest, RefusesALabelBeyondTheClasses) {
  const std::vector<int64_t> labels = {3};
  std::vector<float> target(3);
  EXPECT_DEATH(SmoothedTargets(labels, 3, 0, target), "label 3 of 3 classes");
}

TEST(CountTop, CountsTheLargestAndTheFiveLargest) {
  const std::vector<float> row = {7, 6, 5, 4, 3, 2, 1};
  std::vector<float> logits;
  for (int i = 0; i < 7; ++i) logits.insert(logits.end(), row.begin(), row.end());
  const TopCount count = Count(logits, {0, 1, 2, 3, 4, 5, 6});
  EXPECT_EQ(count.pictures, 7);
  EXPECT_EQ(count.top1, 1);
  EXPECT_EQ(count.top5, 5);
}

TEST(CountTop, OfEqualLogitsTheLowerClassComesFirst) {
  const std::vector<float> row = {0, 1, 2, 2, 1, 0, 1, 1, 0};
  const std::vector<int> rank = {6, 2, 0, 1, 3, 7, 4, 5, 8};
  for (int64_t label = 0; label < 9; ++label) {
    const TopCount count = Count(row, {label});
    EXPECT_EQ(count.top1, rank[label] < 1) << label;
    EXPECT_EQ(count.top5, rank[label] < 5) << label;
  }
  // A model whose logits are all alike guesses one class of all.
  const TopCount alike = Count(std::vector<float>(36, 0.5f), {0, 1, 2, 3, 4, 5});
  EXPECT_EQ(alike.top1, 1);
  EXPECT_EQ(alike.top5, 5);
}

TEST(CountTop, ARowThatIsNotFiniteIsWrong) {
  for (float bad : {kNan, kInf, -kInf}) {
    const TopCount count = Count({bad, 2, 1, 3, 0, 0}, {1, 0});
    EXPECT_EQ(count.pictures, 2);
    EXPECT_EQ(count.top1, 1);
    EXPECT_EQ(count.top5, 1);
    EXPECT_EQ(Count({0, bad, 2}, {1}).top5, 0);
    EXPECT_EQ(Count({bad, bad, bad}, {0}).top5, 0);
  }
  EXPECT_EQ(Count({kInf, 0, 0}, {0}).top1, 0);
}

TEST(CountTop, EveryLabelIsAmongTheFiveLargestOfFewClasses) {
  const TopCount count = Count({0, 1, 0, 1}, {0, 1});
  EXPECT_EQ(count.top1, 1);
  EXPECT_EQ(count.top5, 2);
}

TEST(CountTop, AnEmptyBatchHasNothing) { EXPECT_EQ(CountTop({}, {}, 10).pictures, 0); }

}  // namespace
}  // namespace swinfleet
