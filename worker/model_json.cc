#include "worker/model_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "core/config/names.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

using nlohmann::json;

// The text as JSON. Throws Error that says where it is none.
json Parse(const std::string& text) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    constexpr size_t kShown = 20;
    const size_t at = std::min<size_t>(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const size_t from = at > kShown ? at - kShown : 0;
    throw Error("it is not valid JSON: character " + std::to_string(at + 1) +
                (at < text.size() ? " does not belong there, after " : " is missing, after ") +
                (at > 0 ? text.substr(from, at - from) : "nothing"));
  } catch (const json::exception&) {
    throw Error("it is not valid JSON: a number in it is out of range");
  }
}

// Each reads a value, or returns false for one of another type.
bool Read(const json& value, int64_t* field) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return false;
  }
  *field = value.get<int64_t>();
  return true;
}

bool Read(const json& value, double* field) {
  if (!value.is_number()) return false;
  *field = value.get<double>();
  return true;
}

bool Read(const json& value, bool* field) {
  if (!value.is_boolean()) return false;
  *field = value.get<bool>();
  return true;
}

bool Read(const json& value, std::string* field) {
  if (!value.is_string()) return false;
  *field = value.get<std::string>();
  return true;
}

template <typename T>
bool Read(const json& value, std::vector<T>* field) {
  if (!value.is_array()) return false;
  field->clear();
  for (const json& one : value) {
    if (!Read(one, &field->emplace_back())) return false;
  }
  return true;
}

// What Read wants.
const char* Wanted(int64_t) { return "a whole number"; }
const char* Wanted(double) { return "a number"; }
const char* Wanted(bool) { return "true or false"; }
const char* Wanted(const std::string&) { return "a text"; }
const char* Wanted(const std::vector<int64_t>&) { return "a list of whole numbers"; }
const char* Wanted(const std::vector<double>&) { return "a list of numbers"; }

std::string Quoted(const std::string& key) { return "\"" + key + "\""; }

[[noreturn]] void Refuse(const std::string& key, const json& value, const std::string& wanted) {
  throw Error(Quoted(key) + " is " +
              value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60) +
              "; it must be " + wanted);
}

// An object that others wrote. What it lacks and what it has too much is collected, so that a user
// sees all of it at once.
class Object {
 public:
  // `prefix` of its keys in messages: "pretrain.".
  explicit Object(const json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {
    if (object.is_object()) return;
    throw Error((prefix_.empty() ? "it" : Quoted(prefix_.substr(0, prefix_.size() - 1))) +
                " is no JSON object, {\"KEY\": VALUE, ...}");
  }

  // The value of a key that has to be there.
  template <typename Field>
  void operator()(const std::string& key, Field& field) {
    if (!Optional(key, field)) missing_.push_back(key);
  }
  // The value of a key that may be there; false where it is not.
  template <typename Field>
  bool Optional(const std::string& key, Field& field) {
    const json* value = Find(key);
    if (value == nullptr) return false;
    if (!Read(*value, &field)) Refuse(prefix_ + key, *value, Wanted(field));
    return true;
  }
  // The value among names. Throws Error also where there is none: other keys may depend on it.
  template <typename Enum>
  Enum Named(const std::string& key, const EnumNames<Enum>& names) {
    const json* value = Find(key);
    const std::string wanted = "one of " + ListNames(NamesOf(names));
    if (value == nullptr) throw Error(Quoted(prefix_ + key) + " is missing; it is " + wanted);
    std::string name;
    if (Read(*value, &name)) {
      if (const std::optional<Enum> known = ValueIn(names, name)) return *known;
    }
    Refuse(prefix_ + key, *value, wanted);
  }
  // Null where there is none; the key is known from then on.
  const json* Find(const std::string& key) {
    known_.push_back(key);
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }
  // Throws Error for keys that are missing or that nobody has asked for.
  void Finish() const {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : object_.items()) {
      if (std::ranges::find(known_, key) == known_.end()) unknown.push_back(key);
    }
    std::string text;
    if (!unknown.empty()) text += "unknown are " + Listed(unknown) + "; ";
    if (!missing_.empty()) text += "missing are " + Listed(missing_) + "; ";
    if (!text.empty()) throw Error(text + "the keys are " + Listed(known_));
  }

 private:
  std::string Listed(const std::vector<std::string>& keys) const {
    std::vector<std::string> names;
    for (const std::string& key : keys) names.push_back(prefix_ + key);
    return ListNames(names);
  }

  const json& object_;
  const std::string prefix_;
  std::vector<std::string> known_;
  std::vector<std::string> missing_;
};

// Keys and fields in one place: visit(key, field).
template <typename Config, typename Visit>
void VisitModel(Config& model, Visit&& visit) {
  visit("in_chans", model.in_chans);
  visit("num_classes", model.num_classes);
  visit("patch_size", model.patch_size);
  visit("embed_dim", model.embed_dim);
  visit("depths", model.depths);
  visit("num_heads", model.num_heads);
  visit("window_size", model.window_size);
  visit("mlp_ratio", model.mlp_ratio);
  visit("qkv_bias", model.qkv_bias);
  visit("ape", model.ape);
  visit("patch_norm", model.patch_norm);
  visit("pretrained_window_sizes", model.pretrained_window_sizes);
  visit("extra_norm_period", model.extra_norm_period);
  visit("drop_path_rate", model.drop_path_rate);
  visit("layer_norm_eps", model.layer_norm_eps);
  if (!model.is_video()) return;
  visit("frames", model.frames);
  visit("patch_frames", model.patch_frames);
  visit("window_frames", model.window_frames);
}

template <typename Config, typename Visit>
void VisitPretrain(Config& pretrain, Visit&& visit) {
  visit("mask_ratio", pretrain.mask_ratio);
  visit("mask_unit", pretrain.mask_unit);
  visit("norm_target", pretrain.norm_target);
  visit("norm_target_window", pretrain.norm_target_window);
  visit("decoder_dim", pretrain.decoder_dim);
  visit("decoder_depth", pretrain.decoder_depth);
  visit("decoder_heads", pretrain.decoder_heads);
  visit("group_size", pretrain.group_size);
}

struct Writer {
  json* object;
  template <typename Field>
  void operator()(const char* key, const Field& field) const {
    (*object)[key] = field;
  }
};

PretrainConfig ReadPretrain(const json& object) {
  PretrainConfig pretrain;
  Object keys(object, "pretrain.");
  pretrain.method = keys.Named("method", PretrainMethodNames());
  VisitPretrain(pretrain, keys);
  keys.Finish();
  return pretrain;
}

ModelConfig ReadModel(const json& object, PretrainConfig* pretrain) {
  ModelConfig model;
  Object keys(object);
  model.arch = keys.Named("arch", ArchitectureNames());
  std::vector<int64_t> image = {0, 0};
  keys("img_size", image);
  if (image.size() != 2) Refuse("img_size", object.at("img_size"), "[height, width]");
  model.image_h = image[0];
  model.image_w = image[1];
  VisitModel(model, keys);
  // Only written where it is not the usual one.
  keys.Optional("qk_scale", model.qk_scale);
  const json* part = keys.Find("pretrain");
  keys.Finish();
  if (part != nullptr) *pretrain = ReadPretrain(*part);
  return model;
}

}  // namespace

std::string ModelConfigToJson(const ModelConfig& model, const PretrainConfig& pretrain) {
  json object;
  object["arch"] = ArchitectureName(model.arch);
  object["img_size"] = {model.image_h, model.image_w};
  VisitModel(model, Writer{&object});
  if (model.qk_scale != 0) object["qk_scale"] = model.qk_scale;
  if (model.pretrained_window_sizes.empty()) {
    object["pretrained_window_sizes"] = std::vector<int64_t>(model.depths.size(), 0);
  }
  if (pretrain.on()) {
    json part;
    part["method"] = NameIn(PretrainMethodNames(), pretrain.method);
    VisitPretrain(pretrain, Writer{&part});
    object["pretrain"] = part;
  }
  return object.dump();
}

ModelConfig ModelConfigFromJson(const std::string& text, const std::string& source,
                                PretrainConfig* pretrain) {
  ModelConfig model;
  PretrainConfig found;
  try {
    model = ReadModel(Parse(text), &found);
  } catch (const Error& error) {
    throw Error(source + " describes no model that this version knows: " + error.what());
  }
  std::vector<std::string> problems = ValidateModel(model);
  if (problems.empty() && found.on()) {
    JobConfig job;
    job.model = model;
    job.pretrain = found;
    problems = ValidatePretrain(job);
  }
  if (!problems.empty()) {
    std::string text_of_all = source + " describes a model that can't be built:";
    for (const std::string& problem : problems) text_of_all += " " + problem + ";";
    text_of_all.pop_back();
    throw Error(text_of_all);
  }
  if (pretrain != nullptr) *pretrain = found;
  return model;
}

std::string PreprocessingToJson(const DataConfig& data, const DataIdentity& identity) {
  json object;
  object["format"] = data.format;
  object["mean"] = data.mean;
  object["std"] = data.std;
  object["interpolation"] = NameIn(InterpolationNames(), data.interpolation);
  object["eval_crop"] = data.eval_crop;
  object["frame_interval"] = data.frame_interval;
  const bool resample = data.format != "idx" || !data.crop_scale.empty();
  object["resample"] = resample;
  if (!resample) object["picture_size"] = {identity.height, identity.width};
  return object.dump();
}

void PreprocessingFromJson(const std::string& text, const std::string& source, DataConfig* data,
                           DataIdentity* identity) {
  try {
    const json object = Parse(text);
    Object keys(object);
    keys("format", data->format);
    keys("mean", data->mean);
    keys("std", data->std);
    data->interpolation = keys.Named("interpolation", InterpolationNames());
    keys("eval_crop", data->eval_crop);
    keys("frame_interval", data->frame_interval);
    data->crop_scale.clear();
    bool resample = false;
    keys("resample", resample);
    // What evaluation asks of the random crop is only whether there is one.
    if (resample && data->format == "idx") data->crop_scale = {1, 1};
    std::vector<int64_t> size = {0, 0};
    keys.Optional("picture_size", size);
    if (size.size() != 2) Refuse("picture_size", object.at("picture_size"), "[height, width]");
    identity->height = size[0];
    identity->width = size[1];
    keys.Finish();
  } catch (const Error& error) {
    throw Error(source + " does not say how pictures are prepared: " + error.what());
  }
}

}  // namespace swinfleet
