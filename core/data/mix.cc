#include "core/data/mix.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace swinfleet {
namespace {

// Uniform over (0, 1).
double OpenUniform(CounterRng* rng) {
  return (static_cast<double>(rng->NextU64() >> 12) + 0.5) * 0x1p-52;
}

// The logarithm of a Gamma(alpha, 1) number: Marsaglia and Tsang 2000 for alpha + 1, then times
// U^(1/alpha). The logarithm, because with a small alpha the number itself may underflow.
double LogGammaSample(double alpha, CounterRng* rng) {
  const double d = alpha + 1 - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = rng->Normal();
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(OpenUniform(rng)) < 0.5 * x * x + d - d * v + d * std::log(v)) {
      return std::log(d * v) + std::log(OpenUniform(rng)) / alpha;
    }
  }
}

MixBox MinMaxBox(const std::vector<double>& minmax, int64_t height, int64_t width,
                 CounterRng* rng) {
  const auto cut = [&](int64_t side) {
    const auto low = static_cast<int64_t>(static_cast<double>(side) * minmax[0]);
    const auto high = static_cast<int64_t>(static_cast<double>(side) * minmax[1]);
    return low + static_cast<int64_t>(rng->Below(std::max<int64_t>(high - low, 1)));
  };
  const int64_t cut_h = cut(height);
  const int64_t cut_w = cut(width);
  const auto y0 = static_cast<int64_t>(rng->Below(height - cut_h + 1));
  const auto x0 = static_cast<int64_t>(rng->Below(width - cut_w + 1));
  return {y0, y0 + cut_h, x0, x0 + cut_w};
}

MixEntry DrawEntry(const MixConfig& config, int64_t height, int64_t width, CounterRng* rng) {
  MixEntry entry;
  if (!(rng->Uniform() < config.probability)) return entry;
  const bool minmax = !config.cutmix_minmax.empty();
  const double cutmix_alpha = minmax ? 1.0 : config.cutmix_alpha;
  entry.cutmix =
      cutmix_alpha > 0 && (config.mixup_alpha <= 0 || rng->Uniform() < config.switch_probability);
  entry.lam = BetaSample(entry.cutmix ? cutmix_alpha : config.mixup_alpha, rng);
  if (!entry.cutmix) return entry;
  if (minmax) {
    entry.box = MinMaxBox(config.cutmix_minmax, height, width, rng);
  } else {
    const auto center_y = static_cast<int64_t>(rng->Below(height));
    const auto center_x = static_cast<int64_t>(rng->Below(width));
    entry.box = CutmixBox(height, width, entry.lam, center_y, center_x);
  }
  entry.lam = LamOutside(entry.box, height, width);
  return entry;
}

}  // namespace

double BetaSample(double alpha, CounterRng* rng) {
  CHECK_GT(alpha, 0);
  const double first = LogGammaSample(alpha, rng);
  const double second = LogGammaSample(alpha, rng);
  return 1 / (1 + std::exp(second - first));
}

MixBox CutmixBox(int64_t height, int64_t width, double lam, int64_t center_y, int64_t center_x) {
  const double share = std::sqrt(1 - lam);
  const auto cut_h = static_cast<int64_t>(static_cast<double>(height) * share);
  const auto cut_w = static_cast<int64_t>(static_cast<double>(width) * share);
  return {std::clamp<int64_t>(center_y - cut_h / 2, 0, height),
          std::clamp<int64_t>(center_y + (cut_h + 1) / 2, 0, height),
          std::clamp<int64_t>(center_x - cut_w / 2, 0, width),
          std::clamp<int64_t>(center_x + (cut_w + 1) / 2, 0, width)};
}

double LamOutside(const MixBox& box, int64_t height, int64_t width) {
  return 1 - static_cast<double>((box.y1 - box.y0) * (box.x1 - box.x0)) /
                 static_cast<double>(height * width);
}

void DrawMix(const MixConfig& config, int64_t height, int64_t width, CounterRng rng,
             std::span<MixEntry> entries) {
  CHECK(config.on());
  const size_t count = entries.size();
  switch (config.mode) {
    case MixConfig::Mode::kBatch:
      std::fill(entries.begin(), entries.end(), DrawEntry(config, height, width, &rng));
      break;
    case MixConfig::Mode::kPair:
      std::fill(entries.begin(), entries.end(), MixEntry{});
      for (size_t i = 0; i < count / 2; ++i) {
        entries[i] = entries[count - 1 - i] = DrawEntry(config, height, width, &rng);
      }
      break;
    case MixConfig::Mode::kElement:
      for (MixEntry& entry : entries) entry = DrawEntry(config, height, width, &rng);
      break;
  }
}

void DescribeMix(std::span<const MixEntry> entries, std::span<float> weight,
                 std::span<int32_t> box) {
  CHECK_EQ(weight.size(), 2 * entries.size());
  CHECK_EQ(box.size(), 4 * entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const double lam = entries[i].cutmix ? 1 : entries[i].lam;
    weight[2 * i] = static_cast<float>(lam);
    weight[2 * i + 1] = static_cast<float>(1 - lam);
    const MixBox inside = entries[i].cutmix ? entries[i].box : MixBox{};
    const int64_t sides[] = {inside.y0, inside.y1, inside.x0, inside.x1};
    for (size_t side = 0; side < 4; ++side) box[4 * i + side] = static_cast<int32_t>(sides[side]);
  }
}

void MixTargets(std::span<const MixEntry> entries, std::span<const int64_t> labels,
                int64_t num_classes, double smoothing, std::span<float> target) {
  CHECK_EQ(entries.size(), labels.size());
  CHECK_EQ(target.size(), labels.size() * static_cast<size_t>(num_classes));
  const double off = smoothing / static_cast<double>(num_classes);
  std::fill(target.begin(), target.end(), static_cast<float>(off));
  const size_t count = entries.size();
  for (size_t i = 0; i < count; ++i) {
    const int64_t own = labels[i];
    const int64_t partner = labels[count - 1 - i];
    CHECK(own >= 0 && own < num_classes) << "label " << own << " of " << num_classes << " classes";
    const double lam = own == partner ? 1.0 : entries[i].lam;
    float* row = target.data() + static_cast<int64_t>(i) * num_classes;
    row[partner] = static_cast<float>(off + (1 - smoothing) * (1 - lam));
    row[own] = static_cast<float>(off + (1 - smoothing) * lam);
  }
}

}  // namespace swinfleet
