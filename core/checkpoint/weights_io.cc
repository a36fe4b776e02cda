#include "core/checkpoint/weights_io.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

namespace swinfleet {
namespace {

constexpr char kParameterPrefix[] = "param/";
// Elements copied or checked at a time.
constexpr int64_t kChunk = int64_t{4} << 20;
// Names of each kind that a report shows.
constexpr size_t kMaxNames = 20;
// Registered as buffers by the official code.
constexpr const char* kBuffers[] = {"relative_coords_table", "relative_position_index",
                                    "attn_mask"};

bool IsBuffer(const std::string& name) {
  return std::any_of(std::begin(kBuffers), std::end(kBuffers), [&](const std::string& buffer) {
    return name == buffer || name.ends_with("." + buffer);
  });
}

// Calls visit(begin, part) for [0, elements) in parts of a bounded size.
template <typename Visit>
void ForEachChunk(int64_t elements, const Visit& visit) {
  std::vector<float> buffer(std::min(elements, kChunk));
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    visit(begin, std::span<float>(buffer).first(std::min(kChunk, elements - begin)));
  }
}

// "layers.2.downsample.norm.weight" as stage 2 and ".downsample.norm.weight".
std::optional<std::pair<int, std::string>> SplitDownsample(const std::string& name) {
  const std::string prefix = "layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  const size_t dot = name.find('.', prefix.size());
  if (dot == std::string::npos || dot == prefix.size() || dot > prefix.size() + 4) {
    return std::nullopt;
  }
  const std::string digits = name.substr(prefix.size(), dot - prefix.size());
  if (digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  const std::string rest = name.substr(dot);
  if (!rest.starts_with(".downsample.")) return std::nullopt;
  return std::pair(std::stoi(digits), rest);
}

// How the names of one file have to be read.
class Naming {
 public:
  Naming(const SafetensorsFile& file, const ParameterTable& table) {
    bool first_stage = false;
    for (const StoredTensor& tensor : file.tensors()) {
      const auto split = SplitDownsample(tensor.name);
      if (!split) continue;
      first_stage |= split->first == 0;
      // Only timm's newer layout has a downsample where the model has none.
      shifted_ |= table.Find(tensor.name) < 0 &&
                  table.Find("layers." + std::to_string(split->first - 1) + split->second) >= 0;
    }
    shifted_ &= !first_stage;
    for (const char* part : {"weight", "bias"}) {
      const std::string official = std::string("head.") + part;
      head_fc_ |= table.Find(official) >= 0 && file.Find(official) == nullptr &&
                  file.Find(std::string("head.fc.") + part) != nullptr;
    }
  }

  std::string Official(const std::string& name) const {
    const std::string fc = "head.fc.";
    if (head_fc_ && name.starts_with(fc)) return "head." + name.substr(fc.size());
    if (shifted_) {
      if (const auto split = SplitDownsample(name)) {
        return "layers." + std::to_string(split->first - 1) + split->second;
      }
    }
    return name;
  }

 private:
  bool shifted_ = false;
  bool head_fc_ = false;
};

void AppendNames(const std::string& title, const std::vector<std::string>& names,
                 std::string* text) {
  if (names.empty()) return;
  *text += "\n  " + title + " (" + std::to_string(names.size()) + "):";
  for (size_t i = 0; i < std::min(names.size(), kMaxNames); ++i) *text += "\n    " + names[i];
  if (names.size() > kMaxNames) {
    *text += "\n    and " + std::to_string(names.size() - kMaxNames) + " more";
  }
}

[[noreturn]] void ThrowReport(const ImportReport& report) {
  throw Error("cannot import the weights of " + report.file +
              ": they do not fit the model exactly\n" + report.ToString());
}

}  // namespace

ExportSummary ExportWeights(const CheckpointReader& checkpoint, const std::string& path,
                            FileOps& ops) {
  const std::string prefix = kParameterPrefix;
  std::vector<TensorSpec> specs;
  for (const auto& [name, shape] : checkpoint.tensors()) {
    if (name.starts_with(prefix)) specs.push_back({name.substr(prefix.size()), "F32", shape});
  }
  if (specs.empty()) throw Error(checkpoint.dir() + " holds no parameters to export");
  const CheckpointMeta& meta = checkpoint.meta();
  SafetensorsWriter writer(
      path, specs,
      {{"format", "pt"}, {"model_config", meta.model}, {"step", std::to_string(meta.step)}}, ops);
  ExportSummary summary;
  for (const TensorSpec& spec : specs) {
    const int64_t elements = spec.shape.NumElements();
    ForEachChunk(elements, [&](int64_t begin, std::span<float> part) {
      checkpoint.Read(prefix + spec.name, begin, part);
      writer.Write(spec.name, begin, part);
    });
    ++summary.tensors;
    summary.elements += elements;
  }
  writer.Finish();
  return summary;
}

std::string ImportReport::ToString() const {
  std::string text =
      "import of " + file + ": " + std::to_string(matched.size()) + " parameters matched";
  AppendNames("missing in the file", missing, &text);
  AppendNames("unknown to the model", unexpected, &text);
  AppendNames("of another shape", shape_mismatches, &text);
  AppendNames("of a dtype other than F32, BF16 and F16", wrong_dtypes, &text);
  AppendNames("with NaN or infinite values", non_finite, &text);
  AppendNames("tables that are computed, not read", ignored_buffers, &text);
  std::vector<std::string> names;
  for (const auto& [from, to] : renamed) names.push_back(from + " -> " + to);
  AppendNames("timm's names, read as the official ones", names, &text);
  return text;
}

WeightsFile::WeightsFile(const std::string& path, const ParameterTable& table, FileOps& ops)
    : table_(table), file_(path, ops), sources_(table.parameters().size(), nullptr) {
  report_.file = path;
  const Naming naming(file_, table);
  std::vector<bool> seen(sources_.size(), false);
  for (const StoredTensor& tensor : file_.tensors()) {
    if (IsBuffer(tensor.name)) {
      report_.ignored_buffers.push_back(tensor.name);
      continue;
    }
    const std::string name = naming.Official(tensor.name);
    const int index = table.Find(name);
    if (index < 0) {
      report_.unexpected.push_back(tensor.name);
      continue;
    }
    if (name != tensor.name) report_.renamed.emplace_back(tensor.name, name);
    seen[index] = true;
    const Shape& shape = table.parameters()[index].shape;
    if (!(tensor.shape == shape)) {
      report_.shape_mismatches.push_back(tensor.name + ": " + tensor.shape.ToString() +
                                         " in the file, " + shape.ToString() + " in the model");
    } else if (tensor.dtype != "F32" && tensor.dtype != "BF16" && tensor.dtype != "F16") {
      report_.wrong_dtypes.push_back(tensor.name + ": " + tensor.dtype);
    } else {
      report_.matched.push_back(name);
      sources_[index] = &tensor;
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    if (!seen[i]) report_.missing.push_back(table.parameters()[i].name);
  }
  if (!report_.ok()) ThrowReport(report_);
}

bool WeightsFile::AllFinite(int parameter) const {
  bool finite = true;
  ForEachChunk(table_.parameters()[parameter].size(), [&](int64_t begin, std::span<float> part) {
    if (!finite) return;
    Read(parameter, begin, part);
    finite = std::all_of(part.begin(), part.end(), [](float v) { return std::isfinite(v); });
  });
  return finite;
}

void WeightsFile::VerifyFinite(int first, int stride) {
  CHECK(first >= 0 && first < stride) << first << " of " << stride;
  for (size_t i = first; i < sources_.size(); i += stride) {
    if (!AllFinite(static_cast<int>(i))) {
      report_.non_finite.push_back(table_.parameters()[i].name);
    }
  }
  if (!report_.ok()) ThrowReport(report_);
}

void WeightsFile::Read(int parameter, int64_t begin, std::span<float> out) const {
  file_.ReadAsF32(*sources_.at(parameter), begin, out);
}

ImportReport ImportWeights(const std::string& path, const ParameterTable& table,
                           const std::function<void(int parameter, std::span<const float>)>& sink,
                           FileOps& ops) {
  WeightsFile file(path, table, ops);
  file.VerifyFinite();
  std::vector<float> values;
  for (size_t i = 0; i < table.parameters().size(); ++i) {
    values.resize(table.parameters()[i].size());
    file.Read(static_cast<int>(i), 0, values);
    sink(static_cast<int>(i), values);
  }
  return file.report();
}

}  // namespace swinfleet
