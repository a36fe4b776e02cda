#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

JobConfig GoodJob() {
  JobConfig job;
  job.name = "fashion";
  job.run_dir = "runs/fashion";
  job.model.image_h = job.model.image_w = 32;
  job.model.in_chans = 1;
  job.model.num_classes = 10;
  job.model.patch_size = 2;
  job.model.embed_dim = 32;
  job.model.depths = {2, 2, 2};
  job.model.num_heads = {1, 2, 4};
  job.model.window_size = 4;
  job.data.path = "/usr/share/dataset-fashion-mnist";
  job.train.epochs = 10;
  job.train.global_batch = 64;
  job.train.micro_batch = 16;
  return job;
}

std::vector<std::string> Errors(const std::function<void(JobConfig&)>& change, int64_t ranks = 0) {
  JobConfig job = GoodJob();
  change(job);
  return ValidateJob(job, ranks);
}

TEST(ValidateJob, GoodJobHasNoErrors) {
  EXPECT_THAT(ValidateJob(GoodJob(), 0), IsEmpty());
  EXPECT_THAT(ValidateJob(GoodJob(), 4), IsEmpty());
}

TEST(ValidateJob, CollectsAllErrorsAtOnce) {
  const auto errors = Errors([](JobConfig& job) {
    job.run_dir.clear();
    job.data.path.clear();
    job.model.num_heads = {1, 3, 4};
    job.train.optimizer.learning_rate = 0;
    job.parallel.zero_stage = 4;
    job.train.accumulation = Accumulation::kSplit;
  });
  EXPECT_THAT(errors, SizeIs(5));
  EXPECT_THAT(errors, Contains(HasSubstr("run_dir")));
  EXPECT_THAT(errors, Contains(HasSubstr("data.path")));
  EXPECT_THAT(errors, Contains(HasSubstr("model.num_heads of stage 1 is 3")));
  EXPECT_THAT(errors, Contains(HasSubstr("train.optimizer.learning_rate")));
  EXPECT_THAT(errors, Contains(HasSubstr("parallel.zero_stage is 4; use 0, 1, 2 or 3")));
}

// Maps that windows do not divide are padded.
TEST(ValidateModel, AnyWindowWorks) {
  for (const int64_t window : {1, 2, 3, 5, 8, 16, 64}) {
    EXPECT_THAT(Errors([&](JobConfig& job) { job.model.window_size = window; }), IsEmpty())
        << window;
  }
}

TEST(ValidateModel, SettingsOfOtherArchitecturesAreRefused) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.arch = Architecture::kSwinV1;
                job.model.extra_norm_period = 6;
                job.model.pretrained_window_sizes = {8, 8, 8};
                job.model.frames = 4;
              }),
              UnorderedElementsAre(HasSubstr("model.extra_norm_period is not a setting of swin_v1"),
                                   HasSubstr("model.pretrained_window_sizes is not a setting"),
                                   HasSubstr("model.frames is not a setting")));
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.qk_scale = 0.5; }),
              ElementsAre(HasSubstr("model.qk_scale is not a setting of swin_v2")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.arch = Architecture::kVit;
                job.model.depths = {2};
                job.model.num_heads = {2};
                job.model.patch_norm = false;
                job.model.qk_scale = 0.5;
              }),
              ElementsAre(HasSubstr("model.qk_scale is not a setting of vit")));
}

// Clips are padded everywhere.
TEST(ValidateModel, ClipsOfAnySize) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.arch = Architecture::kVideoSwin;
                job.model.image_h = 37;
                job.model.image_w = 41;
                job.model.frames = 5;
                job.model.patch_frames = 2;
                job.model.window_frames = 2;
                job.data.format = "frames";
              }),
              IsEmpty());
}

TEST(ValidateOptimizer, LayerDecay) {
  for (const double decay : {0.0, -0.75, 65.0}) {
    EXPECT_THAT(Errors([&](JobConfig& job) { job.train.optimizer.layer_decay = decay; }),
                ElementsAre(HasSubstr("train.optimizer.layer_decay")))
        << decay;
  }
}

TEST(ValidateMemory, ListsNeedOneEntryAStage) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.memory.checkpointing.assign(2, MemoryConfig::Checkpointing::kBlock);
                job.memory.sequential_windows = {1, 1};
              }),
              UnorderedElementsAre(HasSubstr("memory.checkpointing has 2 entries"),
                                   HasSubstr("memory.sequential_windows has 2 entries")));
}

TEST(ValidateMemory, ABudgetChoosesByItself) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.memory.budget = 1 << 30;
                job.memory.checkpointing.assign(3, MemoryConfig::Checkpointing::kBlock);
              }),
              ElementsAre(HasSubstr("leave out memory.checkpointing")));
}

// A last stage of 1x1 tokens attends to itself alone, which is well defined here (the official code
// divides by the window less 1).
TEST(ValidateModel, MapOfOneTokenIsPossible) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.image_h = job.model.image_w = 8;
                job.model.window_size = 2;
              }),
              IsEmpty());
}

TEST(ValidateModel, ImageMustHalveInEveryMerging) {
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.image_h = 36; }),
              ElementsAre(AllOf(HasSubstr("not divisible by 8"), HasSubstr("40x32"))));
}

TEST(ValidateModel, ListsNeedOneEntryAStage) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.num_heads = {1, 2};
              }),
              ElementsAre(HasSubstr("model.num_heads has 2 entries")));
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.pretrained_window_sizes = {4}; }),
              ElementsAre(HasSubstr("model.pretrained_window_sizes has 1 entries")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.pretrained_window_sizes = {4, 1, 4};
              }),
              ElementsAre(HasSubstr("pretrained_window_sizes of stage 1 is 1")));
  EXPECT_THAT(Errors([](JobConfig& job) { job.model.depths = {}; }),
              Contains(HasSubstr("model.depths has 0 entries")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.depths = {2, 0, 2};
              }),
              ElementsAre(HasSubstr("model.depths of stage 1 is 0")));
}

TEST(ValidateModel, HeadsAdviceDividesTheChannels) {
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.num_heads = {1, 3, 4};
              }),
              ElementsAre(HasSubstr("64 channels; near it 1, 2, 4, 8 would")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.model.num_heads = {0, 2, 4};
              }),
              ElementsAre(HasSubstr("model.num_heads of stage 0 is 0")));
}

// Sizes out of all proportion are errors, not overflows.
TEST(ValidateModel, AbsurdSizesAreErrors) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const std::vector<std::function<void(JobConfig&)>> changes = {
      [](JobConfig& job) { job.model.image_h = kHuge; },
      [](JobConfig& job) { job.model.image_w = 0; },
      [](JobConfig& job) { job.model.in_chans = kHuge; },
      [](JobConfig& job) { job.model.num_classes = kHuge; },
      [](JobConfig& job) { job.model.num_classes = 0; },
      [](JobConfig& job) { job.model.num_classes = 1; },
      [](JobConfig& job) { job.model.patch_size = 0; },
      [](JobConfig& job) { job.model.patch_size = kHuge; },
      [](JobConfig& job) { job.model.embed_dim = kHuge; },
      [](JobConfig& job) {
        job.model.depths = {2, kHuge, 2};
      },
      [](JobConfig& job) { job.model.depths.assign(100, 1); },
      [](JobConfig& job) {
        job.model.num_heads = {1, kHuge, 2};
      },
      [](JobConfig& job) { job.model.window_size = 0; },
      [](JobConfig& job) { job.model.window_size = kHuge; },
      [](JobConfig& job) { job.model.extra_norm_period = -1; },
      [](JobConfig& job) { job.model.mlp_ratio = kNan; },
      [](JobConfig& job) { job.model.mlp_ratio = kInf; },
      [](JobConfig& job) { job.model.mlp_ratio = 0; },
      [](JobConfig& job) { job.model.mlp_ratio = 0.001; },
      [](JobConfig& job) { job.model.drop_path_rate = 1; },
      [](JobConfig& job) { job.model.drop_path_rate = kNan; },
      [](JobConfig& job) { job.model.layer_norm_eps = 0; },
      [](JobConfig& job) { job.train.global_batch = kHuge; },
      [](JobConfig& job) { job.train.micro_batch = 0; },
      [](JobConfig& job) { job.train.eval_batch = 0; },
      [](JobConfig& job) {
        job.train.eval_batch = 1 << 24;
        job.model.image_h = 8192;
      },
      [](JobConfig& job) { job.train.epochs = 0; },
      [](JobConfig& job) { job.train.log_every_steps = 0; },
      [](JobConfig& job) { job.train.max_nonfinite_steps = 0; },
      [](JobConfig& job) { job.train.label_smoothing = 1; },
      [](JobConfig& job) { job.train.clip_grad_norm = -1; },
      [](JobConfig& job) { job.train.clip_grad_norm = kNan; },
      [](JobConfig& job) { job.parallel.ranks = -1; },
      [](JobConfig& job) { job.parallel.threads_per_rank = 0; },
      [](JobConfig& job) { job.parallel.zero_stage = -1; },
      [](JobConfig& job) { job.checkpoint.keep_last = 0; },
      [](JobConfig& job) { job.checkpoint.every_steps = -1; },
      [](JobConfig& job) { job.data.format = "tfrecord"; },
      [](JobConfig& job) { job.data.train_split.clear(); },
      [](JobConfig& job) { job.data.eval_split.clear(); },
      [](JobConfig& job) { job.data.pad = -1; },
      [](JobConfig& job) { job.data.flip = 1.5; },
      [](JobConfig& job) { job.data.std = {0}; },
      [](JobConfig& job) { job.data.mean = {kNan}; },
      [](JobConfig& job) {
        job.data.mean = {0.1, 0.2};
      },
      [](JobConfig& job) { job.data.loader_threads = 65; },
      [](JobConfig& job) { job.data.prefetch = 0; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_THAT(Errors(changes[i]), Contains(HasSubstr(" "))) << i;
  }
}

TEST(ValidateJob, MeanAndStdAreOnePerChannel) {
  const auto errors = [](const std::vector<double>& mean) {
    return Errors([&](JobConfig& job) {
      job.model.in_chans = 3;
      job.data.mean = mean;
      job.data.std = {0.2, 0.2, 0.2};
    });
  };
  EXPECT_THAT(errors({0.5, 0.4, 0.3}), IsEmpty());
  EXPECT_THAT(errors({}), IsEmpty());
  EXPECT_THAT(errors({0.5}), ElementsAre(HasSubstr("data.mean has 1 values")));
}

TEST(ValidateJob, MicroBatchesAreAPowerOfTwo) {
  EXPECT_THAT(Errors([](JobConfig& job) { job.train.global_batch = 48; }),
              ElementsAre(AllOf(HasSubstr("power of two"), HasSubstr("global_batch of 32 or 64"))));
  EXPECT_THAT(Errors([](JobConfig& job) { job.train.global_batch = 65; }),
              ElementsAre(HasSubstr("power of two")));
  EXPECT_THAT(Errors([](JobConfig& job) { job.train.global_batch = 8; }),
              Contains(HasSubstr("power of two")));
  EXPECT_THAT(Errors([](JobConfig& job) { job.train.global_batch = 16; }), IsEmpty());
}

TEST(ValidateJob, SplitAccumulationNeedsShards) {
  JobConfig job = GoodJob();
  job.train.accumulation = Accumulation::kSplit;
  job.parallel.zero_stage = 0;
  const std::vector<std::string> errors = ValidateJob(job, 2);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_THAT(errors[0], HasSubstr("use zero_stage 1"));
  for (const int stage : {1, 2, 3}) {
    job.parallel.zero_stage = stage;
    EXPECT_TRUE(ValidateJob(job, 2).empty());
  }
}

TEST(ValidateJob, TheLibraryDoesNotSumBf16) {
  JobConfig job = GoodJob();
  job.parallel.reduction = Reduction::kLibrary;
  EXPECT_TRUE(ValidateJob(job, 2).empty());
  for (const Accumulation form : {Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    job.train.accumulation = form;
    EXPECT_THAT(ValidateJob(job, 2), ElementsAre(HasSubstr("use reduction reproducible")));
  }
}

TEST(ValidateJob, StagesThatFreeGradientsNeedSplitAccumulation) {
  JobConfig job = GoodJob();
  for (const Accumulation form : {Accumulation::kPlain, Accumulation::kLowPrecision}) {
    job.train.accumulation = form;
    for (const int stage : {2, 3}) {
      job.parallel.zero_stage = stage;
      EXPECT_THAT(ValidateJob(job, 2),
                  ElementsAre(HasSubstr("leave train.accumulation out, which then means split")));
    }
  }
  job.train.accumulation = Accumulation::kSplitLowPrecision;
  for (const int stage : {1, 2, 3}) {
    job.parallel.zero_stage = stage;
    EXPECT_TRUE(ValidateJob(job, 2).empty());
  }
}

TEST(ValidateJob, OffloadToADiskNeedsOneOfItsOwn) {
  EXPECT_THAT(Errors([](JobConfig& job) { job.parallel.offload = Offload::kHost; }), IsEmpty());
  EXPECT_THAT(Errors([](JobConfig& job) { job.parallel.offload = Offload::kDisk; }),
              ElementsAre(HasSubstr("parallel.offload_dir is \"\"")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.parallel.offload = Offload::kDisk;
                job.parallel.offload_dir = "scratch";
              }),
              ElementsAre(HasSubstr("absolute path")));
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.parallel.offload = Offload::kDisk;
                job.parallel.offload_dir = "/scratch";
              }),
              IsEmpty());
}

TEST(ValidateJob, Tf32IsForFloat32) {
  const auto with = [](DType dtype) {
    return Errors([&](JobConfig& job) {
      job.train.matmul = Matmul::kTf32;
      job.train.dtype = dtype;
    });
  };
  EXPECT_THAT(with(DType::kF32), IsEmpty());
  EXPECT_THAT(with(DType::kBF16), ElementsAre(HasSubstr("train.dtype is bf16")));
  EXPECT_THAT(with(DType::kF16), ElementsAre(HasSubstr("train.matmul tf32")));
}

TEST(ValidateJob, MomentsInBf16AreOnDisk) {
  const auto with = [](Offload offload, DType moments) {
    return Errors([&](JobConfig& job) {
      job.train.optimizer.moments = moments;
      job.parallel.offload = offload;
      job.parallel.offload_dir = "/scratch";
    });
  };
  EXPECT_THAT(with(Offload::kDisk, DType::kBF16), IsEmpty());
  EXPECT_THAT(with(Offload::kNone, DType::kBF16), ElementsAre(HasSubstr("on disk")));
  EXPECT_THAT(with(Offload::kHost, DType::kBF16), ElementsAre(HasSubstr("on disk")));
  EXPECT_THAT(with(Offload::kDisk, DType::kF16), ElementsAre(HasSubstr("fp32 or bf16")));
}

TEST(ValidateJob, MoreRanksThanMicroBatches) {
  EXPECT_THAT(Errors([](JobConfig& job) {}, 8),
              ElementsAre(AllOf(HasSubstr("more ranks than micro-batches"), HasSubstr("8 ranks"),
                                HasSubstr("at most 4 ranks"))));
  EXPECT_THAT(Errors([](JobConfig& job) { job.parallel.ranks = 8; }),
              ElementsAre(HasSubstr("more ranks than micro-batches")));
  // A job may take some of a fleet's ranks.
  EXPECT_THAT(Errors([](JobConfig& job) { job.parallel.ranks = 2; }, 8), IsEmpty());
  EXPECT_THAT(Errors([](JobConfig& job) { job.parallel.ranks = 4; }, 2),
              ElementsAre(HasSubstr("asks for 4 ranks and there are 2")));
}

TEST(ValidateJob, OptimizerHyperParameters) {
  using Kind = OptimizerConfig::Kind;
  const auto one_error = [](const std::function<void(OptimizerConfig&)>& change) {
    EXPECT_THAT(Errors([&](JobConfig& job) { change(job.train.optimizer); }), SizeIs(1));
  };
  one_error([](OptimizerConfig& o) { o.learning_rate = kInf; });
  one_error([](OptimizerConfig& o) { o.weight_decay = -0.1; });
  one_error([](OptimizerConfig& o) { o.beta1 = 1; });
  one_error([](OptimizerConfig& o) { o.beta2 = -0.1; });
  one_error([](OptimizerConfig& o) { o.eps = 0; });
  one_error([](OptimizerConfig& o) {
    o.kind = Kind::kSgd;
    o.momentum = 1;
  });
  // What another optimizer would use does not matter.
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.train.optimizer.kind = Kind::kSgd;
                job.train.optimizer.beta1 = 2;
              }),
              IsEmpty());
}

TEST(ValidateJob, ScheduleIsConsistent) {
  using Kind = ScheduleConfig::Kind;
  const auto errors = [](const std::function<void(ScheduleConfig&)>& change) {
    return Errors([&](JobConfig& job) { change(job.train.schedule); });
  };
  EXPECT_THAT(errors([](ScheduleConfig& s) { s.warmup_epochs = 10; }),
              ElementsAre(HasSubstr("shorter than the training")));
  EXPECT_THAT(errors([](ScheduleConfig& s) { s.warmup_epochs = kNan; }), SizeIs(1));
  EXPECT_THAT(errors([](ScheduleConfig& s) { s.min_learning_rate = 1; }),
              ElementsAre(HasSubstr("above train.optimizer.learning_rate")));
  EXPECT_THAT(errors([](ScheduleConfig& s) {
                s.warmup_epochs = 1;
                s.warmup_learning_rate = 1;
              }),
              ElementsAre(HasSubstr("warmup_learning_rate")));
  // The warm-up of MAE starts at 0, whatever the setting.
  EXPECT_THAT(Errors([](JobConfig& job) {
                job.train.optimizer.learning_rate = 4e-7;
                job.train.schedule.kind = Kind::kMaeCosine;
                job.train.schedule.warmup_epochs = 1;
                job.train.schedule.min_learning_rate = 0;
              }),
              IsEmpty());
  EXPECT_THAT(errors([](ScheduleConfig& s) { s.kind = Kind::kMultistep; }),
              ElementsAre(HasSubstr("multisteps is empty")));
  const auto multistep = [&](const std::vector<double>& epochs) {
    return errors([&](ScheduleConfig& s) {
      s.kind = Kind::kMultistep;
      s.warmup_epochs = 2;
      s.multisteps = epochs;
    });
  };
  EXPECT_THAT(multistep({4, 8}), IsEmpty());
  EXPECT_THAT(multistep({8, 4}), ElementsAre(HasSubstr("increasing")));
  EXPECT_THAT(multistep({4, 4}), ElementsAre(HasSubstr("increasing")));
  EXPECT_THAT(multistep({1, 4}), ElementsAre(HasSubstr("within the warm-up")));
  EXPECT_THAT(errors([](ScheduleConfig& s) {
                s.kind = Kind::kStep;
                s.decay_epochs = 0;
                s.decay_rate = 0;
              }),
              SizeIs(2));
}

}  // namespace
}  // namespace swinfleet
