#include "core/checkpoint/weight_matching.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "core/checkpoint/weight_description.h"
#include "core/checkpoint/weight_names.h"
#include "core/checkpoint/weight_transfer.h"
#include "core/config/errors.h"
#include "core/nn/sin_cos_positions.h"

namespace swinfleet {
namespace {

constexpr char kTable[] = ".attn.relative_position_bias_table";
constexpr char kIndex[] = ".attn.relative_position_index";
constexpr char kCoordinates[] = ".attn.relative_coords_table";
constexpr char kPositionMlp[] = ".attn.cpb_mlp.";
constexpr char kQkvBias[] = ".attn.qkv.bias";
constexpr char kQBias[] = ".attn.q_bias";
constexpr char kVBias[] = ".attn.v_bias";
constexpr char kKBias[] = ".attn.k_bias";
constexpr char kProjection[] = "patch_embed.proj.weight";
constexpr char kPositions[] = "absolute_pos_embed";
constexpr char kVitPositions[] = "pos_embed";

// The side of a square of so many entries; 0 if there is none.
int64_t SquareSide(int64_t entries) {
  const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(entries))));
  return side * side == entries ? side : 0;
}

std::string SizeText(MapSize size) {
  return std::to_string(size.height) + "x" + std::to_string(size.width);
}

// Shapes that differ in trailing ones hold the same numbers: a linear layer and a convolution of
// one pixel.
bool SameShape(const Shape& a, const Shape& b) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  for (int i = 0; i < longer.rank(); ++i) {
    if (longer[i] != (i < shorter.rank() ? shorter[i] : 1)) return false;
  }
  return true;
}

// The window whose size Swin V2's coordinates are divided by.
int64_t UnitWindow(const ModelConfig& model, int stage) {
  const int64_t pretrained = model.PretrainedWindow(stage);
  return pretrained > 0 ? pretrained : model.StageWindow(stage);
}

std::string WithoutEnding(const std::string& name, const std::string& ending) {
  return name.substr(0, name.size() - ending.size());
}

// Depth, height and width of a window of clips, in tokens.
using ClipWindow = std::array<int64_t, 3>;

std::string WindowText(const ClipWindow& window) {
  return std::to_string(window[0]) + "x" + std::to_string(window[1]) + "x" +
         std::to_string(window[2]);
}

// The windows, as high as wide, whose tables have so many rows.
std::vector<ClipWindow> WindowsOfTable(int64_t rows) {
  std::vector<ClipWindow> windows;
  for (int64_t side = 1; side <= kMaxWindow; ++side) {
    const int64_t area = (2 * side - 1) * (2 * side - 1);
    const int64_t offsets = rows / area, depth = (offsets + 1) / 2;
    if (rows % area == 0 && offsets % 2 == 1 && depth <= kMaxWindow) {
      windows.push_back({depth, side, side});
    }
  }
  return windows;
}

// What ResizeClipTable does.
std::string ClipTransferText(const ClipWindow& in, const ClipWindow& out) {
  const int64_t times = 2 * in[0] - 1, new_times = 2 * out[0] - 1;
  std::string text;
  if (in[1] != out[1] || in[2] != out[2]) {
    text = "bicubic, " + SizeText({2 * in[1] - 1, 2 * in[2] - 1}) + " to " +
           SizeText({2 * out[1] - 1, 2 * out[2] - 1});
  }
  if (times == new_times) {
    return text + " at each of " + std::to_string(times) + " offsets in time";
  }
  text += (text.empty() ? "" : ", ") + std::to_string(times) + " to " + std::to_string(new_times) +
          " offsets in time, ";
  return text + (times < new_times ? "the ends repeated" : "the middle ones");
}

class Matching {
 public:
  Matching(const WeightSource& source, const ParameterTable& table, const ImportOptions& options,
           ImportReport* report)
      : source_(source),
        tensors_(source.tensors()),
        table_(table),
        options_(options),
        report_(report),
        names_(tensors_),
        description_(DescribeWeights(tensors_)),
        used_(tensors_.size(), false),
        skip_used_(options.skip.size(), false),
        sources_(table.parameters().size()) {}

  std::vector<ParameterSource> Run() {
    IndexTensors();
    for (int i = 0; i < static_cast<int>(sources_.size()); ++i) MatchParameter(i);
    AccountForTheRest();
    for (size_t i = 0; i < options_.skip.size(); ++i) {
      if (!skip_used_[i]) report_->unused_skips.push_back(options_.skip[i]);
    }
    CompareCoordinates();
    CompareShrunkWindows();
    if (!report_->ok()) Advise();
    return std::move(sources_);
  }

 private:
  const std::string& NameOf(int parameter) const { return table_.parameters()[parameter].name; }
  const Shape& ShapeOf(int parameter) const { return table_.parameters()[parameter].shape; }
  bool inflates() const {
    return options_.model.is_video() && description_.arch == Architecture::kSwinV1;
  }

  void IndexTensors();
  // The tensor of a common name, -1 if there is none; it counts as used.
  int Take(const std::string& common);
  bool Skips(const std::string& name, const std::string& common);
  std::vector<float> ReadAll(int tensor) const;
  void Transferred(int parameter, const std::string& how,
                   std::function<std::vector<float>()> compute);

  void MatchParameter(int parameter);
  void FitTensor(int parameter, const std::string& common, int tensor);
  bool FitTable(int parameter, const std::string& common, int tensor);
  bool FitClipTable(int parameter, const std::string& common, int tensor);
  // The windows that a table of clips may be of, by what the file says of them.
  std::vector<ClipWindow> ClipWindowsOf(int tensor, int stage) const;
  bool FitPositions(int parameter, const std::string& common, int tensor);
  bool FitProjection(int parameter, const std::string& common, int tensor);
  // A bias that the file holds in other pieces.
  bool Combine(int parameter, const std::string& common);
  bool SplitBias(int parameter, const std::string& block, bool value);
  // MAE's position embedding, which pre-training computes.
  bool ComputePositions(int parameter, const std::string& common);
  void AccountForTheRest();
  // Why a tensor that nothing asked for may be left out; empty: it may not.
  std::string ReasonToLeaveOut(const std::string& common) const;
  void CompareCoordinates();
  // Whether parameters that compute position biases from coordinates are read for a stage.
  bool ReadsPositionMlp(int stage) const;
  // The window that a stage's coordinates were trained in units of, as far as the file says.
  std::optional<int64_t> TrainedUnits(int stage);
  // As its relative_coords_tables say, which have to agree.
  std::optional<int64_t> UnitsOfTables(int stage);
  std::optional<int64_t> UnitsOfTable(int tensor) const;
  void CompareShrunkWindows();
  void Advise();
  // What init_skip would have to say.
  void AdviseSkips();
  // Patterns for the tensors that the model has no place for, one for each group of them.
  std::vector<std::string> PatternsWithoutPlace() const;

  const WeightSource& source_;
  const std::vector<WeightTensor>& tensors_;
  const ParameterTable& table_;
  const ImportOptions& options_;
  ImportReport* report_;
  const FileNames names_;
  const WeightsDescription description_;
  std::map<std::string, int> by_common_;
  std::vector<bool> used_;
  std::vector<bool> skip_used_;
  // Common names of unexpected tensors.
  std::vector<std::string> without_place_;
  // The file does not tell the window of one of its tables.
  bool window_unknown_ = false;
  std::vector<ParameterSource> sources_;
};

void Matching::IndexTensors() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const std::string& name = tensors_[i].name;
    if (IsBufferName(name)) {
      report_->left_out.push_back(name + ": computed");
      used_[i] = true;
      continue;
    }
    const std::string common = names_.Common(name);
    const auto [at, added] = by_common_.emplace(common, static_cast<int>(i));
    if (added) continue;
    report_->unexpected.push_back(name + ": stands for the same as " + tensors_[at->second].name);
    used_[i] = true;
  }
}

int Matching::Take(const std::string& common) {
  const auto found = by_common_.find(common);
  if (found == by_common_.end()) return -1;
  used_[found->second] = true;
  return found->second;
}

bool Matching::Skips(const std::string& name, const std::string& common) {
  bool skips = false;
  for (size_t i = 0; i < options_.skip.size(); ++i) {
    if (!MatchesPattern(name, options_.skip[i]) && !MatchesPattern(common, options_.skip[i])) {
      continue;
    }
    skip_used_[i] = skips = true;
  }
  return skips;
}

std::vector<float> Matching::ReadAll(int tensor) const {
  std::vector<float> values(tensors_[tensor].shape.NumElements());
  source_.Read(tensor, 0, values);
  return values;
}

void Matching::Transferred(int parameter, const std::string& how,
                           std::function<std::vector<float>()> compute) {
  sources_[parameter].compute = std::move(compute);
  report_->transferred.push_back(NameOf(parameter) + ": " + how);
}

void Matching::MatchParameter(int parameter) {
  const std::string& name = NameOf(parameter);
  const std::string common = CommonName(name);
  if (Skips(name, common)) {
    Take(common);
    sources_[parameter].skipped = true;
    report_->skipped.push_back(name);
    return;
  }
  if (const int tensor = Take(common); tensor >= 0) return FitTensor(parameter, common, tensor);
  if (Combine(parameter, common) || ComputePositions(parameter, common)) return;
  report_->missing.push_back(name);
}

void Matching::FitTensor(int parameter, const std::string& common, int tensor) {
  const WeightTensor& from = tensors_[tensor];
  if (from.name != NameOf(parameter)) report_->renamed.emplace_back(from.name, NameOf(parameter));
  if (from.dtype != "F32" && from.dtype != "BF16" && from.dtype != "F16") {
    report_->wrong_dtypes.push_back(from.name + ": " + from.dtype);
    return;
  }
  if (FitTable(parameter, common, tensor) || FitClipTable(parameter, common, tensor) ||
      FitPositions(parameter, common, tensor) || FitProjection(parameter, common, tensor)) {
    return;
  }
  if (!SameShape(from.shape, ShapeOf(parameter))) {
    report_->shape_mismatches.push_back(from.name + ": " + from.shape.ToString() +
                                        " in the file, " + ShapeOf(parameter).ToString() +
                                        " in the model");
    return;
  }
  sources_[parameter].tensor = tensor;
  report_->matched.push_back(NameOf(parameter));
}

// The official load_pretrained, for weights of SimMIM remap_pretrained_keys_swin, for clips
// inflate_weights.
bool Matching::FitTable(int parameter, const std::string& common, int tensor) {
  const std::optional<int> stage = StageOf(common);
  const Shape &from = tensors_[tensor].shape, &to = ShapeOf(parameter);
  if (!common.ends_with(kTable) || !stage || *stage >= options_.model.num_stages() ||
      from.rank() != 2 || from[1] != to[1] || description_.arch == Architecture::kVideoSwin) {
    return false;
  }
  const int64_t side = SquareSide(from[0]), heads = to[1];
  if (side % 2 == 0) return false;
  const std::array<int64_t, 3> window = options_.model.TableWindow(*stage);
  const MapSize in = {side, side}, out = {2 * window[1] - 1, 2 * window[2] - 1};
  const int64_t copies = 2 * window[0] - 1;
  if (copies * out.entries() != to[0] || (in == out && !inflates())) return false;
  const bool geometric = names_.pretrained_swin() && !inflates() && !(in == out);
  constexpr int64_t kSmallestGeometric = 5;
  if (geometric && side < kSmallestGeometric) return false;
  const auto compute = [this, tensor, in, out, heads, copies, geometric] {
    std::vector<float> values = ReadAll(tensor);
    if (geometric) {
      values = ResizeGeometric(values, in.height, out.height, heads);
    } else if (!(in == out)) {
      values = ResizeBicubic(values, in, out, heads);
    }
    return copies > 1 ? RepeatTable(values, copies) : values;
  };
  const std::string resized = SizeText(in) + " to " + SizeText(out);
  if (!inflates()) {
    Transferred(parameter,
                (geometric ? "cubic spline in geometric steps, " : "bicubic, ") + resized, compute);
    return true;
  }
  sources_[parameter].compute = compute;
  report_->inflated.push_back(NameOf(parameter) + ": " +
                              (in == out ? "" : "bicubic, " + resized + ", ") + "repeated " +
                              std::to_string(copies) + " times");
  return true;
}

bool Matching::FitClipTable(int parameter, const std::string& common, int tensor) {
  const std::optional<int> stage = StageOf(common);
  const Shape &from = tensors_[tensor].shape, &to = ShapeOf(parameter);
  if (!common.ends_with(kTable) || !stage || *stage >= options_.model.num_stages() ||
      !options_.model.is_video() || description_.arch != Architecture::kVideoSwin ||
      from.rank() != 2 || from[1] != to[1]) {
    return false;
  }
  const std::vector<ClipWindow> windows = ClipWindowsOf(tensor, *stage);
  const ClipWindow out = options_.model.TableWindow(*stage);
  if (windows.empty() || std::find(windows.begin(), windows.end(), out) != windows.end()) {
    return false;
  }
  if (windows.size() > 1) {
    window_unknown_ = true;
    std::string text;
    for (const ClipWindow& window : windows) {
      text += (text.empty() ? "" : " or ") + WindowText(window);
    }
    report_->shape_mismatches.push_back(tensors_[tensor].name + ": " + from.ToString() +
                                        " in the file, of windows of " + text + "; the model's " +
                                        "windows are " + WindowText(out));
    return true;
  }
  const ClipWindow in = windows.front();
  Transferred(parameter, ClipTransferText(in, out), [this, tensor, in, out, heads = to[1]] {
    return ResizeClipTable(ReadAll(tensor), in, out, heads);
  });
  return true;
}

std::vector<ClipWindow> Matching::ClipWindowsOf(int tensor, int stage) const {
  std::vector<ClipWindow> windows = WindowsOfTable(tensors_[tensor].shape[0]);
  if (options_.source_model && options_.source_model->is_video() &&
      stage < options_.source_model->num_stages()) {
    const ClipWindow said = options_.source_model->TableWindow(stage);
    std::erase_if(windows, [&](const ClipWindow& window) { return window != said; });
  }
  // The official code's index has a row and a column for each token of the window.
  const std::string index = WithoutEnding(tensors_[tensor].name, kTable) + kIndex;
  for (const WeightTensor& other : tensors_) {
    if (other.name != index || other.shape.rank() != 2) continue;
    std::erase_if(windows, [&](const ClipWindow& window) {
      return window[0] * window[1] * window[2] != other.shape[0];
    });
  }
  return windows;
}

// The official load_pretrained, and MAE's interpolate_pos_embed, which keeps the class token's.
bool Matching::FitPositions(int parameter, const std::string& common, int tensor) {
  const bool vit = common == kVitPositions;
  if (common != kPositions && !vit) return false;
  const Shape &from = tensors_[tensor].shape, &to = ShapeOf(parameter);
  if (from.rank() != 3 || to.rank() != 3 || from[0] != 1 || from[2] != to[2]) return false;
  const ModelConfig& model = options_.model;
  const MapSize out = {model.StageH(0), model.StageW(0)};
  const int64_t extra = to[1] - out.entries();
  if (extra < 0 || from[1] <= extra) return false;
  const int64_t side = SquareSide(from[1] - extra);
  MapSize in = from[1] == to[1] ? out : MapSize{side, side};
  if (options_.source_model) {
    const MapSize said = {options_.source_model->StageH(0), options_.source_model->StageW(0)};
    if (said.entries() == from[1] - extra) in = said;
  }
  if (in == out || in.height == 0) return false;
  const int64_t channels = to[2];
  Transferred(parameter, "bicubic, " + SizeText(in) + " to " + SizeText(out),
              [this, tensor, in, out, channels, extra] {
                std::vector<float> values = ReadAll(tensor);
                const auto body = values.begin() + extra * channels;
                const std::vector<float> resized =
                    ResizeBicubic(std::span<const float>(body, values.end()), in, out, channels);
                values.resize(extra * channels);
                values.insert(values.end(), resized.begin(), resized.end());
                return values;
              });
  return true;
}

bool Matching::FitProjection(int parameter, const std::string& common, int tensor) {
  const Shape &from = tensors_[tensor].shape, &to = ShapeOf(parameter);
  if (common != kProjection || !inflates() || from.rank() != 4 || to.rank() != 5 ||
      from[0] != to[0] || from[1] != to[1] || from[2] != to[3] || from[3] != to[4]) {
    return false;
  }
  const int64_t rows = to[0] * to[1], frames = to[2];
  sources_[parameter].compute = [this, tensor, rows, frames] {
    return InflateProjection(ReadAll(tensor), rows, frames);
  };
  report_->inflated.push_back(NameOf(parameter) + ": repeated over " + std::to_string(frames) +
                              " frames and divided by them");
  return true;
}

bool Matching::Combine(int parameter, const std::string& common) {
  if (common.ends_with(kQBias)) {
    return SplitBias(parameter, WithoutEnding(common, kQBias), /*value=*/false);
  }
  if (common.ends_with(kVBias)) {
    return SplitBias(parameter, WithoutEnding(common, kVBias), /*value=*/true);
  }
  if (!common.ends_with(kQkvBias)) return false;
  const std::string block = WithoutEnding(common, kQkvBias);
  const int q = Take(block + kQBias), v = Take(block + kVBias), k = Take(block + kKBias);
  const int64_t channels = ShapeOf(parameter)[0] / 3;
  if (q < 0 || v < 0 || !(tensors_[q].shape == Shape{channels}) ||
      !(tensors_[v].shape == Shape{channels}) ||
      (k >= 0 && !(tensors_[k].shape == Shape{channels}))) {
    return false;
  }
  Transferred(parameter, "q_bias, " + std::string(k < 0 ? "zeros" : "k_bias") + " and v_bias",
              [this, q, k, v, channels] {
                std::vector<float> values = ReadAll(q);
                const std::vector<float> keys =
                    k < 0 ? std::vector<float>(channels, 0.0f) : ReadAll(k);
                const std::vector<float> last = ReadAll(v);
                values.insert(values.end(), keys.begin(), keys.end());
                values.insert(values.end(), last.begin(), last.end());
                return values;
              });
  return true;
}

// A third of qkv.bias. A bias of keys has no place in Swin V2, so it has to be zero.
bool Matching::SplitBias(int parameter, const std::string& block, bool value) {
  const int tensor = Take(block + kQkvBias);
  const int64_t channels = ShapeOf(parameter)[0];
  if (tensor < 0 || !(tensors_[tensor].shape == Shape{3 * channels})) return false;
  Transferred(parameter, value ? "the last third of qkv.bias" : "the first third of qkv.bias",
              [this, tensor, channels, value] {
                const std::vector<float> all = ReadAll(tensor);
                const auto keys = all.begin() + channels, values = keys + channels;
                if (std::any_of(keys, values, [](float x) { return x != 0; })) {
                  throw Error("cannot import the weights of " + report_->file + ": " +
                              tensors_[tensor].name +
                              " has a bias of keys, which Swin V2 lacks; "
                              "the file holds another model");
                }
                return value ? std::vector<float>(values, all.end())
                             : std::vector<float>(all.begin(), keys);
              });
  return true;
}

bool Matching::ComputePositions(int parameter, const std::string& common) {
  const Shape& to = ShapeOf(parameter);
  if (common != kVitPositions || !names_.pretrained() || to.rank() != 3 || to[2] % 4 != 0) {
    return false;
  }
  const ModelConfig& model = options_.model;
  const ModelConfig& from = options_.source_model ? *options_.source_model : model;
  const MapSize in = {from.StageH(0), from.StageW(0)}, out = {model.StageH(0), model.StageW(0)};
  const int64_t channels = to[2], extra = to[1] - out.entries();
  if (extra != 0 && extra != 1) return false;
  Transferred(parameter,
              "sines and cosines, as in pre-training" +
                  (in == out ? "" : ", bicubic, " + SizeText(in) + " to " + SizeText(out)),
              [in, out, channels, extra] {
                std::vector<float> values =
                    SinCosPositions(channels, in.height, in.width, extra == 1);
                if (in == out) return values;
                const auto body = values.begin() + extra * channels;
                const std::vector<float> resized =
                    ResizeBicubic(std::span<const float>(body, values.end()), in, out, channels);
                values.resize(extra * channels);
                values.insert(values.end(), resized.begin(), resized.end());
                return values;
              });
  return true;
}

std::string Matching::ReasonToLeaveOut(const std::string& common) const {
  const bool classifies =
      table_.Find("head.weight") >= 0 || table_.Find("cls_head.fc_cls.weight") >= 0;
  if (names_.pretrained() && classifies && IsPretrainingPart(common)) return "of pre-training";
  // MAE's embeddings are fixed, and computed by models that have no parameter for them.
  if (common == kVitPositions || common == "decoder_pos_embed") {
    return names_.pretrained() && options_.model.arch == Architecture::kVit ? "computed" : "";
  }
  if (inflates() && common.starts_with("head.")) return "the classifier of pictures";
  // MAE's fine-tuning normalises the mean of the tokens, pre-training the tokens. The published
  // encoders come without a decoder.
  const bool encoder = names_.pretrained() || (description_.arch == Architecture::kVit &&
                                               !by_common_.contains("head.weight") &&
                                               !by_common_.contains("fc_norm.weight"));
  if (encoder && common.starts_with("norm.") && table_.Find("fc_norm.weight") >= 0) {
    return "of pre-training";
  }
  return "";
}

void Matching::AccountForTheRest() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (used_[i]) continue;
    const std::string& name = tensors_[i].name;
    const std::string common = names_.Common(name);
    const std::string reason = ReasonToLeaveOut(common);
    // Also what would be left out by itself may be named.
    if (Skips(name, common)) {
      report_->skipped.push_back(name + " (in the file)");
    } else if (!reason.empty()) {
      report_->left_out.push_back(name + ": " + reason);
    } else {
      report_->unexpected.push_back(name);
      without_place_.push_back(common);
    }
  }
}

// Nothing of Swin V2's position bias is resized, but its coordinates have to be divided by the
// window that it was trained with. Else everything fits, and the model is another.
void Matching::CompareCoordinates() {
  const ModelConfig& model = options_.model;
  if (model.arch != Architecture::kSwinV2) return;
  bool differs = false, unknown = false;
  std::string trained_sizes, sizes;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t own = UnitWindow(model, stage);
    // A window of one token has a single offset, in whatever units.
    const bool counts = model.StageWindow(stage) > 1 && ReadsPositionMlp(stage);
    const std::optional<int64_t> trained = counts ? TrainedUnits(stage) : own;
    unknown |= !trained;
    const bool other = trained && *trained > 1 && *trained != own;
    if (other) {
      report_->other_units.push_back("stage " + std::to_string(stage) + ": of window " +
                                     std::to_string(*trained) + " in the file, of window " +
                                     std::to_string(own) + " in the model");
    }
    differs |= other;
    const auto listed = [](int64_t window) { return std::to_string(window < 2 ? 0 : window); };
    trained_sizes += (stage > 0 ? ", " : "") + listed(other ? *trained : own);
    sizes += (stage > 0 ? ", " : "") + std::to_string(own);
  }
  if (differs) {
    report_->advice.push_back(
        "to keep the position biases as they were trained: model.pretrained_window_sizes: [" +
        trained_sizes +
        "]; for eval and predict, --model as the weights were trained and --window for another "
        "window");
  } else if (unknown && report_->other_units.empty()) {
    report_->notes.push_back(
        "the file does not say which windows its position biases were trained in units of; the "
        "model's are [" +
        sizes + "], which model.pretrained_window_sizes changes");
  }
}

bool Matching::ReadsPositionMlp(int stage) const {
  for (size_t i = 0; i < sources_.size(); ++i) {
    const std::string common = CommonName(NameOf(static_cast<int>(i)));
    if (sources_[i].tensor >= 0 && StageOf(common) == stage &&
        common.find(kPositionMlp) != std::string::npos) {
      return true;
    }
  }
  return false;
}

std::optional<int64_t> Matching::TrainedUnits(int stage) {
  if (const std::optional<int64_t> said = UnitsOfTables(stage)) return said;
  const ModelConfig& model = options_.model;
  if (options_.source_model && options_.source_model->arch == model.arch &&
      options_.source_model->num_stages() == model.num_stages()) {
    return UnitWindow(*options_.source_model, stage);
  }
  // An index tells the window, but not whether the coordinates were in units of another one: who
  // sets that for the model knows better.
  if (model.PretrainedWindow(stage) > 0) return std::nullopt;
  for (const WeightTensor& tensor : tensors_) {
    const std::string common = names_.Common(tensor.name);
    if (!common.ends_with(kIndex) || StageOf(common) != stage || tensor.shape.rank() != 2) continue;
    if (const int64_t window = SquareSide(tensor.shape[0])) return window;
  }
  return std::nullopt;
}

std::optional<int64_t> Matching::UnitsOfTables(int stage) {
  std::optional<int64_t> units;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const std::string common = names_.Common(tensors_[i].name);
    if (!common.ends_with(kCoordinates) || StageOf(common) != stage) continue;
    const std::optional<int64_t> said = UnitsOfTable(static_cast<int>(i));
    if (!said) {
      report_->other_units.push_back(tensors_[i].name +
                                     ": no window gives these coordinates, so that its biases are "
                                     "those of another model");
    } else if (units && *units != *said) {
      report_->other_units.push_back(tensors_[i].name + ": of window " + std::to_string(*said) +
                                     ", in another block of the stage of window " +
                                     std::to_string(*units));
    } else {
      units = said;
    }
  }
  return units;
}

std::optional<int64_t> Matching::UnitsOfTable(int tensor) const {
  const Shape& shape = tensors_[tensor].shape;
  const int rank = shape.rank();
  if (rank < 3 || shape[rank - 1] != 2) return std::nullopt;
  const int64_t height = shape[rank - 3], width = shape[rank - 2];
  constexpr int64_t kMaxSide = 2 * kMaxWindow - 1;
  if (height % 2 == 0 || width % 2 == 0 || height > kMaxSide || width > kMaxSide ||
      shape.NumElements() != 2 * height * width) {
    return std::nullopt;
  }
  return WindowOfCoordinates(ReadAll(tensor), {(height + 1) / 2, (width + 1) / 2});
}

// Where the map is lower or narrower than the window, the official Video Swin numbers the window's
// tokens as if it were whole. So the entries of a table stand for other offsets there than on a map
// of another size.
void Matching::CompareShrunkWindows() {
  const ModelConfig& model = options_.model;
  if (!model.is_video()) return;
  const bool known = options_.source_model && options_.source_model->is_video() &&
                     options_.source_model->num_stages() == model.num_stages();
  const ModelConfig& from = known ? *options_.source_model : model;
  std::string stages;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const ClipWindow whole[] = {from.TableWindow(stage), model.TableWindow(stage)};
    const ClipWindow used[] = {from.Window(stage, false).size, model.Window(stage, false).size};
    bool shrunk = false, same = known;
    for (int axis = 1; axis < 3; ++axis) {
      shrunk |= used[0][axis] < whole[0][axis] || used[1][axis] < whole[1][axis];
      same &= used[0][axis] == used[1][axis] && whole[0][axis] == whole[1][axis];
    }
    if (shrunk && !same) stages += (stages.empty() ? "" : ", ") + std::to_string(stage);
  }
  if (stages.empty()) return;
  report_->notes.push_back(
      "a map that is lower or narrower than the window uses other entries of the table of position "
      "biases than a larger one (as in the official code), so that those of stage " +
      stages +
      " may not mean what they were trained for; a model.window_size that no stage's map "
      "is smaller than avoids that");
}

void Matching::AdviseSkips() {
  const auto lacks = [](const std::vector<std::string>& names, const std::string& start) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return CommonName(name).starts_with(start);
    });
  };
  // What the setting says already has to stay.
  std::vector<std::string> patterns;
  for (size_t i = 0; i < options_.skip.size(); ++i) {
    if (skip_used_[i]) patterns.push_back(options_.skip[i]);
  }
  std::string purpose;
  // What belongs to the classifier and is made anew for other classes.
  for (const std::string start : {"head.", "cls_head.", "fc_norm."}) {
    if (!lacks(report_->missing, start) && !lacks(report_->shape_mismatches, start)) continue;
    patterns.push_back(start + "*");
    purpose = "start with a new classifier";
  }
  for (const std::string& pattern : PatternsWithoutPlace()) {
    if (std::find(patterns.begin(), patterns.end(), pattern) != patterns.end()) continue;
    const std::string leave = "leave out what the model has no place for";
    if (!purpose.ends_with(leave)) purpose += (purpose.empty() ? "" : " and ") + leave;
    patterns.push_back(pattern);
  }
  if (!purpose.empty()) report_->advice.push_back("to " + purpose + ": " + InitSkipText(patterns));
}

std::vector<std::string> Matching::PatternsWithoutPlace() const {
  // Of another model it is better said which one.
  if (!description_.Fits(options_.model)) return {};
  const auto in_model = [this](const std::string& group) {
    return std::any_of(
        table_.parameters().begin(), table_.parameters().end(),
        [&](const ParameterInfo& info) { return CommonName(info.name).starts_with(group); });
  };
  std::vector<std::string> patterns;
  for (const std::string& common : without_place_) {
    // Without a part of its body the model would be another.
    if (StageOf(common) || common.starts_with("blocks.") || common.starts_with("patch_embed.") ||
        common == kPositions || common == kVitPositions) {
      continue;
    }
    const size_t dot = common.find('.');
    const std::string group = common.substr(0, dot == std::string::npos ? dot : dot + 1);
    const bool whole = dot == std::string::npos || in_model(group);
    const std::string pattern = whole ? common : group + "*";
    if (std::find(patterns.begin(), patterns.end(), pattern) == patterns.end()) {
      patterns.push_back(pattern);
    }
  }
  // A list that nobody would write helps nobody.
  constexpr size_t kMaxPatterns = 10;
  if (patterns.size() > kMaxPatterns) patterns.clear();
  return patterns;
}

void Matching::Advise() {
  AdviseSkips();
  if (window_unknown_) {
    report_->advice.push_back(
        "files tell their windows by a relative_position_index beside each table, as the official "
        "ones do, or by what swinfleet export writes into them; give such a file");
  }
  if (description_.Fits(options_.model)) return;
  report_->advice.push_back("the file holds " + description_.ToString() + "; the model is " +
                            DescribeModel(options_.model).ToString());
  const std::vector<std::string> presets = description_.FittingPresets();
  if (presets.empty()) return;
  std::string text = "presets that fit the file: ";
  for (size_t i = 0; i < presets.size(); ++i) text += (i > 0 ? ", " : "") + presets[i];
  report_->advice.push_back(text);
}

}  // namespace

std::vector<ParameterSource> MatchWeights(const WeightSource& source, const ParameterTable& table,
                                          const ImportOptions& options, ImportReport* report) {
  // The computations are kept beyond this call, so what they use is too.
  const auto matching = std::make_shared<Matching>(source, table, options, report);
  std::vector<ParameterSource> sources = matching->Run();
  for (ParameterSource& parameter : sources) {
    if (!parameter.compute) continue;
    parameter.compute = [matching, compute = std::move(parameter.compute)] { return compute(); };
  }
  return sources;
}

}  // namespace swinfleet
