#include "worker/model_json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "core/config/names.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

using nlohmann::json;
// The value called `name`, which is what `key` says.
template <typename Enum>
Enum ValueOf(const EnumNames<Enum>& names, const std::string& key, const std::string& name) {
  if (const std::optional<Enum> value = ValueIn(names, name)) return *value;
  throw Error("\"" + key + "\" is \"" + name + "\", which is unknown");
}

void CheckKeys(const json& object, const std::set<std::string>& known) {
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key)) throw Error("\"" + key + "\" is unknown");
  }
}

// Keys and fields in one place: visit(key, field).
template <typename Config, typename Visit>
void VisitModel(Config& model, const Visit& visit) {
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
void VisitPretrain(Config& pretrain, const Visit& visit) {
  visit("mask_ratio", pretrain.mask_ratio);
  visit("mask_unit", pretrain.mask_unit);
  visit("norm_target", pretrain.norm_target);
  visit("norm_target_window", pretrain.norm_target_window);
  visit("decoder_dim", pretrain.decoder_dim);
  visit("decoder_depth", pretrain.decoder_depth);
  visit("decoder_heads", pretrain.decoder_heads);
  visit("group_size", pretrain.group_size);
}

// Reads keys into fields, and remembers them.
struct Reader {
  const json& object;
  std::set<std::string>* keys;
  template <typename Field>
  void operator()(const char* key, Field& field) const {
    object.at(key).get_to(field);
    keys->insert(key);
  }
};

struct Writer {
  json* object;
  template <typename Field>
  void operator()(const char* key, const Field& field) const {
    (*object)[key] = field;
  }
};

PretrainConfig ReadPretrain(const json& object) {
  PretrainConfig pretrain;
  pretrain.method =
      ValueOf(PretrainMethodNames(), "method", object.at("method").get<std::string>());
  std::set<std::string> keys = {"method"};
  VisitPretrain(pretrain, Reader{object, &keys});
  CheckKeys(object, keys);
  return pretrain;
}

ModelConfig ReadModel(const json& object, PretrainConfig* pretrain) {
  ModelConfig model;
  model.arch = ValueOf(ArchitectureNames(), "arch", object.at("arch").get<std::string>());
  const auto image = object.at("img_size").get<std::vector<int64_t>>();
  if (image.size() != 2) throw Error("\"img_size\" is not [height, width]");
  model.image_h = image[0];
  model.image_w = image[1];
  std::set<std::string> keys = {"arch", "img_size", "pretrain"};
  VisitModel(model, Reader{object, &keys});
  // Only written where it is not the usual one.
  if (object.contains("qk_scale")) Reader{object, &keys}("qk_scale", model.qk_scale);
  CheckKeys(object, keys);
  if (object.contains("pretrain")) *pretrain = ReadPretrain(object.at("pretrain"));
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
    model = ReadModel(json::parse(text), &found);
  } catch (const std::exception& error) {
    throw Error(source + " holds no model of this version: " + error.what());
  }
  std::vector<std::string> problems = ValidateModel(model);
  if (problems.empty() && found.on()) {
    JobConfig job;
    job.model = model;
    job.pretrain = found;
    problems = ValidatePretrain(job);
  }
  if (!problems.empty()) throw Error(source + " holds no model that can be built: " + problems[0]);
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
    const json object = json::parse(text);
    CheckKeys(object, {"format", "mean", "std", "interpolation", "eval_crop", "frame_interval",
                       "resample", "picture_size"});
    object.at("format").get_to(data->format);
    object.at("mean").get_to(data->mean);
    object.at("std").get_to(data->std);
    data->interpolation = ValueOf(InterpolationNames(), "interpolation",
                                  object.at("interpolation").get<std::string>());
    object.at("eval_crop").get_to(data->eval_crop);
    object.at("frame_interval").get_to(data->frame_interval);
    data->crop_scale.clear();
    // What evaluation asks of the random crop is only whether there is one.
    if (object.at("resample").get<bool>() && data->format == "idx") data->crop_scale = {1, 1};
    const auto size = object.value("picture_size", std::vector<int64_t>{0, 0});
    if (size.size() != 2) throw Error("\"picture_size\" is not [height, width]");
    identity->height = size[0];
    identity->width = size[1];
  } catch (const std::exception& error) {
    throw Error(source + " does not say how pictures are prepared: " + error.what());
  }
}

}  // namespace swinfleet
