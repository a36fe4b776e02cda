// Masks of masked image modelling: which units of a picture the encoder doesn't see. 1 = masked.
#ifndef SWINFLEET_CORE_DATA_MASK_H_
#define SWINFLEET_CORE_DATA_MASK_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/config/job_config.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// What is masked, and how much of it.
struct MaskConfig {
  PretrainConfig::Method method = PretrainConfig::Method::kNone;
  double ratio = 0;
  // Mask units of a picture: of SimMIM and GreenMIM squares of PretrainConfig::mask_unit pixels, of
  // MAE patches.
  int64_t units_h = 0;
  int64_t units_w = 0;

  bool on() const { return method != PretrainConfig::Method::kNone; }
  int64_t units() const { return units_h * units_w; }
};

// Shape of the masks that a model is given: (B, units), or (1, units) for GreenMIM, whose pictures
// share one.
Shape MaskShape(const MaskConfig& mask, int64_t batch);

// The job's masks. Sides that the unit doesn't divide are an error of the job's validation.
MaskConfig MaskConfigFor(const ModelConfig& model, const PretrainConfig& pretrain);

// Of `units` units how many are masked: SimMIM masks ceil(units * ratio); MAE and GreenMIM keep the
// whole part of units * (1 - ratio). Both computed in float64 as written, as the official codes do.
int64_t MaskedUnits(PretrainConfig::Method method, int64_t units, double ratio);

// Masks the first `masked` units of a permutation of all.
void MaskFromPermutation(std::span<const int64_t> permutation, int64_t masked,
                         std::span<int32_t> mask);

// A uniformly random mask with MaskedUnits ones. SimMIM and MAE draw one for each picture, GreenMIM
// one for a micro-batch.
void DrawMask(const MaskConfig& config, CounterRng rng, std::vector<int64_t>* scratch,
              std::span<int32_t> mask);  // (units_h * units_w)

// Each unit of (height, width) becomes factor x factor.
void ExpandMask(std::span<const int32_t> mask, int64_t height, int64_t width, int64_t factor,
                std::span<int32_t> out);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_MASK_H_
