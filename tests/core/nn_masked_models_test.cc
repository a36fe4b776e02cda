// Models of masked image modelling, with their losses: gradients against finite differences,
// dtypes, masks that change, and GreenMIM's encoder against the whole Swin Transformer.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/data/mask.h"
#include "core/loss/objective.h"
#include "core/nn/green_mim.h"
#include "core/nn/swin_encoder.h"

namespace swinfleet {
namespace {

constexpr int64_t kPictures = 2;

// Uniform in [-1, 1], the same on every machine.
class Numbers {
 public:
  float Next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<float>(static_cast<double>(state_ >> 11) * 0x1p-52 - 1);
  }

 private:
  uint64_t state_ = 1;
};

// Away from the initial values.
void FillParameters(const ParameterTable& table, Numbers* numbers, LocalParameters* access) {
  for (int i = 0; i < static_cast<int>(table.parameters().size()); ++i) {
    const std::string& name = table.parameters()[i].name;
    const bool gain = name.find("norm") != std::string::npos && name.ends_with(".weight");
    const float centre = gain ? 1.0f : (name.ends_with("logit_scale") ? 2.0f : 0.0f);
    for (float& x : access->Value(i)) x = centre + 0.2f * numbers->Next();
  }
}

// The parameters rounded to bfloat16, and the same gradients.
class BFloat16Parameters : public ParameterAccess {
 public:
  BFloat16Parameters(const ParameterTable& table, LocalParameters* values) : values_(values) {
    for (int unit = 0; unit < static_cast<int>(table.units().size()); ++unit) {
      auto& rounded = rounded_.emplace_back();
      for (const float x : values->Acquire(unit).span()) {
        rounded.push_back(static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0x8000) >> 16));
      }
    }
  }
  TensorView Acquire(int unit) override {
    TensorView view = values_->Acquire(unit);
    view.data = rounded_[unit].data();
    view.dtype = DType::kBF16;
    return view;
  }
  void Release(int) override {}
  TensorView Gradient(int unit) override { return values_->Gradient(unit); }
  bool TakeUnwritten(int parameter) override { return values_->TakeUnwritten(parameter); }
  void GradientReady(int) override {}

 private:
  LocalParameters* values_;
  std::vector<std::vector<uint16_t>> rounded_;
};

// A model of pre-training (or a classifier) with parameters, a batch, and its objective.
class Experiment {
 public:
  explicit Experiment(const JobConfig& job, int threads = 1)
      : job_(job),
        threads_(threads),
        model_(MakeModel(job.model, job.pretrain, job.memory)),
        objective_(MakeObjective(job, /*training=*/true)),
        access_(model_->parameters(), /*gradients=*/true) {
    FillParameters(model_->parameters(), &numbers_, &access_);
    batch_.pictures = kPictures;
    batch_.image.resize(job.model.ImageShape(kPictures).NumElements());
    for (float& x : batch_.image) x = numbers_.Next();
    for (int64_t b = 0; b < kPictures; ++b) batch_.label.push_back(b % job.model.num_classes);
    NewMask(0);
    dimage_.resize(batch_.image.size());
  }

  void NewMask(uint64_t number) {
    if (!job_.pretrain.on()) return;
    const MaskConfig config = MaskConfigFor(job_.model, job_.pretrain);
    const int64_t rows = MaskShape(MaskConfigFor(job_.model, job_.pretrain), kPictures)[0];
    batch_.mask.resize(rows * config.units());
    std::vector<int64_t> scratch;
    for (int64_t row = 0; row < rows; ++row) {
      DrawMask(config, CounterRng(5, RandomPurpose::kMask, number, static_cast<uint32_t>(row)),
               &scratch, std::span(batch_.mask).subspan(row * config.units(), config.units()));
    }
  }

  const ParameterTable& table() const { return model_->parameters(); }
  LocalParameters& access() { return access_; }
  std::vector<float>& image() { return batch_.image; }
  const std::vector<float>& dimage() const { return dimage_; }

  // Forward and backward; returns the sum of the pictures' losses. Memory is what the dry run asked
  // for once, whatever the mask.
  double Run(DType dtype = DType::kF32) {
    access_.ZeroGradients();
    std::ranges::fill(dimage_, 0.0f);
    BFloat16Parameters rounded(table(), &access_);
    ParameterAccess& access =
        dtype == DType::kF32 ? static_cast<ParameterAccess&>(access_) : rounded;
    if (activations_ == nullptr || dtype != planned_) {
      Arena activations = Arena::DryRun("activations");
      Arena workspace = Arena::DryRun("workspace");
      WorkCount count;
      Context context{
          .ops = &DryRunOps(), .workspace = &workspace, .threads = threads_, .count = &count};
      // The dry run has no batch.
      Batch empty;
      empty.pictures = kPictures;
      Execute(empty, dtype, access, activations, context);
      activations_ =
          std::make_unique<Arena>(Arena::OnHost("activations", activations.high_water()));
      workspace_ = std::make_unique<Arena>(Arena::OnHost("workspace", workspace.high_water()));
      planned_ = dtype;
    }
    Context context{.ops = &CpuOps(), .workspace = workspace_.get(), .threads = threads_};
    return Execute(batch_, dtype, access, *activations_, context);
  }

 private:
  double Execute(const Batch& batch, DType dtype, ParameterAccess& access, Arena& activations,
                 Context& context) {
    ArenaScope scope(&activations);
    const ModelInput input = InputOf(batch, job_, activations, context);
    const TensorView output = activations.Allocate(model_->OutputShape(kPictures), dtype);
    const TensorView doutput = activations.Allocate(output.shape, dtype);
    ForwardOptions options;
    options.dtype = dtype;
    model_->Forward(input, output, options, access, activations, context);
    const double loss =
        objective_->Compute(batch, input, output, doutput, 1.0f, activations, context);
    model_->Backward(doutput, ViewOf(dimage_.data(), job_.model.ImageShape(kPictures)), access,
                     activations, context);
    return loss;
  }

  JobConfig job_;
  int threads_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Objective> objective_;
  LocalParameters access_;
  Batch batch_;
  std::vector<float> dimage_;
  Numbers numbers_;
  std::unique_ptr<Arena> activations_, workspace_;
  DType planned_ = DType::kF32;
};

std::vector<float> Copy(std::span<const float> values) { return {values.begin(), values.end()}; }

// Moves `values` along their gradient and against it and compares the slope of the loss with the
// gradient's length.
void ExpectSlope(const std::string& name, Experiment& experiment, std::span<float> values,
                 const std::vector<float>& gradient) {
  double squares = 0;
  for (const float g : gradient) squares += static_cast<double>(g) * g;
  ASSERT_GT(squares, 1e-12) << name << " has no gradient";
  const std::vector<float> original = Copy(values);
  const double length = std::sqrt(squares);
  const double step = std::min(5e-4 / length, 0.01) / length;
  double loss[2];
  for (const int side : {0, 1}) {
    const double by = side == 0 ? -step : step;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(original[i] + by * gradient[i]);
    }
    loss[side] = experiment.Run();
  }
  std::ranges::copy(original, values.begin());
  EXPECT_NEAR((loss[1] - loss[0]) / (2 * step) / squares, 1, 0.02 + 1e-6 / (step * squares))
      << name;
}

// Every parameter's gradient. That of the image only where the loss's targets are none of it.
void ExpectGradients(const JobConfig& job) {
  ASSERT_EQ(ValidateModel(job.model), std::vector<std::string>());
  ASSERT_EQ(ValidatePretrain(job), std::vector<std::string>());
  Experiment experiment(job);
  experiment.Run();
  const auto count = static_cast<int>(experiment.table().parameters().size());
  std::vector<std::vector<float>> gradients;
  for (int i = 0; i < count; ++i) gradients.push_back(Copy(experiment.access().GradientOf(i)));
  const std::vector<float> dimage = experiment.dimage();
  for (int i = 0; i < count; ++i) {
    ExpectSlope(experiment.table().parameters()[i].name, experiment, experiment.access().Value(i),
                gradients[i]);
  }
  if (!job.pretrain.on()) ExpectSlope("image", experiment, experiment.image(), dimage);
}

// Rounding to bfloat16 changes the loss and the gradients by no more than a little of them.
void ExpectBFloat16(const JobConfig& job) {
  Experiment experiment(job);
  const double loss = experiment.Run();
  const auto count = static_cast<int>(experiment.table().parameters().size());
  std::vector<std::vector<float>> gradients;
  for (int i = 0; i < count; ++i) gradients.push_back(Copy(experiment.access().GradientOf(i)));
  EXPECT_NEAR(experiment.Run(DType::kBF16) / loss, 1, 0.02);
  double difference = 0, length = 0;
  for (int i = 0; i < count; ++i) {
    const std::span<const float> rounded = experiment.access().GradientOf(i);
    for (size_t j = 0; j < rounded.size(); ++j) {
      difference += std::pow(rounded[j] - gradients[i][j], 2);
      length += std::pow(gradients[i][j], 2);
    }
  }
  EXPECT_LT(std::sqrt(difference / length), 0.15);
}

JobConfig SwinJob(Architecture arch, PretrainConfig::Method method) {
  JobConfig job;
  job.model.arch = arch;
  job.model.image_h = 24;
  job.model.image_w = 32;
  job.model.num_classes = 5;
  job.model.patch_size = 2;
  job.model.embed_dim = 16;
  job.model.depths = {2, 2};
  job.model.num_heads = {2, 4};
  job.model.window_size = 4;
  job.model.mlp_ratio = 2;
  job.model.drop_path_rate = 0;
  job.pretrain.method = method;
  job.pretrain.mask_ratio = 0.6;
  job.pretrain.mask_unit = 4;
  job.pretrain.decoder_dim = 12;
  job.pretrain.decoder_depth = 1;
  job.pretrain.decoder_heads = 3;
  return job;
}

JobConfig VitJob(PretrainConfig::Method method) {
  JobConfig job = SwinJob(Architecture::kVit, method);
  job.model.depths = {2};
  job.model.num_heads = {2};
  job.model.patch_size = 8;
  job.model.patch_norm = false;
  return job;
}

constexpr auto kSimMim = PretrainConfig::Method::kSimMim;
constexpr auto kMae = PretrainConfig::Method::kMae;
constexpr auto kGreenMim = PretrainConfig::Method::kGreenMim;
constexpr auto kNone = PretrainConfig::Method::kNone;

TEST(SimMimGradient, V1) { ExpectGradients(SwinJob(Architecture::kSwinV1, kSimMim)); }

TEST(SimMimGradient, V2WithNormalisedTargetsAndPositions) {
  JobConfig job = SwinJob(Architecture::kSwinV2, kSimMim);
  job.model.ape = true;
  job.model.in_chans = 1;
  job.pretrain.mask_unit = 8;
  job.pretrain.norm_target = true;
  job.pretrain.norm_target_window = 5;
  ExpectGradients(job);
}

TEST(MaeGradient, Plain) { ExpectGradients(VitJob(kMae)); }

TEST(MaeGradient, NormalisedTargets) {
  JobConfig job = VitJob(kMae);
  job.pretrain.norm_target = true;
  job.model.qkv_bias = false;
  ExpectGradients(job);
}

TEST(GreenMimGradient, V1) {
  JobConfig job = SwinJob(Architecture::kSwinV1, kGreenMim);
  job.pretrain.norm_target = true;
  ExpectGradients(job);
}

TEST(GreenMimGradient, V2WithPositionsAndUnitsOfSeveralTokens) {
  JobConfig job = SwinJob(Architecture::kSwinV2, kGreenMim);
  job.model.ape = true;
  job.model.extra_norm_period = 2;
  job.pretrain.mask_unit = 8;
  job.pretrain.group_size = 20;
  ExpectGradients(job);
}

TEST(VitClassifierGradient, Plain) { ExpectGradients(VitJob(kNone)); }

TEST(MaskedModels, BFloat16) {
  ExpectBFloat16(SwinJob(Architecture::kSwinV2, kSimMim));
  ExpectBFloat16(VitJob(kMae));
  ExpectBFloat16(VitJob(kNone));
  JobConfig green = SwinJob(Architecture::kSwinV1, kGreenMim);
  green.model.ape = true;
  ExpectBFloat16(green);
}

// What is computed again in backward, and how attention is cut into pieces, changes nothing.
TEST(MaskedModels, CheckpointingAndSequentialAttention) {
  for (JobConfig job :
       {SwinJob(Architecture::kSwinV2, kSimMim), VitJob(kMae), VitJob(kNone),
        SwinJob(Architecture::kSwinV1, kGreenMim), SwinJob(Architecture::kSwinV2, kGreenMim)}) {
    const size_t stages = job.model.depths.size();
    Experiment plain(job);
    const double loss = plain.Run();
    using Checkpointing = MemoryConfig::Checkpointing;
    for (const auto checkpointing : {Checkpointing::kSelective, Checkpointing::kBlock}) {
      job.memory.checkpointing.assign(stages, checkpointing);
      if (job.pretrain.method != kGreenMim) job.memory.sequential_windows.assign(stages, 1);
      Experiment again(job);
      EXPECT_NEAR(again.Run(), loss, 1e-5 * loss);
      for (int i = 0; i < static_cast<int>(plain.table().parameters().size()); ++i) {
        const std::vector<float> expected = Copy(plain.access().GradientOf(i));
        const std::span<const float> got = again.access().GradientOf(i);
        float largest = 0;
        for (const float x : expected) largest = std::max(largest, std::abs(x));
        for (size_t j = 0; j < expected.size(); ++j) {
          ASSERT_NEAR(got[j], expected[j], 1e-4 * largest) << plain.table().parameters()[i].name;
        }
      }
    }
  }
}

// Memory is planned once, without a mask.
TEST(GreenMim, EveryMaskFitsIntoThePlan) {
  for (const int64_t group_size : {0, 1, 30}) {
    for (const int threads : {1, 3}) {
      JobConfig job = SwinJob(Architecture::kSwinV2, kGreenMim);
      job.model.image_w = 48;
      job.pretrain.group_size = group_size;
      Experiment experiment(job, threads);
      for (uint64_t mask = 0; mask < 8; ++mask) {
        experiment.NewMask(mask);
        EXPECT_TRUE(std::isfinite(experiment.Run()));
      }
    }
  }
}

// Runs one of the encoders without gradients.
std::vector<float> EncoderOutput(
    const ParameterTable& table, LocalParameters& access,
    const std::function<TensorView(Arena& activations, Context& context)>& forward) {
  Arena dry_activations = Arena::DryRun("activations"), dry_workspace = Arena::DryRun("workspace");
  Context dry{.ops = &DryRunOps(), .workspace = &dry_workspace, .threads = 1};
  forward(dry_activations, dry);
  Arena activations = Arena::OnHost("activations", dry_activations.high_water());
  Arena workspace = Arena::OnHost("workspace", dry_workspace.high_water());
  Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 1};
  return Copy(forward(activations, context).span());
}

// With nothing masked, GreenMIM's encoder is the Swin Transformer. Its tokens come unit by unit;
// the last stage's are units here, in raster order.
TEST(GreenEncoder, IsSwinWhereNothingIsMasked) {
  for (const Architecture arch : {Architecture::kSwinV1, Architecture::kSwinV2}) {
    for (const int64_t window : {4, 5, 7}) {
      JobConfig job = SwinJob(arch, kGreenMim);
      job.model.image_h = job.model.image_w = 40;
      job.model.window_size = window;
      job.model.ape = true;
      job.pretrain.mask_ratio = 0;
      ParameterTable swin_table, green_table;
      SwinEncoder swin(job.model, job.memory, "", /*mask_token=*/false, &swin_table);
      GreenEncoder green(job.model, job.pretrain, job.memory, "", &green_table);
      LocalParameters swin_access(swin_table, false), green_access(green_table, false);
      Numbers numbers;
      FillParameters(swin_table, &numbers, &swin_access);
      ASSERT_EQ(swin_table.parameters().size(), green_table.parameters().size());
      for (int i = 0; i < static_cast<int>(swin_table.parameters().size()); ++i) {
        std::ranges::copy(swin_access.Value(swin_table.Find(green_table.parameters()[i].name)),
                          green_access.Value(i).begin());
      }
      std::vector<float> image(job.model.ImageShape(kPictures).NumElements());
      for (float& x : image) x = numbers.Next();
      std::vector<int32_t> mask(
          MaskShape(MaskConfigFor(job.model, job.pretrain), kPictures).NumElements());
      const ModelInput input = {ViewOf(image.data(), job.model.ImageShape(kPictures)),
                                ViewOf(mask.data(), {1, static_cast<int64_t>(mask.size())})};
      const ForwardOptions options;
      const auto run = [&](auto& encoder, const ParameterTable& table, LocalParameters& access) {
        return EncoderOutput(table, access, [&](Arena& activations, Context& context) {
          return encoder.Forward(input, options, access, activations, context);
        });
      };
      const std::vector<float> expected = run(swin, swin_table, swin_access);
      const std::vector<float> got = run(green, green_table, green_access);
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], 2e-5) << ArchitectureName(arch) << " " << window;
      }
    }
  }
}

// The mean over pictures is the official loss, whatever the units' number.
TEST(MaskedObjective, LossOfAConstantError) {
  for (const auto method : {kSimMim, kMae, kGreenMim}) {
    JobConfig job = method == kMae ? VitJob(method) : SwinJob(Architecture::kSwinV1, method);
    job.pretrain.mask_unit = 8;
    const auto model = MakeModel(job.model, job.pretrain, job.memory);
    const auto objective = MakeObjective(job, /*training=*/true);
    const Shape output_shape = model->OutputShape(kPictures);
    std::vector<float> output(output_shape.NumElements(), 3.0f), doutput(output.size());
    Batch batch;
    batch.pictures = kPictures;
    batch.image.assign(job.model.ImageShape(kPictures).NumElements(), 1.0f);
    batch.mask.assign(MaskShape(MaskConfigFor(job.model, job.pretrain), kPictures).NumElements(),
                      0);
    batch.mask[0] = batch.mask[3] = 1;
    Arena activations = Arena::OnHost("activations", 1 << 20);
    Arena workspace = Arena::OnHost("workspace", 1 << 20);
    Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 1};
    const double loss = objective->Compute(
        batch, InputOf(batch, job, activations, context), ViewOf(output.data(), output_shape),
        ViewOf(doutput.data(), output_shape), 0.5f, activations, context);
    const double official = method == kSimMim ? 2 : 4;
    EXPECT_NEAR(loss / kPictures, official, 1e-5);
    // Moving every prediction by one: half the pictures' sum by twice, or once, the difference.
    const double moved = std::accumulate(doutput.begin(), doutput.end(), 0.0);
    EXPECT_NEAR(moved, 0.5 * kPictures * (method == kSimMim ? 1 : 4), 1e-5);
  }
}

TEST(VitClassifier, StartsWithMaesPositions) {
  JobConfig job = VitJob(kNone);
  const auto model = MakeModel(job.model, job.pretrain, job.memory);
  const ParameterTable& table = model->parameters();
  const int positions = table.Find("pos_embed");
  ASSERT_GE(positions, 0);
  const ParameterInfo& info = table.parameters()[positions];
  EXPECT_EQ(info.shape, Shape({1, 13, 16}));
  std::vector<float> values(table.units()[info.unit].padded_size);
  InitializeUnit(table, info.unit, 1, values);
  const auto at = [&](int64_t token, int64_t c) { return values[info.offset + token * 16 + c]; };
  for (int64_t c = 0; c < 16; ++c) EXPECT_EQ(at(0, c), 0);
  // The third patch of the second row: its column, 2, and its row, 1.
  EXPECT_FLOAT_EQ(at(7, 0), std::sin(2.0));
  EXPECT_FLOAT_EQ(at(7, 4), std::cos(2.0));
  EXPECT_FLOAT_EQ(at(7, 8), std::sin(1.0));
  EXPECT_FLOAT_EQ(at(7, 9), std::sin(0.1));
  for (const char* name : {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight",
                           "fc_norm.weight", "head.weight"}) {
    EXPECT_GE(table.Find(name), 0) << name;
  }
}

// The names of an encoder in pre-training are those of the classifier, after their prefix.
TEST(MaskedModels, EncodersHaveTheClassifiersNames) {
  for (const auto method : {kSimMim, kMae, kGreenMim}) {
    JobConfig job = method == kMae ? VitJob(method) : SwinJob(Architecture::kSwinV2, method);
    const std::string prefix = method == kMae ? "" : "encoder.";
    const auto pretrained = MakeModel(job.model, job.pretrain, job.memory);
    const auto classifier = MakeModel(job.model, PretrainConfig(), job.memory);
    for (const ParameterInfo& info : classifier->parameters().parameters()) {
      if (info.name.starts_with("head") || info.name.starts_with("fc_norm") ||
          info.name == "pos_embed") {
        continue;
      }
      const int found = pretrained->parameters().Find(prefix + info.name);
      ASSERT_GE(found, 0) << info.name;
      EXPECT_EQ(pretrained->parameters().parameters()[found].shape, info.shape) << info.name;
    }
  }
}

}  // namespace
}  // namespace swinfleet
