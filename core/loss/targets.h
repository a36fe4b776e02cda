// Targets of cross entropy.
#ifndef SWINFLEET_CORE_LOSS_TARGETS_H_
#define SWINFLEET_CORE_LOSS_TARGETS_H_

#include <cstdint>
#include <span>

namespace swinfleet {

// target[b, k] = smoothing / K + (1 - smoothing) [k == label[b]] (timm's
// LabelSmoothingCrossEntropy, written as a soft target). Labels are in [0, K).
void SmoothedTargets(std::span<const int64_t> labels, int64_t num_classes, double smoothing,
                     std::span<float> target);  // (B, K)

// Of one batch: whether each picture's label is the largest logit, and among the k largest. Of
// equal logits, which are common in 16 bits, the lower class comes first, as it does in argmax: one
// of them is the guess, whatever the label (torch's topk takes one of them too, but doesn't say
// which). A row that is not finite counts as wrong.
struct TopCount {
  int64_t pictures = 0;
  int64_t top1 = 0;
  int64_t top5 = 0;
};
TopCount CountTop(std::span<const float> logits,  // (B, K)
                  std::span<const int64_t> labels, int64_t num_classes);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_LOSS_TARGETS_H_
