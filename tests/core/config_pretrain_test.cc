// What is said about pre-training that can't be.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

using Method = PretrainConfig::Method;

JobConfig Job(Method method) {
  JobConfig job;
  job.pretrain.method = method;
  if (method == Method::kMae) job.model = *ModelPreset("mae_vit_base_patch16");
  return job;
}

struct Refusal {
  Method method;
  std::function<void(JobConfig*)> change;
  // All of these are in the message.
  std::vector<std::string> parts;
};

TEST(ValidatePretrain, AcceptsThePapersSettings) {
  for (const Method method : {Method::kSimMim, Method::kMae, Method::kGreenMim}) {
    EXPECT_EQ(ValidatePretrain(Job(method)), std::vector<std::string>());
  }
}

TEST(ValidatePretrain, SaysWhatWouldWork) {
  const std::vector<Refusal> refusals = {
      {Method::kSimMim,
       [](JobConfig* job) { job->pretrain.mask_ratio = 0; },
       {"mask_ratio", "0.6"}},
      {Method::kMae, [](JobConfig* job) { job->pretrain.mask_ratio = 1; }, {"mask_ratio", "0.75"}},
      {Method::kMae,
       [](JobConfig* job) { job->pretrain.mask_ratio = 0.999; },
       {"196 units", "all", "0.994898"}},
      {Method::kSimMim,
       [](JobConfig* job) { job->pretrain.mask_ratio = 0.99; },
       {"49 units", "all", "0.979592"}},
      {Method::kGreenMim,
       [](JobConfig* job) { job->pretrain.mask_unit = 224; },
       {"1 unit of", "smaller pretrain.mask_unit"}},
      {Method::kSimMim,
       [](JobConfig* job) { job->pretrain.mask_unit = 30; },
       {"mask_unit is 30", "multiple of 4", "28, 32"}},
      {Method::kGreenMim,
       [](JobConfig* job) { job->pretrain.mask_unit = 16; },
       {"mask_unit is 16", "multiple of 32", "32"}},
      {Method::kSimMim,
       [](JobConfig* job) { job->model = *ModelPreset("mae_vit_base_patch16"); },
       {"simmim does not train vit", "swin_v1 and swin_v2"}},
      {Method::kMae,
       [](JobConfig* job) { job->model = ModelConfig(); },
       {"mae does not train swin_v2", "it trains vit"}},
      {Method::kSimMim,
       [](JobConfig* job) {
         job->pretrain.norm_target = true;
         job->pretrain.norm_target_window = 8;
       },
       {"norm_target_window is 8", "odd"}},
      {Method::kMae,
       [](JobConfig* job) { job->pretrain.decoder_heads = 7; },
       {"decoder_heads is 7", "decoder_dim 512; near it 1, 2, 4, 8 would"}},
      {Method::kMae,
       [](JobConfig* job) {
         job->pretrain.decoder_dim = 510;
         job->pretrain.decoder_heads = 5;
       },
       {"decoder_dim is 510", "as 512"}},
      {Method::kGreenMim,
       [](JobConfig* job) { job->pretrain.group_size = -1; },
       {"group_size is -1"}},
      {Method::kGreenMim,
       [](JobConfig* job) {
         job->memory.sequential_windows = {4, 0, 0, 0};
       },
       {"sequential_windows", "greenmim"}},
  };
  for (const Refusal& refusal : refusals) {
    JobConfig job = Job(refusal.method);
    refusal.change(&job);
    const std::vector<std::string> errors = ValidatePretrain(job);
    ASSERT_EQ(errors.size(), 1u) << refusal.parts[0];
    for (const std::string& part : refusal.parts) {
      EXPECT_NE(errors[0].find(part), std::string::npos) << errors[0] << "\nlacks: " << part;
    }
  }
}

TEST(ValidateModel, VitHasNoSwinSettings) {
  ModelConfig model = *ModelPreset("mae_vit_base_patch16");
  EXPECT_EQ(ValidateModel(model), std::vector<std::string>());
  model.patch_norm = true;
  model.ape = true;
  model.embed_dim = 770;
  EXPECT_EQ(ValidateModel(model).size(), 3u);
}

}  // namespace
}  // namespace swinfleet
