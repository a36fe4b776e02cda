#include "worker/ineffective_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::Not;

// A small job with `yaml` on top of it: Swin V2 on idx files, adamw and the cosine schedule.
JobSpec JobWith(const std::string& yaml) {
  JobSpec spec, extra;
  for (const auto& [text, target] : {std::pair("run_dir: /runs/a\ndata: {path: /data}\n"
                                               "model: {preset: swinv2_tiny_window8_256}\n",
                                               &spec),
                                     {yaml.c_str(), &extra}}) {
    const JobFileErrors errors = ParseJobYaml(text, "job.yaml", target);
    EXPECT_TRUE(errors.ok()) << errors.ToString();
  }
  spec.MergeFrom(extra);
  return spec;
}

std::vector<std::string> Problems(const std::string& yaml) {
  JobConfig config;
  return ConfigFromProto(JobWith(yaml), 0, &config);
}

struct Refused {
  const char* yaml;
  const char* message;
};

void ExpectRefused(const std::vector<Refused>& cases) {
  for (const Refused& refused : cases) {
    EXPECT_THAT(Problems(refused.yaml), ElementsAre(refused.message)) << refused.yaml;
  }
}

void ExpectAccepted(const std::vector<const char*>& cases) {
  for (const char* yaml : cases) EXPECT_THAT(Problems(yaml), IsEmpty()) << yaml;
}

TEST(IneffectiveSettings, OfTheModel) {
  ExpectRefused({
      {"model: {preset: mae_vit_base_patch16, window_size: 13}",
       "model.window_size is set, and vit attends to the whole picture; leave it out, or use an"
       " architecture with windows"},
      {"model: {extra_norm_period: 7}",
       "model.extra_norm_period is set, and no stage has that many blocks; leave it out, or use at"
       " most the largest of model.depths"},
      {"model: {preset: mae_vit_base_patch16, drop_path_rate: 0.1}\npretrain: {method: mae}",
       "model.drop_path_rate is set, and mae trains without drop path; leave it out, or set it to"
       " 0"},
      {"model: {preset: mae_vit_base_patch16, depths: [1], drop_path_rate: 0.1}",
       "model.drop_path_rate is set, and the first block, here the only one, has none; leave it"
       " out, or set it to 0"},
  });
  // No method trains vit and another architecture.
  EXPECT_THAT(Problems("model: {preset: mae_vit_base_patch16, window_size: 13}\n"
                       "pretrain: {method: mae}"),
              ElementsAre("model.window_size is set, and vit attends to the whole picture; leave"
                          " it out"));
  ExpectAccepted({
      "model: {preset: mae_vit_base_patch16, window_size: 14}",
      "model: {preset: swin_tiny_patch4_window7_224, window_size: 14}",
      "model: {extra_norm_period: 6}",
      "model: {extra_norm_period: 0}",
      "model: {preset: mae_vit_base_patch16, drop_path_rate: 0}\npretrain: {method: mae}",
      "model: {preset: mae_vit_base_patch16, drop_path_rate: 0.1}",
      "model: {preset: mae_vit_base_patch16, depths: [2], drop_path_rate: 0.1}",
      "model: {drop_path_rate: 0.1}\npretrain: {method: greenmim}",
      // swinfleet-import goes by it.
      "model: {init_skip: [\"head.*\"]}",
  });
}

// Nothing is computed from sizes that are out of range.
TEST(IneffectiveSettings, OfAnInvalidModelAreNotLookedFor) {
  for (const auto& [yaml, key] :
       {std::pair("{arch: vit, patch_size: 0, window_size: 14, depths: [1], num_heads: [2]}",
                  "model.patch_size is 0"),
        {"{arch: vit, image_size: 0, window_size: 14}", "model.image_size (height) is 0"},
        {"{depths: [0], num_heads: [0], extra_norm_period: 2, drop_path_rate: 0.1}",
         "model.depths of stage 0 is 0"},
        {"{num_heads: [0, 0, 0, 0], window_size: 7}", "model.num_heads of stage 0 is 0"},
        {"{depths: [1], num_heads: [1, 1], window_size: 0}", "model.num_heads has 2"},
        {"{arch: video_swin, frames: 0, patch_frames: 0, window_frames: 0}",
         "model.frames is 0"}}) {
    for (const std::string method :
         {"", "\npretrain: {method: mae, mask_unit: 0, group_size: 1}"}) {
      const std::string job = std::string("model: ") + yaml + method +
                              "\ntrain: {micro_batch: 0, eval_batch: 0, epochs: 0}\n"
                              "memory: {sequential_windows: [1]}";
      EXPECT_THAT(Problems(job), AllOf(Contains(HasSubstr(key)),
                                       Not(Contains(MatchesRegex("model\\..* is set, and .*")))))
          << job;
    }
  }
}

// Windows of vit are pictures: a group of less than a batch does hold memory down.
TEST(IneffectiveSettings, OfMemory) {
  const std::string batches = "train: {global_batch: 32, micro_batch: 8, eval_batch: 16}\n";
  const std::string vit = batches + "model: {preset: mae_vit_base_patch16}\n";
  for (const std::string group : {"16", "4294967295"}) {
    EXPECT_THAT(Problems(vit + "memory: {sequential_windows: [" + group + "]}"),
                ElementsAre("memory.sequential_windows is set, and vit has one window a picture,"
                            " that is 16 in the largest batch, which make one group; leave it out,"
                            " or use at most 15"));
  }
  EXPECT_THAT(Problems("train: {global_batch: 8, micro_batch: 1, eval_batch: 1}\n"
                       "model: {preset: mae_vit_base_patch16}\nmemory: {sequential_windows: [1]}"),
              ElementsAre(EndsWith("which make one group; leave it out")));
  for (const std::string group : {"0", "1", "15"}) {
    EXPECT_THAT(Problems(vit + "memory: {sequential_windows: [" + group + "]}"), IsEmpty());
  }
  EXPECT_THAT(Problems(batches + "memory: {sequential_windows: [16]}"), IsEmpty());
}

// What a preset or a default brings was not set.
TEST(IneffectiveSettings, OfPresetsAndDefaultsAreNone) {
  ExpectAccepted({
      "model: {preset: mae_vit_base_patch16}\npretrain: {method: mae}",
      "model: {preset: swinv2_huge_window12_192, depths: [2, 2, 4, 2]}",
      "pretrain: {method: simmim}",
      "train: {optimizer: {name: sgd}, schedule: {name: linear}}",
  });
}

TEST(IneffectiveSettings, OfData) {
  ExpectRefused({
      {"data: {interpolation: bicubic}",
       "data.interpolation is set, and data.format idx takes pictures as they are but for the crops"
       " of data.crop_scale; leave it out, or set crop_scale"},
      {"data: {format: imagefolder, interpolation: random}",
       "data.interpolation is set, and random is for the crops of data.crop_scale alone; leave it"
       " out, or use bilinear or bicubic, or set crop_scale"},
      {"data: {eval_crop: 1}",
       "data.eval_crop is set, and data.format idx takes pictures as they are unless"
       " data.crop_scale has them resampled; leave it out, or set crop_scale"},
      {"data: {format: imagefolder, crop_ratio: [0.5, 2]}",
       "data.crop_ratio is set, and nothing is cropped without data.crop_scale; leave it out, or"
       " set crop_scale, as [0.08, 1]"},
      {"data: {broken_pictures: replace}",
       "data.broken_pictures is set, and data.format idx has no pictures that could be broken"
       " alone; leave it out, or set it to fail"},
      {"data: {frame_interval: 2}",
       "data.frame_interval is set, and data.format idx has no clips; leave it out, or use"
       " data.format frames and a video model"},
      {"data: {frame_interval: 2}\npretrain: {method: simmim}",
       "data.frame_interval is set, and data.format idx has no clips; leave it out"},
      {"data: {format: imagefolder, frame_interval: 1}",
       "data.frame_interval is set, and data.format imagefolder has no clips; leave it out, or use"
       " data.format frames and a video model"},
  });
  ExpectAccepted({
      "data: {crop_scale: [0.5, 1], crop_ratio: [1, 1], interpolation: random, eval_crop: 1}",
      "data: {format: imagefolder, interpolation: bilinear, eval_crop: 0.9,"
      " broken_pictures: replace}",
      "data: {broken_pictures: fail, flip: 0, pad: 0, random_crop: false}",
      "data: {format: frames, frame_interval: 4}\n"
      "model: {preset: swin_tiny_patch244_window877_kinetics400_1k}",
  });
}

TEST(IneffectiveSettings, OfMixing) {
  const std::string off =
      " is set, and nothing is mixed without train.mix.mixup_alpha, cutmix_alpha or cutmix_minmax;"
      " leave it out, or set one of these";
  for (const auto& [yaml, key] :
       {std::pair("train: {mix: {probability: 1}}", "train.mix.probability"),
        {"train: {mix: {mixup_alpha: 0, probability: 2}}", "train.mix.probability"},
        {"train: {mix: {switch_probability: 0.5}}", "train.mix.switch_probability"},
        {"train: {mix: {switch_probability: -1}}", "train.mix.switch_probability"},
        {"train: {mix: {mode: batch}}", "train.mix.mode"}}) {
    EXPECT_THAT(Problems(yaml), ElementsAre(key + off)) << yaml;
  }
  ExpectRefused({
      {"train: {mix: {mixup_alpha: 0.8, switch_probability: 0.5}}",
       "train.mix.switch_probability is set, and of mixup and cutmix only mixup is on; leave it"
       " out, or set cutmix_alpha too"},
      {"train: {mix: {cutmix_alpha: 1, switch_probability: 0.5}}",
       "train.mix.switch_probability is set, and of mixup and cutmix only cutmix is on; leave it"
       " out, or set mixup_alpha too"},
      {"train: {mix: {cutmix_minmax: [0.2, 0.8], switch_probability: 0.5}}",
       "train.mix.switch_probability is set, and of mixup and cutmix only cutmix is on; leave it"
       " out, or set mixup_alpha too"},
      {"train: {mix: {cutmix_minmax: [0.2, 0.8], cutmix_alpha: 0.5}}",
       "train.mix.cutmix_alpha is set, and cutmix_minmax draws the box in its place; leave it out,"
       " or leave out cutmix_minmax"},
  });
  ExpectRefused({
      {"train: {mix: {mixup_alpha: 0.8, cutmix_alpha: 1, switch_probability: 1}}",
       "train.mix.mixup_alpha is set, and with train.mix.switch_probability 1 it is always cutmix"
       " that mixes; leave it out, or set switch_probability below 1"},
      {"train: {mix: {mixup_alpha: 0.8, cutmix_alpha: 1, switch_probability: 0}}",
       "train.mix.cutmix_alpha is set, and with train.mix.switch_probability 0 it is always mixup"
       " that mixes; leave it out, or set switch_probability above 0"},
      {"train: {mix: {mixup_alpha: 0.8, cutmix_minmax: [0.2, 0.8], switch_probability: 0}}",
       "train.mix.cutmix_minmax is set, and with train.mix.switch_probability 0 it is always mixup"
       " that mixes; leave it out, or set switch_probability above 0"},
  });
  ExpectAccepted({
      "train: {mix: {mixup_alpha: 0, cutmix_alpha: 0, probability: 0}}",
      "train: {mix: {mixup_alpha: 0.8, switch_probability: 0, probability: 0.5, mode: pair}}",
      "train: {mix: {cutmix_alpha: 1, switch_probability: 1}}",
      "train: {mix: {mixup_alpha: 0.8, cutmix_alpha: 1, switch_probability: 0.3}}",
      "train: {mix: {mixup_alpha: 0.8, cutmix_minmax: [0.2, 0.8], switch_probability: 0.3}}",
      "train: {mix: {cutmix_minmax: [0.2, 0.8], cutmix_alpha: 1}}",
  });
}

TEST(IneffectiveSettings, OfMixingWithProbabilityNull) {
  const auto vain = [](const std::string& key) {
    return "train.mix." + key +
           " is set, and with train.mix.probability 0 nothing is mixed; leave it out, or set"
           " probability above 0";
  };
  EXPECT_THAT(Problems("train: {mix: {mixup_alpha: 0.8, cutmix_alpha: 1, probability: 0}}"),
              ElementsAre(vain("mixup_alpha"), vain("cutmix_alpha")));
  EXPECT_THAT(Problems("train: {mix: {cutmix_minmax: [0.2, 0.8], probability: 0,"
                       " switch_probability: 1, mode: pair}}"),
              ElementsAre(vain("cutmix_minmax"), vain("switch_probability"), vain("mode")));
}

TEST(IneffectiveSettings, OfMixingInPretraining) {
  const std::string simmim = "pretrain: {method: simmim}\n";
  for (const auto& [setting, key] : {std::pair("probability: 0.5", "probability"),
                                     {"switch_probability: 0.5", "switch_probability"},
                                     {"mode: batch", "mode"}}) {
    EXPECT_THAT(Problems(simmim + "train: {mix: {" + setting + "}}"),
                ElementsAre(std::string("train.mix.") + key +
                            " is set, and train.mix is for classification; leave it out"));
  }
  // Refused as a whole.
  EXPECT_THAT(Problems(simmim + "train: {mix: {mixup_alpha: 1, switch_probability: 0.5}}"),
              ElementsAre(HasSubstr("train.mix is for classification: it mixes pictures")));
  EXPECT_THAT(Problems(simmim + "train: {mix: {probability: 0}}"), IsEmpty());
}

TEST(IneffectiveSettings, OfPretraining) {
  const std::string vit = "model: {preset: mae_vit_base_patch16}\n";
  const std::string head =
      " is set, and the head of simmim is one layer; leave it out, or use pretrain.method"
      " greenmim";
  for (const std::string key : {"decoder_dim", "decoder_depth", "decoder_heads"}) {
    EXPECT_THAT(Problems("pretrain: {method: simmim, " + key + ": 32}"),
                ElementsAre("pretrain." + key + head));
    EXPECT_THAT(Problems("pretrain: {method: greenmim, " + key + ": 32}"), IsEmpty()) << key;
    EXPECT_THAT(Problems(vit + "pretrain: {method: mae, " + key + ": 32}"), IsEmpty()) << key;
  }
  ExpectRefused({
      {"pretrain: {method: simmim, group_size: 64}",
       "pretrain.group_size is set, and simmim forms no groups; leave it out, or use"
       " pretrain.method greenmim"},
      {"model: {preset: mae_vit_base_patch16}\npretrain: {method: mae, group_size: 64}",
       "pretrain.group_size is set, and mae forms no groups; leave it out"},
      {"model: {preset: mae_vit_base_patch16}\npretrain: {method: mae, mask_unit: 32}",
       "pretrain.mask_unit is set, and mae masks patches; leave it out, or set model.patch_size"},
      {"model: {preset: mae_vit_base_patch16}\n"
       "pretrain: {method: mae, norm_target: true, norm_target_window: 47}",
       "pretrain.norm_target_window is set, and mae normalises targets by the patch; leave it"
       " out"},
      {"pretrain: {method: greenmim, norm_target: true, norm_target_window: 47}",
       "pretrain.norm_target_window is set, and greenmim normalises targets by the patch; leave it"
       " out, or use pretrain.method simmim"},
      {"pretrain: {method: simmim, norm_target_window: 47}",
       "pretrain.norm_target_window is set, and targets are not normalised; leave it out, or set"
       " pretrain.norm_target to true"},
      {"pretrain: {method: simmim}\ntrain: {label_smoothing: 0.1}",
       "train.label_smoothing is set, and pre-training takes no notice of labels; leave it out, or"
       " set it to 0"},
  });
  ExpectAccepted({
      "pretrain: {method: simmim, group_size: 0}",
      "pretrain: {method: greenmim, group_size: 64, norm_target: true}",
      "model: {preset: mae_vit_base_patch16}\npretrain: {method: mae, mask_unit: 16}",
      "pretrain: {method: simmim, mask_unit: 64, norm_target: true, norm_target_window: 47}",
      "pretrain: {method: simmim}\ntrain: {label_smoothing: 0}",
      "train: {label_smoothing: 0.1}",
  });
}

TEST(IneffectiveSettings, OfRanks) {
  ExpectRefused({
      {"parallel: {ranks: 1, reduction: library}",
       "parallel.reduction is set, and a single rank reduces nothing; leave it out, or use more"
       " parallel.ranks"},
      {"parallel: {offload_dir: /scratch}",
       "parallel.offload_dir is set, and nothing is offloaded; leave it out, or set"
       " parallel.offload to disk"},
      {"parallel: {offload: host, offload_dir: /scratch}",
       "parallel.offload_dir is set, and nothing is on disk; leave it out, or set"
       " parallel.offload to disk"},
      {"parallel: {ranks: 1, overlap: false}",
       "parallel.overlap is set, and a single rank exchanges nothing; leave it out, or use more"
       " parallel.ranks"},
  });
  ExpectAccepted({
      "parallel: {ranks: 1, reduction: reproducible, overlap: true}",
      "train: {micro_batch: 64}\nparallel: {ranks: 2, overlap: false}",
      "train: {micro_batch: 64}\nparallel: {ranks: 2, reduction: library}",
  });
}

TEST(IneffectiveSettings, OfOptimizers) {
  ExpectRefused({
      {"train: {optimizer: {momentum: 0.9}}",
       "train.optimizer.momentum is set, and adamw does not use it; leave it out, or use"
       " train.optimizer.name sgd"},
      {"train: {optimizer: {name: sgd, beta1: 0.9}}",
       "train.optimizer.beta1 is set, and sgd does not use it; leave it out, or use"
       " train.optimizer.name adamw"},
      {"train: {optimizer: {name: sgd, beta2: 0.9}}",
       "train.optimizer.beta2 is set, and sgd does not use it; leave it out, or use"
       " train.optimizer.name adamw"},
      {"train: {optimizer: {name: sgd, eps: 1e-8}}",
       "train.optimizer.eps is set, and sgd does not use it; leave it out, or use"
       " train.optimizer.name adamw"},
  });
  ExpectAccepted({
      "train: {optimizer: {name: sgd, momentum: 0.9, weight_decay: 0.1, layer_decay: 0.9}}",
      "train: {optimizer: {name: adamw, beta1: 0.9, beta2: 0.99, eps: 1e-8, layer_decay: 1}}",
  });
}

// Each schedule with each field, beside a table of what it uses.
TEST(IneffectiveSettings, OfSchedules) {
  struct Uses {
    std::string name;
    bool min_learning_rate, decay_epochs, multisteps, decay_rate;
  };
  const std::vector<Uses> schedules = {{"cosine", true, false, false, false},
                                       {"linear", false, false, false, false},
                                       {"step", false, true, false, true},
                                       {"multistep", false, false, true, true},
                                       {"mae_cosine", true, false, false, false}};
  for (const Uses& uses : schedules) {
    const auto expect = [&](const std::string& field, const std::string& value, bool used,
                            const std::string& users) {
      std::string yaml = "train: {schedule: {name: " + uses.name + ", " + field + ": " + value;
      if (uses.name == "multistep" && field != "multisteps") yaml += ", multisteps: [10]";
      const std::vector<std::string> problems = Problems(yaml + "}}");
      if (used) {
        EXPECT_THAT(problems, IsEmpty()) << yaml;
      } else {
        EXPECT_THAT(problems, ElementsAre("train.schedule." + field + " is set, and " + uses.name +
                                          " does not use it; leave it out, or use"
                                          " train.schedule.name " +
                                          users));
      }
    };
    expect("min_learning_rate", "1e-6", uses.min_learning_rate, "cosine or mae_cosine");
    expect("decay_epochs", "20", uses.decay_epochs, "step");
    expect("multisteps", "[20, 40]", uses.multisteps, "multistep");
    expect("decay_rate", "0.2", uses.decay_rate, "step or multistep");
  }
}

TEST(IneffectiveSettings, OfDecaysAfterTheEnd) {
  ExpectRefused({
      {"train: {epochs: 20, schedule: {name: step, decay_epochs: 20, decay_rate: 0.2}}",
       "train.schedule.decay_epochs is set, and train.epochs 20 is no more, so that the rate never"
       " decays; leave it out, or use less than train.epochs"},
      {"train: {epochs: 20, schedule: {name: step, decay_rate: 0.2}}",
       "train.schedule.decay_rate is set, and train.epochs 20 is no more than"
       " train.schedule.decay_epochs, so that the rate never decays; leave it out, or set"
       " decay_epochs below train.epochs"},
      {"train: {epochs: 20, schedule: {name: multistep, multisteps: [20, 26]}}",
       "train.schedule.multisteps is set, and train.epochs 20 is no more than the first of them,"
       " so that the rate never decays; use epochs below train.epochs, or another"
       " train.schedule.name"},
  });
  ExpectAccepted({
      "train: {epochs: 20, schedule: {name: step, decay_epochs: 19.5, decay_rate: 0.2}}",
      "train: {epochs: 20, schedule: {name: step}}",
      "train: {epochs: 20, schedule: {name: multistep, multisteps: [19.5, 26]}}",
  });
}

TEST(IneffectiveSettings, OfTheWarmup) {
  ExpectRefused({
      {"train: {schedule: {warmup_learning_rate: 1e-6}}",
       "train.schedule.warmup_learning_rate is set, and there is no warm-up without"
       " train.schedule.warmup_epochs; leave it out, or set warmup_epochs"},
      {"train: {schedule: {warmup_epochs: 0, warmup_prefix: true}}",
       "train.schedule.warmup_prefix is set, and there is no warm-up without"
       " train.schedule.warmup_epochs; leave it out, or set warmup_epochs"},
      {"train: {schedule: {name: mae_cosine, warmup_epochs: 5, warmup_learning_rate: 1e-6}}",
       "train.schedule.warmup_learning_rate is set, and the warm-up of mae_cosine starts at 0;"
       " leave it out, or use train.schedule.name cosine"},
      {"train: {schedule: {name: linear, warmup_epochs: 5, warmup_prefix: false}}",
       "train.schedule.warmup_prefix is set, and linear always begins after the warm-up; leave it"
       " out, or use train.schedule.name cosine"},
      {"train: {schedule: {name: mae_cosine, warmup_epochs: 5, warmup_prefix: false}}",
       "train.schedule.warmup_prefix is set, and mae_cosine always begins after the warm-up; leave"
       " it out, or use train.schedule.name cosine"},
      {"train: {schedule: {name: step, warmup_epochs: 5, warmup_prefix: true}}",
       "train.schedule.warmup_prefix is set, and step always counts its epochs from the first;"
       " leave it out, or use train.schedule.name cosine"},
      {"train: {schedule: {name: multistep, multisteps: [9], warmup_epochs: 5,"
       " warmup_prefix: true}}",
       "train.schedule.warmup_prefix is set, and multistep always counts its epochs from the"
       " first; leave it out, or use train.schedule.name cosine"},
  });
  ExpectAccepted({
      "train: {schedule: {warmup_epochs: 5, warmup_learning_rate: 1e-6, warmup_prefix: false}}",
      "train: {schedule: {warmup_epochs: 5, warmup_prefix: true}}",
      "train: {schedule: {warmup_epochs: 0}}",
      "train: {schedule: {name: mae_cosine, warmup_epochs: 5, warmup_learning_rate: 0,"
      " warmup_prefix: true}}",
      "train: {schedule: {name: linear, warmup_epochs: 5, warmup_learning_rate: 1e-6,"
      " warmup_prefix: true}}",
      "train: {schedule: {name: step, warmup_epochs: 5, warmup_learning_rate: 1e-6,"
      " warmup_prefix: false}}",
  });
}

TEST(IneffectiveSettings, AreNamedTogetherWithOtherProblems) {
  EXPECT_THAT(Problems("data: {frame_interval: 2}\ntrain: {epochs: 0, optimizer: {momentum: 0}}"),
              ElementsAre(HasSubstr("train.epochs is 0"), HasSubstr("data.frame_interval is set"),
                          HasSubstr("train.optimizer.momentum is set")));
  // A value that is wrong besides is refused once.
  EXPECT_THAT(Problems("data: {eval_crop: 7}"), ElementsAre(HasSubstr("data.eval_crop is 7")));
}

// With a misspelt name nobody knows what it would have used.
TEST(IneffectiveSettings, AreNotLookedForBesideAnUnknownName) {
  EXPECT_THAT(Problems("train: {optimizer: {name: sgdm, momentum: 0.9}}"),
              ElementsAre(HasSubstr("train.optimizer.name is \"sgdm\"")));
}

TEST(IneffectiveSettings, DoNotStopAJobThatHasStarted) {
  JobConfig config;
  EXPECT_THAT(ConfigOfStartedJob(JobWith("train: {optimizer: {momentum: 0.8}}"), 0, &config),
              IsEmpty());
  EXPECT_EQ(config.train.optimizer.momentum, 0.8);
  EXPECT_THAT(ConfigOfStartedJob(JobWith("train: {epochs: 0}"), 0, &config),
              ElementsAre(HasSubstr("train.epochs")));
}

}  // namespace
}  // namespace swinfleet
