#include "core/checkpoint/weights_io.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/weight_matching.h"
#include "core/checkpoint/weight_names.h"

namespace swinfleet {
namespace {

constexpr char kParameterPrefix[] = "param/";
// Elements copied or checked at a time.
constexpr int64_t kChunk = int64_t{4} << 20;
// Names of each kind that a report shows.
constexpr size_t kMaxNames = 20;

// Calls visit(begin, part) for [0, elements) in parts of a bounded size.
template <typename Visit>
void ForEachChunk(int64_t elements, const Visit& visit) {
  std::vector<float> buffer(std::min(elements, kChunk));
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    visit(begin, std::span<float>(buffer).first(std::min(kChunk, elements - begin)));
  }
}

bool IsFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

void AppendNames(const std::string& title, const std::vector<std::string>& names,
                 std::string* text) {
  if (names.empty()) return;
  *text += "\n  " + title + " (" + std::to_string(names.size()) + "):";
  for (size_t i = 0; i < std::min(names.size(), kMaxNames); ++i) *text += "\n    " + names[i];
  if (names.size() > kMaxNames) {
    *text += "\n    and " + std::to_string(names.size() - kMaxNames) +
             " more; `swinfleet import --json` lists all";
  }
}

// What is wrong, in one line. Values are only looked at where everything else fits.
std::string Headline(const ImportReport& report) {
  const std::vector<std::string>& names = report.non_finite;
  if (names.empty()) return "they do not fit the model";
  constexpr size_t kShown = 3;
  std::string text = "they hold NaN or infinite values in ";
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    text += (i > 0 ? ", " : "") + names[i];
  }
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

[[noreturn]] void ThrowReport(const ImportReport& report) {
  throw ImportError("cannot import the weights of " + report.file + ": " + Headline(report) + "\n" +
                        report.ToString(),
                    report);
}

}  // namespace

ExportSummary ExportWeights(const CheckpointReader& checkpoint, const std::string& path,
                            const std::map<std::string, std::string>& metadata, FileOps& ops) {
  const std::string prefix = kParameterPrefix;
  std::vector<TensorSpec> specs;
  for (const auto& [name, shape] : checkpoint.tensors()) {
    if (name.starts_with(prefix)) specs.push_back({name.substr(prefix.size()), "F32", shape});
  }
  if (specs.empty()) throw Error(checkpoint.dir() + " holds no parameters to export");
  const CheckpointMeta& meta = checkpoint.meta();
  std::map<std::string, std::string> all = {
      {"format", "pt"}, {kModelMetadata, meta.model}, {kStepMetadata, std::to_string(meta.step)}};
  all.insert(metadata.begin(), metadata.end());
  SafetensorsWriter writer(path, specs, all, ops);
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
  AppendNames("with position biases in other units", other_units, &text);
  AppendNames("of a dtype other than F32, BF16 and F16", wrong_dtypes, &text);
  AppendNames("with NaN or infinite values", non_finite, &text);
  AppendNames("in init_skip, but neither in the model nor in the file", unused_skips, &text);
  AppendNames("transferred", transferred, &text);
  AppendNames("inflated", inflated, &text);
  AppendNames("named by init_skip, so not read", skipped, &text);
  AppendNames("left out", left_out, &text);
  std::vector<std::string> names;
  for (const auto& [from, to] : renamed) names.push_back(from + " -> " + to);
  AppendNames("under other names", names, &text);
  for (const std::string& note : notes) text += "\n  note: " + note;
  for (const std::string& line : advice) text += "\n  " + line;
  return text;
}

WeightsFile::WeightsFile(std::unique_ptr<WeightSource> source, const ParameterTable& table,
                         const ImportOptions& options)
    : table_(table), source_(std::move(source)), skip_(options.skip) {
  report_.file = source_->path();
  sources_ = MatchWeights(*source_, table, options, &report_);
  if (!report_.ok()) ThrowReport(report_);
  for (size_t i = 0; i < sources_.size(); ++i) {
    if (!sources_[i].compute) continue;
    std::vector<float>& values = computed_[static_cast<int>(i)];
    values = sources_[i].compute();
    CHECK_EQ(static_cast<int64_t>(values.size()), table.parameters()[i].size())
        << table.parameters()[i].name;
    sources_[i].compute = nullptr;
  }
}

WeightsFile::WeightsFile(const std::string& path, const ParameterTable& table,
                         const ImportOptions& options, FileOps& ops)
    : WeightsFile(OpenWeights(path, ops), table, options) {}

bool WeightsFile::AllFinite(int parameter) const {
  bool finite = true;
  ForEachChunk(table_.parameters()[parameter].size(), [&](int64_t begin, std::span<float> part) {
    if (!finite) return;
    Read(parameter, begin, part);
    finite = IsFinite(part);
  });
  return finite;
}

void WeightsFile::AdviseNonFinite() {
  std::string text = "what may work is an earlier checkpoint of the run that they come from";
  if (report_.non_finite.size() <= kMaxNames) {
    std::vector<std::string> skip = skip_;
    skip.insert(skip.end(), report_.non_finite.begin(), report_.non_finite.end());
    text += ", or a job that starts these parameters anew: " + InitSkipText(skip);
  }
  report_.advice.push_back(text);
}

void WeightsFile::Verify(int first, int stride) {
  CHECK(first >= 0 && first < stride) << first << " of " << stride;
  source_->Verify(first, stride);
  for (size_t i = first; i < sources_.size(); i += stride) {
    const int parameter = static_cast<int>(i);
    if (!skipped(parameter) && !AllFinite(parameter)) {
      report_.non_finite.push_back(table_.parameters()[i].name);
    }
  }
  if (report_.ok()) return;
  AdviseNonFinite();
  ThrowReport(report_);
}

void WeightsFile::Read(int parameter, int64_t begin, std::span<float> out) const {
  const ParameterSource& from = sources_.at(parameter);
  CHECK(!from.skipped) << table_.parameters()[parameter].name;
  if (from.tensor >= 0) return source_->Read(from.tensor, begin, out);
  const std::span<const float> values = computed_.at(parameter);
  std::ranges::copy(values.subspan(begin, out.size()), out.begin());
}

ImportReport ImportWeights(const std::string& path, const ParameterTable& table,
                           const ImportOptions& options,
                           const std::function<void(int parameter, std::span<const float>)>& sink,
                           FileOps& ops) {
  WeightsFile file(path, table, options, ops);
  file.Verify();
  std::vector<float> values;
  for (size_t i = 0; i < table.parameters().size(); ++i) {
    const int parameter = static_cast<int>(i);
    if (file.skipped(parameter)) continue;
    values.resize(table.parameters()[i].size());
    file.Read(parameter, 0, values);
    sink(parameter, values);
  }
  return file.report();
}

}  // namespace swinfleet
