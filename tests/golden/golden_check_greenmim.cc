// GreenMIM: its model, and how windows are grouped.
#include <algorithm>

#include "core/data/mask.h"
#include "core/nn/green_mim.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// Groups of the smallest possible size, as the official code's.
constexpr int64_t kSmallestGroups = 1;

ModelConfig ParseGreenModel(Json config) {
  const std::string arch = config.at("arch");
  if (!arch.starts_with("green_")) throw Unsupported("the model is " + config.dump());
  config["arch"] = arch.substr(6);
  config["num_classes"] = 1;
  for (const char* key : {"decoder_depth", "decoder_embed_dim", "decoder_num_heads",
                          "decoder_num_patches", "decoder_patch_size", "norm_pix_loss"}) {
    config.erase(key);
  }
  return ParseModel(config);
}

void CompareModes(const Golden& golden, const GreenMim& model, Comparison& comparison) {
  std::vector<std::string> modes;
  std::vector<int64_t> sizes;
  for (const VisibleWindows* windows : model.encoder().windows()) {
    modes.emplace_back(windows->grouped() ? "grouping" : "masking");
    sizes.push_back(windows->size());
  }
  comparison.Expect(Json(modes) == golden.Parsed("attention_modes"), "attention_modes",
                    Json(modes).dump());
  comparison.Expect(Json(sizes) == golden.Parsed("attention_sizes"), "attention_sizes",
                    Json(sizes).dump());
}

std::vector<int64_t> Unpadded(const TensorView& index) {
  // The official code has 0 where there is nothing.
  std::vector<int64_t> values;
  for (int64_t i = 0; i < index.NumElements(); ++i) {
    values.push_back(std::max(index.i32()[i], 0));
  }
  return values;
}

void CheckPreparation(const Golden& golden, const std::string& tag, int64_t shift,
                      const std::vector<MapPlace>& places, Comparison& comparison) {
  const std::array<int64_t, 2> map = Pair(golden.config().at("resolution"));
  VisibleWindows windows({.height = map[0],
                          .width = map[1],
                          .window = golden.config().at("window").get<int64_t>(),
                          .shift = shift,
                          .visible = static_cast<int64_t>(places.size()),
                          .channels = 1,
                          .group_size = kSmallestGroups});
  windows.Pack(places);
  Arena dry = Arena::DryRun("tables");
  const Context context;
  windows.Publish(places, dry, context);
  Arena arena = Arena::OnHost("tables", dry.high_water());
  windows.Publish(places, arena, context);
  const Json expected = golden.Parsed("grouping").at(tag);
  const Json grouping = {{"group_size", windows.size()},
                         {"groups", windows.groups()},
                         {"mode", windows.grouped() ? "grouping" : "masking"}};
  comparison.Expect(grouping == expected, tag, grouping.dump());
  const PackedWindows& packed = windows.packed();
  const std::string prefix = "output/" + tag + ".";
  comparison.CompareExact(prefix + "group_id", std::vector<int64_t>(windows.window_of().begin(),
                                                                    windows.window_of().end()));
  comparison.CompareExact(prefix + "idx_shuffle", Unpadded(packed.token));
  comparison.CompareExact(prefix + "idx_unshuffle", Unpadded(packed.place));
  comparison.CompareExact(prefix + "rel_pos_idx", Unpadded(packed.index));
  std::vector<float> mask;
  for (int64_t i = 0; i < packed.index.NumElements(); ++i) {
    mask.push_back(packed.index.i32()[i] < 0 ? -100.0f : 0.0f);
  }
  comparison.CompareExact(prefix + "attn_mask", std::span<const float>(mask));
}

}  // namespace

void ParseDecoder(const Json& config, PretrainConfig* pretrain) {
  pretrain->norm_target = config.at("norm_pix_loss").get<bool>();
  pretrain->decoder_dim = config.at("decoder_embed_dim").get<int64_t>();
  pretrain->decoder_depth = config.at("decoder_depth").get<int64_t>();
  pretrain->decoder_heads = config.at("decoder_num_heads").get<int64_t>();
}

void CheckGreenMim(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const Json& config = golden.config();
  const ModelConfig model = ParseGreenModel(config.at("model"));
  PretrainConfig pretrain;
  pretrain.method = PretrainConfig::Method::kGreenMim;
  pretrain.mask_ratio = config.at("mask_ratio").get<double>();
  pretrain.mask_unit = config.at("model").at("decoder_patch_size").get<int64_t>();
  ParseDecoder(config.at("model"), &pretrain);

  ModelRunner::Pass pass;
  pass.pictures = config.at("batch_size").get<int64_t>();
  pass.image_shape = model.ImageShape(pass.pictures);
  pass.image = golden.Load("input/image", pass.image_shape).values;
  pass.mask_shape = MaskShape(MaskConfigFor(model, pretrain), pass.pictures);
  const std::vector<int64_t> mask = golden.LoadIntegers("input/mask");
  pass.mask.assign(mask.begin(), mask.end());
  pass.want_image_gradient = golden.Has("grad/input/image");
  UseMaskedLoss(model, pretrain, &pass);
  const std::vector<int64_t> restore = golden.LoadIntegers("input/ids_restore");
  const int last = model.num_stages() - 1;
  ComparePositions(golden, "input/decoder_pos_embed", model.StageH(last), model.StageW(last), false,
                   comparison);

  // The size of groups changes nothing but the rounding.
  for (const int64_t group_size : {kSmallestGroups, int64_t{0}, int64_t{1024}}) {
    pretrain.group_size = group_size;
    auto green = std::make_unique<GreenMim>(model, pretrain, MemoryConfig());
    green->set_decoder_order(std::vector<int32_t>(restore.begin(), restore.end()));
    const GreenMim& prepared = *green;
    ModelRunner runner(golden, std::move(green), machine);
    const ModelRunner::Result result = runner.Run(pass);
    if (group_size == kSmallestGroups) CompareModes(golden, prepared, comparison);
    const std::string note = "group size " + std::to_string(group_size);
    comparison.Compare("output/latent", std::span<const float>(result.captured.at("latent")), note);
    comparison.Compare("output/pred", std::span<const float>(result.logits), note);
    ComparePass(golden, result, runner, note, comparison);
  }
}

void CheckGreenGrouping(const Golden& golden, const OpRunner&, Comparison& comparison) {
  const Json groups = golden.Parsed("groups");
  for (const Json& entry : golden.config().at("entries")) {
    const std::string tag = entry.at("tag");
    const std::vector<int64_t> counts = golden.LoadIntegers("input/" + tag + ".counts");
    const int64_t size = entry.value("group_size", *std::max_element(counts.begin(), counts.end()));
    WindowGrouper grouper(static_cast<int64_t>(counts.size()), size);
    const int64_t number = grouper.Group(std::vector<int32_t>(counts.begin(), counts.end()), size);
    std::vector<int64_t> filled(number), of_window;
    std::vector<std::vector<int64_t>> members(number);
    for (size_t window = 0; window < counts.size(); ++window) {
      const int32_t group = grouper.groups()[window];
      of_window.push_back(group);
      filled[group] += counts[window];
      members[group].push_back(static_cast<int64_t>(window));
    }
    comparison.CompareExact("output/" + tag + ".group_of_window", of_window);
    comparison.CompareExact("output/" + tag + ".num_ele_group", filled);
    comparison.CompareExact("output/" + tag + ".group_size", std::vector<int64_t>{size});
    comparison.Expect(Json(members) == groups.at(tag).at("grouped_idx"), tag + ".grouped_idx",
                      Json(members).dump());
  }
}

void CheckGreenPrepare(const Golden& golden, const OpRunner&, Comparison& comparison) {
  const std::vector<int64_t> visible = golden.LoadIntegers("input/visible");
  const std::vector<int64_t> coords = golden.LoadIntegers("input/coords");
  const int64_t width = Pair(golden.config().at("resolution"))[1];
  std::vector<MapPlace> places;
  std::vector<int64_t> expected;
  for (int64_t i = 0; i < static_cast<int64_t>(visible.size()); ++i) {
    if (visible[i] == 0) continue;
    places.push_back({static_cast<int32_t>(i / width), static_cast<int32_t>(i % width)});
    expected.insert(expected.end(), {i / width, i % width});
  }
  comparison.Expect(coords == expected, "input/coords", "not those of input/visible");
  CheckPreparation(golden, "plain", 0, places, comparison);
  CheckPreparation(golden, "shifted", golden.config().at("window").get<int64_t>() / 2, places,
                   comparison);
}

}  // namespace swinfleet::golden
