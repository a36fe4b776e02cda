// What the data loader does to a batch: mixup, cutmix, masks.
#include <algorithm>
#include <numeric>

#include "core/data/mask.h"
#include "core/data/mix.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// A number for all, or one for each of `count`.
template <typename T>
std::vector<T> PerPicture(const Json& value, size_t count, const std::string& what) {
  if (!value.is_array()) return std::vector<T>(count, value.get<T>());
  const auto values = value.get<std::vector<T>>();
  if (values.size() != count) {
    throw Error(what + " has " + std::to_string(values.size()) + " values for " +
                std::to_string(count));
  }
  return values;
}

// The entries that an entry of the config describes, as DrawMix would have drawn them. Boxes are
// used in order, by those with cutmix whose lam is not 1.
std::vector<MixEntry> ParseMix(const Json& entry, size_t batch, int64_t height, int64_t width) {
  const std::string mode = entry.at("mode").get<std::string>();
  size_t drawn = batch;
  if (mode == "batch") {
    drawn = 1;
  } else if (mode == "pair") {
    drawn = batch / 2;
  } else if (mode != "elem") {
    throw Unsupported("mixing mode \"" + mode + "\" is not supported");
  }
  const std::vector<double> lams = PerPicture<double>(entry.at("lam"), drawn, "lam");
  const std::vector<bool> cutmix = PerPicture<bool>(entry.at("cutmix"), drawn, "cutmix");
  size_t next_box = 0;
  std::vector<MixEntry> entries;
  for (size_t i = 0; i < drawn; ++i) {
    MixEntry mix;
    mix.lam = static_cast<double>(static_cast<float>(lams[i]));
    mix.cutmix = cutmix[i] && mix.lam != 1;
    if (mix.cutmix) {
      const auto box = entry.at("boxes").at(next_box++).get<std::vector<int64_t>>();
      mix.box = {box.at(0), box.at(1), box.at(2), box.at(3)};
      if (mix.box.y0 < 0 || mix.box.y0 > mix.box.y1 || mix.box.y1 > height || mix.box.x0 < 0 ||
          mix.box.x0 > mix.box.x1 || mix.box.x1 > width) {
        throw Error("a box lies outside of the picture");
      }
      mix.lam = LamOutside(mix.box, height, width);
    }
    entries.push_back(mix);
  }
  if (mode == "batch") entries.resize(batch, entries[0]);
  for (size_t i = entries.size(); i < batch; ++i) entries.push_back(entries[batch - 1 - i]);
  return entries;
}

}  // namespace

void CheckMixup(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const Json& config = golden.config();
  const std::array<int64_t, 2> size = Pair(config.at("img_size"));
  const auto classes = config.at("num_classes").get<int64_t>();
  const Tensor image = golden.Load("input/image");
  const std::vector<int64_t> labels = golden.LoadIntegers("input/label");
  const auto batch = static_cast<int64_t>(labels.size());
  if (image.shape.rank() != 4 || image.shape[0] != batch || image.shape[2] != size[0] ||
      image.shape[3] != size[1]) {
    throw Error(golden.path() + ": input/image " + image.shape.ToString() +
                " is not what the config says");
  }
  for (const int64_t label : labels) {
    if (label < 0 || label >= classes) {
      throw Error(golden.path() + ": label " + std::to_string(label) + " of " +
                  std::to_string(classes) + " classes");
    }
  }
  for (const Json& entry : config.at("entries")) {
    const std::string tag = entry.at("tag").get<std::string>();
    const std::vector<MixEntry> mix = ParseMix(entry, labels.size(), size[0], size[1]);
    Tensor mixed = image, weight = Tensor::Zeros({batch, 2});
    std::vector<int32_t> box(4 * batch);
    DescribeMix(mix, weight.values, box);
    runner.Run(&OpTable::mix_pictures, {.image = mixed.View(),
                                        .weight = weight.View(),
                                        .box = ViewOf(box.data(), {batch, 4}, Device::kCpu)});
    std::vector<float> target(batch * classes);
    MixTargets(mix, labels, classes, entry.at("smoothing").get<double>(), target);
    comparison.Compare("output/" + tag + ".image", std::span<const float>(mixed.values));
    comparison.Compare("output/" + tag + ".target", std::span<const float>(target));
  }
}

void CheckCutmixBox(const Golden& golden, const OpRunner&, Comparison& comparison) {
  const std::array<int64_t, 2> size = Pair(golden.config().at("img_size"));
  const std::vector<float> lams = golden.Load("input/lam").values;
  const std::vector<int64_t> centers = golden.LoadIntegers("input/center");
  if (centers.size() != 2 * lams.size()) {
    throw Error(golden.path() + ": input/center and input/lam differ in number");
  }
  std::vector<int64_t> boxes;
  std::vector<double> corrected;
  for (size_t i = 0; i < lams.size(); ++i) {
    const MixBox box = CutmixBox(size[0], size[1], static_cast<double>(lams[i]), centers[2 * i],
                                 centers[2 * i + 1]);
    boxes.insert(boxes.end(), {box.y0, box.y1, box.x0, box.x1});
    corrected.push_back(LamOutside(box, size[0], size[1]));
  }
  comparison.CompareExact("output/box", std::span<const int64_t>(boxes));
  comparison.Compare("output/lam", std::span<const double>(corrected));
}

void CheckMaskGenerator(const Golden& golden, const OpRunner&, Comparison& comparison) {
  const Json statistics = golden.Parsed("statistics");
  for (const Json& entry : golden.config().at("entries")) {
    const std::string tag = entry.at("tag").get<std::string>();
    ModelConfig model;
    model.image_h = model.image_w = entry.at("input_size").get<int64_t>();
    PretrainConfig pretrain;
    pretrain.method = PretrainConfig::Method::kSimMim;
    pretrain.mask_ratio = entry.at("mask_ratio").get<double>();
    pretrain.mask_unit = entry.at("mask_patch_size").get<int64_t>();
    const MaskConfig config = MaskConfigFor(model, pretrain);
    const int64_t masked = MaskedUnits(config.method, config.units(), config.ratio);
    const Json& counts = statistics.at(tag);
    comparison.Expect(
        config.units() == counts.at("token_count") && masked == counts.at("mask_count"),
        tag + ".counts",
        std::to_string(masked) + " of " + std::to_string(config.units()) + " units");

    const std::vector<int64_t> permutation = golden.LoadIntegers("input/" + tag + ".permutation");
    std::vector<int64_t> sorted = permutation;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int64_t> all(config.units());
    std::iota(all.begin(), all.end(), 0);
    if (sorted != all) {
      throw Error(golden.path() + ": " + tag + " has no permutation of " +
                  std::to_string(config.units()) + " units");
    }
    std::vector<int32_t> units(config.units());
    MaskFromPermutation(permutation, masked, units);
    const int64_t factor = pretrain.mask_unit / entry.at("model_patch_size").get<int64_t>();
    std::vector<int32_t> patches(config.units() * factor * factor);
    ExpandMask(units, config.units_h, config.units_w, factor, patches);
    const std::vector<int64_t> mask(patches.begin(), patches.end());
    comparison.CompareExact("output/" + tag + ".mask", std::span<const int64_t>(mask));
  }
}

}  // namespace swinfleet::golden
