#include "worker/ineffective_settings.h"

#include <algorithm>
#include <numeric>

#include "core/config/names.h"

namespace swinfleet {
namespace {

class Findings {
 public:
  // "KEY is set, and WHY; leave it out, or INSTEAD", when it is set in vain. An empty `instead`:
  // nothing else would work.
  void Check(bool in_vain, const std::string& key, const std::string& why,
             const std::string& instead) {
    if (!in_vain) return;
    messages_.push_back(key + " is set, and " + why + "; leave it out" +
                        (instead.empty() ? "" : ", or " + instead));
  }
  // The same for a setting that the job can't do without.
  void CheckNeeded(bool in_vain, const std::string& key, const std::string& why,
                   const std::string& instead) {
    if (in_vain) messages_.push_back(key + " is set, and " + why + "; " + instead);
  }
  std::vector<std::string> Take() { return std::move(messages_); }

 private:
  std::vector<std::string> messages_;
};

// For a valid model.
void CheckModel(const ModelSpec& spec, const JobConfig& job, Findings* findings) {
  const ModelConfig& model = job.model;
  const bool mae = job.pretrain.method == PretrainConfig::Method::kMae;
  findings->Check(spec.has_window_size() && model.arch == Architecture::kVit &&
                      model.window_size < std::max(model.StageH(0), model.StageW(0)),
                  "model.window_size", "vit attends to the whole picture",
                  mae ? "" : "use an architecture with windows");
  const auto deepest = std::max_element(model.depths.begin(), model.depths.end());
  findings->Check(spec.has_extra_norm_period() && model.extra_norm_period > 0 &&
                      model.extra_norm_period > *deepest,
                  "model.extra_norm_period", "no stage has that many blocks",
                  "use at most the largest of model.depths");
  const bool rate = spec.has_drop_path_rate() && model.drop_path_rate > 0;
  findings->Check(rate && mae, "model.drop_path_rate", "mae trains without drop path",
                  "set it to 0");
  // Rates grow from 0 at the first block.
  const auto blocks = std::accumulate(model.depths.begin(), model.depths.end(), int64_t{0});
  findings->Check(rate && !mae && blocks == 1, "model.drop_path_rate",
                  "the first block, here the only one, has none", "set it to 0");
}

void CheckMemory(const MemorySpec& spec, const JobConfig& job, Findings* findings) {
  // A window a picture: a group of less pictures than a batch has does hold memory down.
  const int64_t windows = std::max({job.train.micro_batch, job.train.eval_batch, int64_t{1}});
  const bool all = std::ranges::any_of(job.memory.sequential_windows,
                                       [&](int64_t group) { return group >= windows; });
  findings->Check(spec.sequential_windows_size() > 0 && job.model.arch == Architecture::kVit && all,
                  "memory.sequential_windows",
                  "vit has one window a picture, that is " + std::to_string(windows) +
                      " in the largest batch, which make one group",
                  windows > 1 ? "use at most " + std::to_string(windows - 1) : "");
}

void CheckData(const DataSpec& spec, const JobConfig& job, Findings* findings) {
  const DataConfig& data = job.data;
  const bool idx = data.format == "idx";
  const bool crops = !data.crop_scale.empty();
  const std::string as_they_are = "data.format idx takes pictures as they are";
  findings->Check(spec.has_interpolation() && idx && !crops, "data.interpolation",
                  as_they_are + " but for the crops of data.crop_scale", "set crop_scale");
  findings->Check(spec.has_interpolation() && !idx && !crops &&
                      data.interpolation == DataConfig::Interpolation::kRandom,
                  "data.interpolation", "random is for the crops of data.crop_scale alone",
                  "use bilinear or bicubic, or set crop_scale");
  // With crops in training, evaluation resamples as well.
  findings->Check(spec.has_eval_crop() && idx && !crops, "data.eval_crop",
                  as_they_are + " unless data.crop_scale has them resampled", "set crop_scale");
  findings->Check(spec.crop_ratio_size() > 0 && !crops, "data.crop_ratio",
                  "nothing is cropped without data.crop_scale", "set crop_scale, as [0.08, 1]");
  findings->Check(idx && data.broken_pictures == DataConfig::BrokenPictures::kReplace,
                  "data.broken_pictures",
                  "data.format idx has no pictures that could be broken alone", "set it to fail");
  findings->Check(spec.has_frame_interval() && (idx || data.format == "imagefolder"),
                  "data.frame_interval", "data.format " + data.format + " has no clips",
                  job.pretrain.on() ? "" : "use data.format frames and a video model");
}

// Where no batch is mixed.
void CheckNoMix(const MixSpec& spec, const JobConfig& job, Findings* findings) {
  const MixConfig& mix = job.train.mix;
  std::string why = "nothing is mixed without train.mix.mixup_alpha, cutmix_alpha or cutmix_minmax";
  std::string instead = "set one of these";
  if (job.pretrain.on()) {
    why = "train.mix is for classification";
    instead = "";
  } else if (mix.on()) {
    why = "with train.mix.probability 0 nothing is mixed";
    instead = "set probability above 0";
  }
  for (const auto& [key, set] :
       {std::pair("train.mix.mixup_alpha", mix.mixup_alpha > 0),
        {"train.mix.cutmix_alpha", mix.cutmix_alpha > 0},
        {"train.mix.cutmix_minmax", !mix.cutmix_minmax.empty()},
        {"train.mix.probability", spec.has_probability() && mix.probability != 0},
        {"train.mix.switch_probability", spec.has_switch_probability()},
        {"train.mix.mode", spec.has_mode()}}) {
    findings->Check(set, key, why, instead);
  }
}

void CheckMix(const MixSpec& spec, const JobConfig& job, Findings* findings) {
  const MixConfig& mix = job.train.mix;
  // Pre-training with something to mix is no valid job.
  if (mix.on() && job.pretrain.on()) return;
  if (!mix.on() || mix.probability == 0) return CheckNoMix(spec, job, findings);
  const bool minmax = !mix.cutmix_minmax.empty();
  const bool mixup = mix.mixup_alpha > 0, cutmix = mix.cutmix_alpha > 0 || minmax;
  findings->Check(mixup && cutmix && mix.switch_probability == 1, "train.mix.mixup_alpha",
                  "with train.mix.switch_probability 1 it is always cutmix that mixes",
                  "set switch_probability below 1");
  findings->Check(mixup && cutmix && mix.switch_probability == 0,
                  minmax ? "train.mix.cutmix_minmax" : "train.mix.cutmix_alpha",
                  "with train.mix.switch_probability 0 it is always mixup that mixes",
                  "set switch_probability above 0");
  findings->Check(spec.has_switch_probability() && cutmix && !mixup && mix.switch_probability != 1,
                  "train.mix.switch_probability", "of mixup and cutmix only cutmix is on",
                  "set mixup_alpha too");
  findings->Check(spec.has_switch_probability() && mixup && !cutmix && mix.switch_probability != 0,
                  "train.mix.switch_probability", "of mixup and cutmix only mixup is on",
                  "set cutmix_alpha too");
  // timm sets it to 1 itself then.
  findings->Check(spec.has_cutmix_alpha() && minmax && mix.cutmix_alpha != 1,
                  "train.mix.cutmix_alpha", "cutmix_minmax draws the box in its place",
                  "leave out cutmix_minmax");
}

// "use pretrain.method A or B": those of `methods` that train the job's model. Empty if none does.
std::string UseMethod(const JobConfig& job, const std::vector<PretrainConfig::Method>& methods) {
  std::string text;
  for (const auto& [name, method] : PretrainMethodNamesFor(job.model.arch)) {
    if (std::ranges::find(methods, method) == methods.end()) continue;
    text += (text.empty() ? "use pretrain.method " : " or ") + name;
  }
  return text;
}

void CheckPretrain(const PretrainSpec& spec, const JobConfig& job, Findings* findings) {
  using Method = PretrainConfig::Method;
  const PretrainConfig& pretrain = job.pretrain;
  if (!pretrain.on()) return;
  const std::string name = NameIn(PretrainMethodNames(), pretrain.method);
  const bool simmim = pretrain.method == Method::kSimMim;
  for (const auto& [key, set] : {std::pair("pretrain.decoder_dim", spec.has_decoder_dim()),
                                 {"pretrain.decoder_depth", spec.has_decoder_depth()},
                                 {"pretrain.decoder_heads", spec.has_decoder_heads()}}) {
    findings->Check(set && simmim, key, "the head of simmim is one layer",
                    UseMethod(job, {Method::kMae, Method::kGreenMim}));
  }
  findings->Check(pretrain.group_size != 0 && pretrain.method != Method::kGreenMim,
                  "pretrain.group_size", name + " forms no groups",
                  UseMethod(job, {Method::kGreenMim}));
  findings->Check(spec.has_mask_unit() && pretrain.method == Method::kMae &&
                      pretrain.mask_unit != job.model.patch_size,
                  "pretrain.mask_unit", "mae masks patches", "set model.patch_size");
  findings->Check(spec.has_norm_target_window() && !simmim, "pretrain.norm_target_window",
                  name + " normalises targets by the patch", UseMethod(job, {Method::kSimMim}));
  findings->Check(spec.has_norm_target_window() && simmim && !pretrain.norm_target,
                  "pretrain.norm_target_window", "targets are not normalised",
                  "set pretrain.norm_target to true");
}

void CheckOptimizer(const OptimizerSpec& spec, const OptimizerConfig& optimizer,
                    Findings* findings) {
  const bool sgd = optimizer.kind == OptimizerConfig::Kind::kSgd;
  findings->Check(spec.has_momentum() && !sgd, "train.optimizer.momentum", "adamw does not use it",
                  "use train.optimizer.name sgd");
  for (const auto& [key, set] : {std::pair("train.optimizer.beta1", spec.has_beta1()),
                                 {"train.optimizer.beta2", spec.has_beta2()},
                                 {"train.optimizer.eps", spec.has_eps()}}) {
    findings->Check(set && sgd, key, "sgd does not use it", "use train.optimizer.name adamw");
  }
}

void CheckWarmup(const ScheduleSpec& spec, const ScheduleConfig& schedule, Findings* findings) {
  using Kind = ScheduleConfig::Kind;
  const std::string name = NameIn(ScheduleNames(), schedule.kind);
  const bool warmup = schedule.warmup_epochs != 0;
  const std::string none = "there is no warm-up without train.schedule.warmup_epochs";
  findings->Check(spec.has_warmup_learning_rate() && !warmup, "train.schedule.warmup_learning_rate",
                  none, "set warmup_epochs");
  findings->Check(spec.has_warmup_learning_rate() && warmup && schedule.kind == Kind::kMaeCosine &&
                      schedule.warmup_learning_rate != 0,
                  "train.schedule.warmup_learning_rate", "the warm-up of mae_cosine starts at 0",
                  "use train.schedule.name cosine");
  findings->Check(spec.has_warmup_prefix() && !warmup, "train.schedule.warmup_prefix", none,
                  "set warmup_epochs");
  // Only cosine has both ways.
  const bool after = schedule.kind == Kind::kLinear || schedule.kind == Kind::kMaeCosine;
  findings->Check(spec.has_warmup_prefix() && warmup && schedule.kind != Kind::kCosine &&
                      schedule.warmup_prefix != after,
                  "train.schedule.warmup_prefix",
                  name + (after ? " always begins after the warm-up"
                                : " always counts its epochs from the first"),
                  "use train.schedule.name cosine");
}

// Of the schedules that decay at certain epochs, where none of these comes.
void CheckDecays(const ScheduleSpec& spec, const TrainConfig& train, Findings* findings) {
  using Kind = ScheduleConfig::Kind;
  const ScheduleConfig& schedule = train.schedule;
  if (train.epochs < 1) return;
  const auto epochs = static_cast<double>(train.epochs);
  const std::string end = "train.epochs " + std::to_string(train.epochs);
  const bool step = schedule.kind == Kind::kStep && schedule.decay_epochs >= epochs;
  findings->Check(step && spec.has_decay_epochs(), "train.schedule.decay_epochs",
                  end + " is no more, so that the rate never decays", "use less than train.epochs");
  findings->Check(
      step && !spec.has_decay_epochs() && spec.has_decay_rate(), "train.schedule.decay_rate",
      end + " is no more than train.schedule.decay_epochs, so that the rate never decays",
      "set decay_epochs below train.epochs");
  const bool multistep = schedule.kind == Kind::kMultistep && !schedule.multisteps.empty() &&
                         std::ranges::min(schedule.multisteps) >= epochs;
  findings->CheckNeeded(multistep, "train.schedule.multisteps",
                        end + " is no more than the first of them, so that the rate never decays",
                        "use epochs below train.epochs, or another train.schedule.name");
}

void CheckSchedule(const ScheduleSpec& spec, const ScheduleConfig& schedule, Findings* findings) {
  using Kind = ScheduleConfig::Kind;
  const Kind kind = schedule.kind;
  const bool cosine = kind == Kind::kCosine || kind == Kind::kMaeCosine;
  const bool steps = kind == Kind::kStep || kind == Kind::kMultistep;
  const std::string unused = std::string(NameIn(ScheduleNames(), kind)) + " does not use it";
  const std::string use = "use train.schedule.name ";
  findings->Check(spec.has_min_learning_rate() && !cosine, "train.schedule.min_learning_rate",
                  unused, use + "cosine or mae_cosine");
  findings->Check(spec.has_decay_epochs() && kind != Kind::kStep, "train.schedule.decay_epochs",
                  unused, use + "step");
  findings->Check(spec.multisteps_size() > 0 && kind != Kind::kMultistep,
                  "train.schedule.multisteps", unused, use + "multistep");
  findings->Check(spec.has_decay_rate() && !steps, "train.schedule.decay_rate", unused,
                  use + "step or multistep");
  CheckWarmup(spec, schedule, findings);
}

}  // namespace

std::vector<std::string> IneffectiveSettings(const JobSpec& spec, const JobConfig& config) {
  Findings findings;
  const TrainSpec& train = spec.train();
  // Nothing can be computed from sizes that are out of range.
  if (ValidateModel(config.model).empty()) CheckModel(spec.model(), config, &findings);
  CheckMemory(spec.memory(), config, &findings);
  CheckData(spec.data(), config, &findings);
  CheckPretrain(spec.pretrain(), config, &findings);
  findings.Check(
      train.has_label_smoothing() && config.train.label_smoothing != 0 && config.pretrain.on(),
      "train.label_smoothing", "pre-training takes no notice of labels", "set it to 0");
  findings.Check(
      spec.parallel().has_offload_dir() && config.parallel.offload != Offload::kDisk,
      "parallel.offload_dir",
      config.parallel.offload == Offload::kNone ? "nothing is offloaded" : "nothing is on disk",
      "set parallel.offload to disk");
  findings.Check(config.parallel.ranks == 1 && config.parallel.reduction == Reduction::kLibrary,
                 "parallel.reduction", "a single rank reduces nothing", "use more parallel.ranks");
  findings.Check(config.parallel.ranks == 1 && !config.parallel.overlap, "parallel.overlap",
                 "a single rank exchanges nothing", "use more parallel.ranks");
  CheckOptimizer(train.optimizer(), config.train.optimizer, &findings);
  CheckSchedule(train.schedule(), config.train.schedule, &findings);
  CheckDecays(train.schedule(), config.train, &findings);
  CheckMix(train.mix(), config, &findings);
  return findings.Take();
}

}  // namespace swinfleet
