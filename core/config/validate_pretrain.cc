// What can be known to be wrong with pre-training by masked image modelling.
#include <algorithm>

#include "core/config/errors.h"
#include "core/config/names.h"
#include "core/data/mask.h"

namespace swinfleet {
namespace {

using Method = PretrainConfig::Method;

constexpr int64_t kMaxDecoderDim = 65536;

// Units that fit both the model's grain and the picture, nearest to what was asked for.
std::string UnitAdvice(const ModelConfig& model, int64_t grain, int64_t wanted) {
  std::vector<int64_t> units;
  for (int64_t unit = grain; unit <= std::min(model.image_h, model.image_w); unit += grain) {
    const bool fits = model.image_h % unit == 0 && model.image_w % unit == 0;
    if (fits && model.image_h * model.image_w > unit * unit) units.push_back(unit);
  }
  if (units.empty()) return "no unit works with this picture";
  std::stable_sort(units.begin(), units.end(), [&](int64_t a, int64_t b) {
    return std::abs(a - wanted) < std::abs(b - wanted);
  });
  units.resize(std::min<size_t>(units.size(), 4));
  std::sort(units.begin(), units.end());
  return "with this picture " + Join(units) + (units.size() == 1 ? " works" : " work");
}

bool CheckUnit(const JobConfig& job, Errors& errors) {
  const ModelConfig& model = job.model;
  const int64_t unit = job.pretrain.mask_unit;
  // MAE masks patches. GreenMIM's units stay whole to the last stage.
  if (job.pretrain.method == Method::kMae) return true;
  const bool green = job.pretrain.method == Method::kGreenMim;
  const int64_t grain = green ? model.patch_size << (model.num_stages() - 1) : model.patch_size;
  if (unit >= grain && unit % grain == 0 && model.image_h % unit == 0 &&
      model.image_w % unit == 0) {
    return true;
  }
  errors.Add("pretrain.mask_unit is ", unit, "; it must be a multiple of ", grain,
             green ? " (model.patch_size times the mergings' reduction)" : " (model.patch_size)",
             " that divides model.image_size ", model.image_h, "x", model.image_w, ": ",
             UnitAdvice(model, grain, unit));
  return false;
}

void CheckRatio(const JobConfig& job, Errors& errors) {
  const PretrainConfig& pretrain = job.pretrain;
  if (!(pretrain.mask_ratio > 0 && pretrain.mask_ratio < 1)) {
    errors.Add("pretrain.mask_ratio is ", pretrain.mask_ratio,
               "; it must be above 0 and below 1, as 0.6 (SimMIM) or 0.75 (MAE, GreenMIM)");
    return;
  }
  const int64_t units = MaskConfigFor(job.model, pretrain).units();
  const int64_t masked = MaskedUnits(pretrain.method, units, pretrain.mask_ratio);
  if (masked >= 1 && masked < units) return;
  const std::string what = "pretrain.mask_ratio " + std::to_string(pretrain.mask_ratio) + " of " +
                           std::to_string(units) + (units == 1 ? " unit" : " units") +
                           " of a picture masks " + (masked == 0 ? "none" : "all");
  if (units == 1) {
    errors.Add(what, "; use a smaller pretrain.mask_unit or model.patch_size, or larger pictures");
  } else if (masked == 0) {
    errors.Add(what, "; from ", 1.0 / static_cast<double>(units), " on one is masked");
  } else {
    errors.Add(what, "; ", static_cast<double>(units - 1) / static_cast<double>(units),
               " leaves one, and smaller units leave more");
  }
}

void CheckDecoder(const PretrainConfig& pretrain, Errors& errors) {
  const size_t before = errors.size();
  errors.CheckRange("pretrain.decoder_dim", pretrain.decoder_dim, 4, kMaxDecoderDim);
  errors.CheckRange("pretrain.decoder_depth", pretrain.decoder_depth, 1, kMaxDepth);
  errors.CheckRange("pretrain.decoder_heads", pretrain.decoder_heads, 1, kMaxDecoderDim);
  if (errors.size() > before) return;
  if (pretrain.decoder_dim % 4 != 0) {
    errors.Add("pretrain.decoder_dim is ", pretrain.decoder_dim,
               "; the decoder's position embedding needs a multiple of 4, as ",
               (pretrain.decoder_dim + 3) / 4 * 4);
  }
  if (pretrain.decoder_dim % pretrain.decoder_heads != 0) {
    errors.Add("pretrain.decoder_heads is ", pretrain.decoder_heads,
               ", which does not divide pretrain.decoder_dim ", pretrain.decoder_dim, "; near it ",
               Join(NearDivisors(pretrain.decoder_dim, pretrain.decoder_heads)), " would");
  }
}

void CheckArchitecture(const JobConfig& job, Errors& errors) {
  const Architecture arch = job.model.arch;
  const char* method = NameIn(PretrainMethodNames(), job.pretrain.method);
  if (ValueIn(PretrainMethodNamesFor(arch), method)) return;
  errors.Add("pretrain.method ", method, " does not train ", ArchitectureName(arch), "; it trains ",
             job.pretrain.method == Method::kMae ? "vit" : "swin_v1 and swin_v2");
}

void CheckGreen(const JobConfig& job, Errors& errors) {
  errors.CheckRange("pretrain.group_size", job.pretrain.group_size, 0, kMaxWindow * kMaxWindow);
  const std::vector<int64_t>& windows = job.memory.sequential_windows;
  if (std::any_of(windows.begin(), windows.end(), [](int64_t count) { return count != 0; })) {
    errors.Add("memory.sequential_windows is not possible with pretrain.method greenmim, which",
               " packs windows into groups of its own; leave it out");
  }
}

}  // namespace

void CheckPretrain(const JobConfig& job, Errors& errors) {
  const PretrainConfig& pretrain = job.pretrain;
  if (!pretrain.on()) return;
  const size_t before = errors.size();
  CheckArchitecture(job, errors);
  // What follows divides the picture as this kind of model does.
  if (errors.size() > before) return;
  if (CheckUnit(job, errors)) CheckRatio(job, errors);
  if (pretrain.method == Method::kSimMim) {
    if (pretrain.norm_target &&
        (pretrain.norm_target_window < 3 || pretrain.norm_target_window % 2 == 0 ||
         pretrain.norm_target_window > kMaxImage)) {
      errors.Add("pretrain.norm_target_window is ", pretrain.norm_target_window,
                 "; it must be odd, from 3 to ", kMaxImage - 1);
    }
    return;
  }
  CheckDecoder(pretrain, errors);
  if (pretrain.norm_target && job.model.patch_size == 1 && job.model.in_chans == 1) {
    errors.Add(
        "pretrain.norm_target divides by the deviation of a patch, and with model.patch_size 1",
        " a patch is one value; leave it out or use larger patches");
  }
  if (pretrain.method == Method::kGreenMim) CheckGreen(job, errors);
}

std::vector<std::string> ValidatePretrain(const JobConfig& job) {
  Errors errors;
  CheckPretrain(job, errors);
  return errors.Take();
}

}  // namespace swinfleet
