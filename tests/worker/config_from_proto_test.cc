#include "worker/config_from_proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "proto/job_yaml.h"

namespace swinfleet {
namespace {

using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// A job that sets as little as possible.
JobSpec SmallJob() {
  JobSpec spec;
  spec.set_run_dir("/runs/a");
  spec.mutable_data()->set_path("/data");
  spec.mutable_model()->set_preset("swinv2_tiny_window8_256");
  return spec;
}

JobSpec FromYaml(const std::string& text) {
  JobSpec spec;
  const JobFileErrors errors = ParseJobYaml(text, "job.yaml", &spec);
  EXPECT_TRUE(errors.ok()) << errors.ToString();
  return spec;
}

std::vector<std::string> Problems(const JobSpec& spec, int64_t ranks = 0) {
  JobConfig config;
  return ConfigFromProto(spec, ranks, &config);
}

TEST(ConfigFromProto, UnsetFieldsKeepTheDefaults) {
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(SmallJob(), 0, &config), IsEmpty());
  const JobConfig defaults;
  EXPECT_EQ(config.run_dir, "/runs/a");
  EXPECT_EQ(config.data.path, "/data");
  EXPECT_EQ(config.data.format, defaults.data.format);
  EXPECT_EQ(config.data.train_split, defaults.data.train_split);
  EXPECT_EQ(config.data.eval_split, defaults.data.eval_split);
  EXPECT_EQ(config.data.prefetch, defaults.data.prefetch);
  EXPECT_EQ(config.train.epochs, defaults.train.epochs);
  EXPECT_EQ(config.train.global_batch, defaults.train.global_batch);
  EXPECT_EQ(config.train.label_smoothing, defaults.train.label_smoothing);
  EXPECT_EQ(config.train.optimizer.learning_rate, defaults.train.optimizer.learning_rate);
  EXPECT_EQ(config.train.schedule.warmup_prefix, defaults.train.schedule.warmup_prefix);
  EXPECT_EQ(config.train.clip_grad_norm, defaults.train.clip_grad_norm);
  EXPECT_EQ(config.parallel.zero_stage, defaults.parallel.zero_stage);
  EXPECT_EQ(config.checkpoint.keep_last, defaults.checkpoint.keep_last);
  EXPECT_TRUE(config.checkpoint.asynchronous);
  EXPECT_TRUE(config.metrics.tensorboard);
  EXPECT_EQ(config.init_from, "");
}

TEST(ConfigFromProto, EveryFieldArrives) {
  const JobSpec spec = FromYaml(R"(
name: all of it
run_dir: /runs/b
model:
  image_size: [64, 32]
  in_chans: 1
  num_classes: 7
  patch_size: 2
  embed_dim: 24
  depths: [2, 4]
  num_heads: [3, 6]
  window_size: 4
  mlp_ratio: 2.5
  qkv_bias: false
  ape: true
  patch_norm: false
  pretrained_window_sizes: [4, 3]
  extra_norm_period: 2
  drop_path_rate: 0.25
  init_from: /weights.safetensors
data:
  format: idx
  path: /data
  train_split: a
  eval_split: b
  pad: 3
  random_crop: true
  flip: 0.5
  mean: 0.25
  std: 0.75
  loader_threads: 2
  prefetch: 9
train:
  epochs: 11
  global_batch: 64
  micro_batch: 16
  seed: 18446744073709551615
  label_smoothing: 0.2
  optimizer: {name: adamw, learning_rate: 0.5, weight_decay: 0.01, beta1: 0.8, beta2: 0.9,
              eps: 1e-6}
  schedule: {name: cosine, warmup_epochs: 1.5, warmup_learning_rate: 0.001,
             min_learning_rate: 0.002, warmup_prefix: false}
  clip_grad_norm: 0.125
  eval_every_epochs: 3
  eval_batch: 5
  dtype: fp32
  matmul: tf32
  log_every_steps: 4
  max_nonfinite_steps: 6
parallel: {ranks: 2, zero_stage: 0, threads_per_rank: 3}
checkpoint: {every_steps: 50, keep_last: 2, keep_every_steps: 100, asynchronous: false}
metrics: {tensorboard: false}
)");
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 2, &config), IsEmpty());
  EXPECT_EQ(config.name, "all of it");
  const ModelConfig& model = config.model;
  EXPECT_EQ(model.image_h, 64);
  EXPECT_EQ(model.image_w, 32);
  EXPECT_EQ(model.in_chans, 1);
  EXPECT_EQ(model.num_classes, 7);
  EXPECT_EQ(model.patch_size, 2);
  EXPECT_EQ(model.embed_dim, 24);
  EXPECT_THAT(model.depths, ElementsAre(2, 4));
  EXPECT_THAT(model.num_heads, ElementsAre(3, 6));
  EXPECT_EQ(model.window_size, 4);
  EXPECT_EQ(model.mlp_ratio, 2.5);
  EXPECT_FALSE(model.qkv_bias);
  EXPECT_TRUE(model.ape);
  EXPECT_FALSE(model.patch_norm);
  EXPECT_THAT(model.pretrained_window_sizes, ElementsAre(4, 3));
  EXPECT_EQ(model.extra_norm_period, 2);
  EXPECT_EQ(model.drop_path_rate, 0.25);
  EXPECT_EQ(config.init_from, "/weights.safetensors");
  EXPECT_EQ(config.data.train_split, "a");
  EXPECT_EQ(config.data.eval_split, "b");
  EXPECT_EQ(config.data.pad, 3);
  EXPECT_TRUE(config.data.random_crop);
  EXPECT_EQ(config.data.flip, 0.5);
  EXPECT_THAT(config.data.mean, ElementsAre(0.25));
  EXPECT_THAT(config.data.std, ElementsAre(0.75));
  EXPECT_EQ(config.data.loader_threads, 2);
  EXPECT_EQ(config.data.prefetch, 9);
  const TrainConfig& train = config.train;
  EXPECT_EQ(train.epochs, 11);
  EXPECT_EQ(train.global_batch, 64);
  EXPECT_EQ(train.micro_batch, 16);
  EXPECT_EQ(train.seed, 18446744073709551615u);
  EXPECT_EQ(train.label_smoothing, 0.2);
  EXPECT_EQ(train.optimizer.kind, OptimizerConfig::Kind::kAdamW);
  EXPECT_EQ(train.optimizer.learning_rate, 0.5);
  EXPECT_EQ(train.optimizer.weight_decay, 0.01);
  EXPECT_EQ(train.optimizer.beta1, 0.8);
  EXPECT_EQ(train.optimizer.beta2, 0.9);
  EXPECT_EQ(train.optimizer.eps, 1e-6);
  EXPECT_EQ(train.schedule.kind, ScheduleConfig::Kind::kCosine);
  EXPECT_EQ(train.schedule.warmup_epochs, 1.5);
  EXPECT_EQ(train.schedule.warmup_learning_rate, 0.001);
  EXPECT_EQ(train.schedule.min_learning_rate, 0.002);
  EXPECT_FALSE(train.schedule.warmup_prefix);
  EXPECT_EQ(train.clip_grad_norm, 0.125);
  EXPECT_EQ(train.eval_every_epochs, 3);
  EXPECT_EQ(train.eval_batch, 5);
  EXPECT_EQ(train.log_every_steps, 4);
  EXPECT_EQ(train.max_nonfinite_steps, 6);
  EXPECT_EQ(config.train.matmul, Matmul::kTf32);
  EXPECT_EQ(config.parallel.ranks, 2);
  EXPECT_EQ(config.parallel.zero_stage, 0);
  EXPECT_EQ(config.parallel.threads_per_rank, 3);
  EXPECT_EQ(config.checkpoint.every_steps, 50);
  EXPECT_EQ(config.checkpoint.keep_last, 2);
  EXPECT_EQ(config.checkpoint.keep_every_steps, 100);
  EXPECT_FALSE(config.checkpoint.asynchronous);
  EXPECT_FALSE(config.metrics.tensorboard);
}

TEST(ConfigFromProto, EachFormatHasItsUsualSplitForEvaluation) {
  const auto split = [](const std::string& yaml) {
    JobSpec spec = SmallJob();
    spec.MergeFrom(FromYaml(yaml));
    JobConfig config;
    EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
    return config.data.eval_split;
  };
  EXPECT_EQ(split("data: {format: idx}"), "t10k");
  EXPECT_EQ(split("data: {format: imagefolder}"), "val");
  EXPECT_EQ(split("data: {format: frames}\n"
                  "model: {preset: swin_tiny_patch244_window877_kinetics400_1k}"),
            "val");
  EXPECT_EQ(split("data: {format: imagefolder, eval_split: t10k}"), "t10k");
}

TEST(ConfigFromProto, EveryFieldOfOtherOptimizersAndSchedulesArrives) {
  JobSpec spec = SmallJob();
  spec.MergeFrom(FromYaml(R"(
train:
  optimizer: {name: sgd, momentum: 0.7}
  schedule: {name: multistep, warmup_epochs: 1.5, multisteps: [3, 5.5], decay_rate: 0.3}
)"));
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.train.optimizer.kind, OptimizerConfig::Kind::kSgd);
  EXPECT_EQ(config.train.optimizer.momentum, 0.7);
  EXPECT_EQ(config.train.schedule.kind, ScheduleConfig::Kind::kMultistep);
  EXPECT_EQ(config.train.schedule.warmup_epochs, 1.5);
  EXPECT_THAT(config.train.schedule.multisteps, ElementsAre(3, 5.5));
  EXPECT_EQ(config.train.schedule.decay_rate, 0.3);
  spec = SmallJob();
  spec.MergeFrom(FromYaml("train: {schedule: {name: step, decay_epochs: 2.5, decay_rate: 0.4}}"));
  ASSERT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.train.schedule.kind, ScheduleConfig::Kind::kStep);
  EXPECT_EQ(config.train.schedule.decay_epochs, 2.5);
  EXPECT_EQ(config.train.schedule.decay_rate, 0.4);
}

TEST(ConfigFromProto, EveryFieldOfPicturesAndClipsArrives) {
  const JobSpec spec = FromYaml(R"(
run_dir: /runs/c
model: {arch: video_swin, image_size: 32, frames: 8, patch_frames: 2, window_frames: 4,
        num_classes: 3, patch_size: 4, embed_dim: 8, depths: [1, 1], num_heads: [1, 2],
        window_size: 4, qk_scale: 0.25, init_from: /w, init_skip: ["head.*", norm.weight]}
data: {format: frames, path: /data, crop_scale: [0.3, 1], crop_ratio: [0.5, 2],
       interpolation: random, eval_crop: 0.9, broken_pictures: replace, frame_interval: 4}
train:
  dtype: bf16
  allow_emulation: true
  accumulation: split
  global_batch: 8
  micro_batch: 4
  mix: {mixup_alpha: 0.8, cutmix_alpha: 0.5, probability: 0.9, switch_probability: 0.4, mode: pair}
  optimizer: {layer_decay: 0.75}
)");
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 2, &config), IsEmpty());
  EXPECT_EQ(config.model.arch, Architecture::kVideoSwin);
  EXPECT_EQ(config.model.frames, 8);
  EXPECT_EQ(config.model.patch_frames, 2);
  EXPECT_EQ(config.model.window_frames, 4);
  EXPECT_EQ(config.model.qk_scale, 0.25);
  EXPECT_THAT(config.init_skip, ElementsAre("head.*", "norm.weight"));
  EXPECT_THAT(config.data.crop_scale, ElementsAre(0.3, 1));
  EXPECT_THAT(config.data.crop_ratio, ElementsAre(0.5, 2));
  EXPECT_EQ(config.data.interpolation, DataConfig::Interpolation::kRandom);
  EXPECT_EQ(config.data.eval_crop, 0.9);
  EXPECT_EQ(config.data.broken_pictures, DataConfig::BrokenPictures::kReplace);
  EXPECT_EQ(config.data.frame_interval, 4);
  EXPECT_EQ(config.train.dtype, DType::kBF16);
  EXPECT_TRUE(config.train.allow_emulation);
  EXPECT_EQ(config.train.accumulation, Accumulation::kSplit);
  EXPECT_EQ(config.train.mix.mixup_alpha, 0.8);
  EXPECT_EQ(config.train.mix.cutmix_alpha, 0.5);
  EXPECT_EQ(config.train.mix.probability, 0.9);
  EXPECT_EQ(config.train.mix.switch_probability, 0.4);
  EXPECT_EQ(config.train.mix.mode, MixConfig::Mode::kPair);
  EXPECT_EQ(config.train.optimizer.layer_decay, 0.75);
  JobSpec minmax = SmallJob();
  minmax.MergeFrom(FromYaml("train: {mix: {cutmix_minmax: [0.2, 0.8]}}"));
  ASSERT_THAT(ConfigFromProto(minmax, 0, &config), IsEmpty());
  EXPECT_THAT(config.train.mix.cutmix_minmax, ElementsAre(0.2, 0.8));
}

TEST(ConfigFromProto, EveryFieldOfPretrainingArrives) {
  const JobSpec spec = FromYaml(R"(
run_dir: /runs/d
model: {image_size: 64, patch_size: 2, embed_dim: 8, depths: [1, 1], num_heads: [1, 2],
        window_size: 4}
data: {path: /data}
pretrain: {method: greenmim, mask_ratio: 0.5, mask_unit: 4, norm_target: true, decoder_dim: 24,
           decoder_depth: 2, decoder_heads: 3, group_size: 16}
memory: {checkpointing: [none, selective]}
)");
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 1, &config), IsEmpty());
  EXPECT_EQ(config.pretrain.method, PretrainConfig::Method::kGreenMim);
  EXPECT_EQ(config.pretrain.mask_ratio, 0.5);
  EXPECT_EQ(config.pretrain.mask_unit, 4);
  EXPECT_TRUE(config.pretrain.norm_target);
  EXPECT_EQ(config.pretrain.decoder_dim, 24);
  EXPECT_EQ(config.pretrain.decoder_depth, 2);
  EXPECT_EQ(config.pretrain.decoder_heads, 3);
  EXPECT_EQ(config.pretrain.group_size, 16);
  EXPECT_THAT(config.memory.checkpointing, ElementsAre(MemoryConfig::Checkpointing::kNone,
                                                       MemoryConfig::Checkpointing::kSelective));
  JobSpec simmim = SmallJob();
  simmim.MergeFrom(
      FromYaml("pretrain: {method: simmim, norm_target: true, norm_target_window: 9}"));
  ASSERT_THAT(ConfigFromProto(simmim, 0, &config), IsEmpty());
  EXPECT_EQ(config.pretrain.norm_target_window, 9);
}

// The tests above have to be extended with every field of the schema.
TEST(ConfigFromProto, TheSchemaHasNoOtherFields) {
  EXPECT_EQ(JobSpec::descriptor()->field_count(), 11);
  EXPECT_EQ(ModelSpec::descriptor()->field_count(), 23);
  EXPECT_EQ(DataSpec::descriptor()->field_count(), 17);
  EXPECT_EQ(TrainSpec::descriptor()->field_count(), 17);
  EXPECT_EQ(OptimizerSpec::descriptor()->field_count(), 9);
  EXPECT_EQ(ScheduleSpec::descriptor()->field_count(), 8);
  EXPECT_EQ(ParallelSpec::descriptor()->field_count(), 7);
  EXPECT_EQ(CheckpointSpec::descriptor()->field_count(), 4);
  EXPECT_EQ(PretrainSpec::descriptor()->field_count(), 9);
  EXPECT_EQ(MemorySpec::descriptor()->field_count(), 3);
  EXPECT_EQ(MixSpec::descriptor()->field_count(), 6);
  EXPECT_EQ(MetricsSpec::descriptor()->field_count(), 1);
}

TEST(ConfigFromProto, AQueueThatCannotWorkIsAProblemOfTheJob) {
  JobSpec spec = FromYaml("schedule: {priority: 3, max_run_time: 12h, min_ranks: 2}");
  spec.MergeFrom(FromYaml("parallel: {ranks: 4}"));
  const size_t others = Problems(spec).size();
  spec.mutable_schedule()->set_max_run_time("12 hours");
  const std::vector<std::string> problems = Problems(spec);
  EXPECT_EQ(problems.size(), others + 1);
  EXPECT_THAT(problems, Contains(HasSubstr("schedule.max_run_time is \"12 hours\"")));
}

TEST(ConfigFromProto, FieldsOverrideThePreset) {
  JobSpec spec = SmallJob();
  spec.mutable_model()->set_num_classes(10);
  spec.mutable_model()->set_drop_path_rate(0);
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  const ModelConfig preset = *ModelPreset("swinv2_tiny_window8_256");
  EXPECT_EQ(config.model.image_h, 256);
  EXPECT_EQ(config.model.window_size, 8);
  EXPECT_EQ(config.model.depths, preset.depths);
  EXPECT_EQ(config.model.num_classes, 10);
  EXPECT_EQ(config.model.drop_path_rate, 0);
}

TEST(ConfigFromProto, OneNumberIsASquare) {
  JobSpec spec = SmallJob();
  spec.mutable_model()->add_image_size(512);
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.model.image_h, 512);
  EXPECT_EQ(config.model.image_w, 512);
}

TEST(ConfigFromProto, AllOptimizersAndSchedules) {
  using Optimizer = OptimizerConfig::Kind;
  using Schedule = ScheduleConfig::Kind;
  for (const auto& [name, kind] :
       {std::pair("adamw", Optimizer::kAdamW), {"sgd", Optimizer::kSgd}}) {
    JobSpec spec = SmallJob();
    spec.mutable_train()->mutable_optimizer()->set_name(name);
    JobConfig config;
    EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
    EXPECT_EQ(config.train.optimizer.kind, kind);
  }
  for (const auto& [name, kind] : {std::pair("cosine", Schedule::kCosine),
                                   {"linear", Schedule::kLinear},
                                   {"step", Schedule::kStep},
                                   {"multistep", Schedule::kMultistep}}) {
    JobSpec spec = SmallJob();
    spec.mutable_train()->mutable_schedule()->set_name(name);
    if (kind == Schedule::kMultistep) spec.mutable_train()->mutable_schedule()->add_multisteps(10);
    JobConfig config;
    EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
    EXPECT_EQ(config.train.schedule.kind, kind);
  }
}

TEST(ConfigFromProto, UnknownNamesAreAnsweredWithAllKnownOnes) {
  JobSpec spec = SmallJob();
  spec.mutable_train()->mutable_optimizer()->set_name("adam");
  spec.mutable_train()->mutable_schedule()->set_name("polynomial");
  const std::vector<std::string> problems = Problems(spec);
  EXPECT_THAT(problems,
              ElementsAre("train.optimizer.name is \"adam\", which is unknown; use adamw or sgd",
                          "train.schedule.name is \"polynomial\", which is unknown; use "
                          "cosine, linear, step, "
                          "multistep or mae_cosine"));
}

TEST(ConfigFromProto, UnknownPresetIsTheOnlyWordAboutTheModel) {
  JobSpec spec = SmallJob();
  spec.mutable_model()->set_preset("swinv2_tiny");
  spec.mutable_model()->set_window_size(13);
  spec.mutable_train()->set_epochs(0);
  const std::vector<std::string> problems = Problems(spec);
  ASSERT_THAT(problems, SizeIs(2));
  EXPECT_THAT(problems[0], HasSubstr("swinv2_tiny_window8_256"));
  EXPECT_THAT(problems[1], HasSubstr("train.epochs"));
}

TEST(ConfigFromProto, SizesOfMemory) {
  const auto budget = [](const std::string& text) {
    JobSpec spec = SmallJob();
    spec.mutable_memory()->set_budget(text);
    JobConfig config;
    const std::vector<std::string> problems = ConfigFromProto(spec, 0, &config);
    return problems.empty() ? config.memory.budget : -static_cast<int64_t>(problems.size());
  };
  EXPECT_EQ(budget("20GiB"), int64_t{20} << 30);
  EXPECT_EQ(budget("1.5 GB"), 1500000000);
  EXPECT_EQ(budget("800MiB"), int64_t{800} << 20);
  EXPECT_EQ(budget("123456789"), 123456789);
  for (const char* text : {"", "much", "20 gibs", "-1GiB", "0", "nan", "1e300TiB"}) {
    EXPECT_EQ(budget(text), -1) << text;
  }
}

TEST(ConfigFromProto, OneStageStandsForAll) {
  JobSpec spec = SmallJob();
  spec.mutable_memory()->add_checkpointing("block");
  spec.mutable_memory()->add_sequential_windows(4);
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  const size_t stages = config.model.depths.size();
  EXPECT_THAT(config.memory.checkpointing, SizeIs(stages));
  EXPECT_THAT(config.memory.checkpointing, Each(MemoryConfig::Checkpointing::kBlock));
  EXPECT_THAT(config.memory.sequential_windows, SizeIs(stages));
}

TEST(ConfigFromProto, PretrainingNeedsAMethod) {
  JobSpec spec = SmallJob();
  spec.mutable_pretrain()->set_mask_ratio(0.6);
  EXPECT_THAT(Problems(spec), Contains(HasSubstr("pretrain.method is missing")));
}

TEST(ConfigFromProto, AStageThatFreesGradientsSumsThemSplit) {
  for (const int stage : {0, 1, 2, 3}) {
    JobSpec spec = SmallJob();
    spec.mutable_parallel()->set_zero_stage(stage);
    JobConfig config;
    EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
    EXPECT_EQ(config.train.accumulation, stage < 2 ? Accumulation::kPlain : Accumulation::kSplit);
    spec.mutable_train()->set_accumulation("plain");
    EXPECT_EQ(ConfigFromProto(spec, 0, &config).empty(), stage < 2);
  }
}

TEST(ConfigFromProto, WhoSumsIsChosenByName) {
  JobSpec spec = SmallJob();
  JobConfig config;
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.parallel.reduction, Reduction::kReproducible);
  spec.mutable_parallel()->set_reduction("library");
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.parallel.reduction, Reduction::kLibrary);
  spec.mutable_parallel()->set_reduction("plain");
  EXPECT_THAT(Problems(spec), ElementsAre(HasSubstr("parallel.reduction")));
}

TEST(ConfigFromProto, Offload) {
  JobSpec spec = SmallJob();
  spec.mutable_parallel()->set_offload("disk");
  spec.mutable_parallel()->set_offload_dir("/scratch");
  spec.mutable_train()->mutable_optimizer()->set_moments("bf16");
  JobConfig config;
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_EQ(config.parallel.offload, Offload::kDisk);
  EXPECT_EQ(config.parallel.offload_dir, "/scratch");
  EXPECT_EQ(config.train.optimizer.moments, DType::kBF16);
  spec.mutable_parallel()->set_offload("tape");
  EXPECT_THAT(Problems(spec), Contains(HasSubstr("parallel.offload")));
}

TEST(ConfigFromProto, RanksExchangeBesideComputingUnlessToldOtherwise) {
  JobSpec spec = SmallJob();
  JobConfig config;
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_TRUE(config.parallel.overlap);
  spec.mutable_parallel()->set_overlap(false);
  EXPECT_THAT(ConfigFromProto(spec, 0, &config), IsEmpty());
  EXPECT_FALSE(config.parallel.overlap);
}

TEST(ConfigFromProto, AllProblemsAtOnce) {
  JobSpec spec = SmallJob();
  spec.clear_run_dir();
  spec.mutable_data()->clear_path();
  spec.mutable_model()->set_window_size(0);
  spec.mutable_train()->set_dtype("fp8");
  spec.mutable_train()->set_micro_batch(0);
  spec.mutable_parallel()->set_zero_stage(4);
  const std::vector<std::string> problems = Problems(spec);
  for (const char* key : {"run_dir", "data.path", "model.window_size", "train.dtype",
                          "train.micro_batch", "parallel.zero_stage"}) {
    EXPECT_THAT(problems, Contains(HasSubstr(key)));
  }
}

TEST(ConfigFromProto, NumbersThatAreNone) {
  JobSpec spec = SmallJob();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  spec.mutable_train()->set_clip_grad_norm(nan);
  spec.mutable_model()->set_mlp_ratio(std::numeric_limits<double>::infinity());
  spec.mutable_data()->add_mean(nan);
  spec.mutable_train()->mutable_schedule()->set_name("multistep");
  spec.mutable_train()->mutable_schedule()->add_multisteps(nan);
  const std::vector<std::string> problems = Problems(spec);
  EXPECT_THAT(problems, SizeIs(4));
  for (const std::string& problem : problems) EXPECT_THAT(problem, HasSubstr("finite number"));
}

TEST(ConfigFromProto, CountsBeyondAnInt) {
  JobSpec spec = SmallJob();
  spec.mutable_data()->set_loader_threads(4000000000u);
  spec.mutable_parallel()->set_threads_per_rank(2147483648u);
  EXPECT_THAT(Problems(spec),
              ElementsAre(HasSubstr("data.loader_threads is 4000000000; it must be at most"),
                          HasSubstr("parallel.threads_per_rank is 2147483648")));
}

TEST(ConfigFromProto, WrongNumberOfImageSizes) {
  JobSpec spec = SmallJob();
  for (int i = 0; i < 3; ++i) spec.mutable_model()->add_image_size(64);
  EXPECT_THAT(Problems(spec), ElementsAre(HasSubstr("model.image_size has 3 numbers")));
}

TEST(ConfigFromProto, RanksAreJudged) {
  JobSpec spec = SmallJob();
  spec.mutable_parallel()->set_ranks(4);
  spec.mutable_train()->set_global_batch(64);
  spec.mutable_train()->set_micro_batch(16);
  EXPECT_THAT(Problems(spec, 4), IsEmpty());
  EXPECT_THAT(Problems(spec, 2), Contains(HasSubstr("parallel.ranks")));
  spec.clear_parallel();
  EXPECT_THAT(Problems(spec, 8), Not(IsEmpty()));
}

TEST(ModelFromProto, TheModelAlone) {
  ModelSpec spec;
  spec.set_preset("swinv2_tiny_window8_256");
  ModelConfig model;
  EXPECT_THAT(ModelFromProto(spec, &model), IsEmpty());
  EXPECT_EQ(model.image_w, 256);
  spec.set_window_size(0);
  EXPECT_THAT(ModelFromProto(spec, &model), Contains(HasSubstr("model.window_size")));
}

TEST(ConfigFromProto, TheYamlOfAJobIsTheSameJob) {
  JobSpec spec = SmallJob();
  spec.mutable_train()->set_seed(7);
  JobConfig config;
  ASSERT_THAT(ConfigFromProto(FromYaml(JobToYaml(spec)), 0, &config), IsEmpty());
  EXPECT_EQ(config.train.seed, 7u);
  EXPECT_EQ(config.model.embed_dim, 96);
}

}  // namespace
}  // namespace swinfleet
