// Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) as timm.data.Mixup does them: picture i of
// a batch of B is mixed with picture B - 1 - i.
#ifndef SWINFLEET_CORE_DATA_MIX_H_
#define SWINFLEET_CORE_DATA_MIX_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/config/job_config.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// Rows [y0, y1) and columns [x0, x1).
struct MixBox {
  int64_t y0 = 0;
  int64_t y1 = 0;
  int64_t x0 = 0;
  int64_t x1 = 0;
  bool operator==(const MixBox&) const = default;
};

// What is done to one picture: its own share is `lam`.
struct MixEntry {
  double lam = 1;
  // The box is the partner's and all else its own; otherwise every pixel is mixed.
  bool cutmix = false;
  MixBox box;
};

// A number in [0, 1] from the Beta(alpha, alpha) distribution, alpha > 0.
double BetaSample(double alpha, CounterRng* rng);

// Cutmix's box: each side's share is sqrt(1 - lam), its centre (center_y, center_x), cut off at the
// picture's border.
MixBox CutmixBox(int64_t height, int64_t width, double lam, int64_t center_y, int64_t center_x);
// The share of the picture that a box leaves.
double LamOutside(const MixBox& box, int64_t height, int64_t width);

// Draws what is done to each of a micro-batch's pictures: one entry for all (kBatch), one for each
// pair of partners (kPair; an odd one in the middle stays as it is), or one each (kElement). `lam`
// is that of the box as cut off.
void DrawMix(const MixConfig& config, int64_t height, int64_t width, CounterRng rng,
             std::span<MixEntry> entries);  // (B)

// The entries as MixPicturesArgs has them.
void DescribeMix(std::span<const MixEntry> entries, std::span<float> weight,  // (B, 2)
                 std::span<int32_t> box);                                     // (B, 4)

// target = lam * own + (1 - lam) * the partner's, each smoothed as by SmoothedTargets.
void MixTargets(std::span<const MixEntry> entries, std::span<const int64_t> labels,
                int64_t num_classes, double smoothing, std::span<float> target);  // (B, K)

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_MIX_H_
