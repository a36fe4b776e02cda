#include "worker/model_json.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/error.h"

namespace swinfleet {
namespace {

using nlohmann::json;

constexpr char kArchitecture[] = "swin_v2";

}  // namespace

std::string ModelConfigToJson(const ModelConfig& model) {
  json object;
  object["arch"] = kArchitecture;
  object["img_size"] = {model.image_h, model.image_w};
  object["in_chans"] = model.in_chans;
  object["num_classes"] = model.num_classes;
  object["patch_size"] = model.patch_size;
  object["embed_dim"] = model.embed_dim;
  object["depths"] = model.depths;
  object["num_heads"] = model.num_heads;
  object["window_size"] = model.window_size;
  object["mlp_ratio"] = model.mlp_ratio;
  object["qkv_bias"] = model.qkv_bias;
  object["ape"] = model.ape;
  object["patch_norm"] = model.patch_norm;
  std::vector<int64_t> windows = model.pretrained_window_sizes;
  if (windows.empty()) windows.assign(model.depths.size(), 0);
  object["pretrained_window_sizes"] = windows;
  object["extra_norm_period"] = model.extra_norm_period;
  object["drop_path_rate"] = model.drop_path_rate;
  object["layer_norm_eps"] = model.layer_norm_eps;
  return object.dump();
}

ModelConfig ModelConfigFromJson(const std::string& text, const std::string& source) {
  ModelConfig model;
  try {
    const json object = json::parse(text);
    if (object.at("arch").get<std::string>() != kArchitecture) {
      throw Error("\"arch\" is not \"" + std::string(kArchitecture) + "\"");
    }
    const auto image = object.at("img_size").get<std::vector<int64_t>>();
    if (image.size() != 2) throw Error("\"img_size\" is not [height, width]");
    model.image_h = image[0];
    model.image_w = image[1];
    object.at("in_chans").get_to(model.in_chans);
    object.at("num_classes").get_to(model.num_classes);
    object.at("patch_size").get_to(model.patch_size);
    object.at("embed_dim").get_to(model.embed_dim);
    object.at("depths").get_to(model.depths);
    object.at("num_heads").get_to(model.num_heads);
    object.at("window_size").get_to(model.window_size);
    object.at("mlp_ratio").get_to(model.mlp_ratio);
    object.at("qkv_bias").get_to(model.qkv_bias);
    object.at("ape").get_to(model.ape);
    object.at("patch_norm").get_to(model.patch_norm);
    object.at("pretrained_window_sizes").get_to(model.pretrained_window_sizes);
    object.at("extra_norm_period").get_to(model.extra_norm_period);
    object.at("drop_path_rate").get_to(model.drop_path_rate);
    object.at("layer_norm_eps").get_to(model.layer_norm_eps);
    const json known = json::parse(ModelConfigToJson(model));
    for (const auto& [key, value] : object.items()) {
      if (!known.contains(key)) throw Error("\"" + key + "\" is unknown");
    }
  } catch (const std::exception& error) {
    throw Error(source + " holds no model of this version: " + error.what());
  }
  const std::vector<std::string> problems = ValidateModel(model);
  if (!problems.empty()) throw Error(source + " holds no model that can be built: " + problems[0]);
  return model;
}

}  // namespace swinfleet
