#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Errors about data and mixing of a job that is good but for `change`.
std::vector<std::string> Errors(const std::function<void(JobConfig&)>& change) {
  JobConfig job;
  job.run_dir = "/runs/1";
  job.data.path = "/data";
  job.data.format = "imagefolder";
  job.data.eval_split = "val";
  job.data.crop_scale = {0.08, 1};
  job.train.mix.mixup_alpha = 0.8;
  job.train.mix.cutmix_alpha = 1;
  job.train.micro_batch = 8;
  change(job);
  std::vector<std::string> errors;
  for (const std::string& error : ValidateJob(job, 0)) {
    for (const char* part : {"data.", "mix", "model.in_chans", "clips"}) {
      if (error.find(part) == std::string::npos) continue;
      errors.push_back(error);
      break;
    }
  }
  return errors;
}

TEST(ValidateData, GoodJobs) {
  EXPECT_THAT(Errors([](JobConfig&) {}), IsEmpty());
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.in_chans = 1; }), IsEmpty());
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.data.crop_scale.clear();
                job.data.pad = 4;
                job.data.random_crop = true;
              }),
              IsEmpty());
  EXPECT_THAT(Errors([](JobConfig& job) { job.train.mix.cutmix_minmax = {0.2, 0.8}; }), IsEmpty());
}

TEST(ValidateData, FormatsAndModelsMustMatch) {
  EXPECT_THAT(Errors([](JobConfig& job) { job.data.format = "tar"; }),
              ElementsAre(AllOf(HasSubstr("\"tar\""), HasSubstr("\"imagefolder\""))));
  EXPECT_THAT(Errors([](JobConfig& job) { job.data.format = "frames"; }),
              ElementsAre(AllOf(HasSubstr("frames"), HasSubstr("swin_v2"))));
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.in_chans = 4; }),
              ElementsAre(HasSubstr("model.in_chans is 4")));
}

TEST(ValidateData, Crops) {
  using Change = std::function<void(DataConfig&)>;
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](DataConfig& d) { d.crop_scale = {0.5}; }, "data.crop_scale has 1 numbers"},
      {[](DataConfig& d) {
         d.crop_scale = {0.9, 0.5};
       },
       "data.crop_scale is [0.9, 0.5]"},
      {[](DataConfig& d) {
         d.crop_scale = {0, 1};
       },
       "data.crop_scale is [0, 1]"},
      {[](DataConfig& d) {
         d.crop_scale = {0.5, 1.5};
       },
       "at most 1"},
      {[](DataConfig& d) {
         d.crop_scale = {kNan, 1};
       },
       "data.crop_scale"},
      {[](DataConfig& d) {
         d.crop_ratio = {1, HUGE_VAL};
       },
       "data.crop_ratio"},
      {[](DataConfig& d) { d.crop_ratio = {}; }, "data.crop_ratio has 0 numbers"},
      {[](DataConfig& d) { d.pad = 4; }, "data.crop_scale excludes data.pad"},
      {[](DataConfig& d) { d.random_crop = true; }, "data.crop_scale excludes"},
      {[](DataConfig& d) { d.eval_crop = 0; }, "data.eval_crop is 0"},
      {[](DataConfig& d) { d.eval_crop = 1.5; }, "data.eval_crop is 1.5"},
      {[](DataConfig& d) { d.eval_split = ""; }, "\"val\""},
  };
  for (const auto& [change, message] : cases) {
    EXPECT_THAT(Errors([&change = change](JobConfig& job) { change(job.data); }),
                ElementsAre(HasSubstr(message)))
        << message;
  }
}

TEST(ValidateMix, EachSetting) {
  using Change = std::function<void(JobConfig&)>;
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](JobConfig& j) { j.train.mix.mixup_alpha = -1; }, "train.mix.mixup_alpha is -1"},
      {[](JobConfig& j) { j.train.mix.cutmix_alpha = kNan; }, "train.mix.cutmix_alpha"},
      {[](JobConfig& j) { j.train.mix.cutmix_minmax = {0.5}; }, "cutmix_minmax has 1 numbers"},
      {[](JobConfig& j) {
         j.train.mix.cutmix_minmax = {0.8, 0.2};
       },
       "cutmix_minmax is"},
      {[](JobConfig& j) {
         j.train.mix.cutmix_minmax = {0.8, 1.2};
       },
       "cutmix_minmax is"},
      {[](JobConfig& j) { j.train.mix.probability = 1.1; }, "train.mix.probability is 1.1"},
      {[](JobConfig& j) { j.train.mix.switch_probability = -0.1; }, "switch_probability is -0.1"},
      {[](JobConfig& j) {
         j.train.mix.mode = MixConfig::Mode::kPair;
         j.train.micro_batch = 7;
       },
       "use 6 or 8, or the mode batch"},
      {[](JobConfig& j) { j.train.micro_batch = 1; }, "train.micro_batch is 1"},
      {[](JobConfig& j) { j.pretrain.method = PretrainConfig::Method::kSimMim; },
       "masked image modelling does not use"},
  };
  for (const auto& [change, message] : cases) {
    EXPECT_THAT(Errors(change), ::testing::Contains(HasSubstr(message))) << message;
  }
}

}  // namespace
}  // namespace swinfleet
