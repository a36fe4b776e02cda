#include "core/loss/targets.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace swinfleet {

void SmoothedTargets(std::span<const int64_t> labels, int64_t num_classes, double smoothing,
                     std::span<float> target) {
  CHECK_GT(num_classes, 0);
  CHECK(smoothing >= 0 && smoothing <= 1) << smoothing;
  CHECK_EQ(target.size(), labels.size() * static_cast<size_t>(num_classes));
  const double off = smoothing / static_cast<double>(num_classes);
  std::fill(target.begin(), target.end(), static_cast<float>(off));
  for (size_t b = 0; b < labels.size(); ++b) {
    CHECK(labels[b] >= 0 && labels[b] < num_classes)
        << "label " << labels[b] << " of " << num_classes << " classes";
    target[b * num_classes + labels[b]] = static_cast<float>(off + (1 - smoothing));
  }
}

TopCount CountTop(std::span<const float> logits, std::span<const int64_t> labels,
                  int64_t num_classes) {
  CHECK_GT(num_classes, 0);
  CHECK_EQ(logits.size(), labels.size() * static_cast<size_t>(num_classes));
  TopCount count;
  count.pictures = static_cast<int64_t>(labels.size());
  for (size_t b = 0; b < labels.size(); ++b) {
    CHECK(labels[b] >= 0 && labels[b] < num_classes)
        << "label " << labels[b] << " of " << num_classes << " classes";
    const auto row = logits.subspan(b * num_classes, num_classes);
    if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) continue;
    const float own = row[labels[b]];
    const auto label = row.begin() + labels[b];
    const auto ahead = std::count_if(row.begin(), label, [own](float x) { return x >= own; }) +
                       std::count_if(label, row.end(), [own](float x) { return x > own; });
    count.top1 += ahead < 1;
    count.top5 += ahead < 5;
  }
  return count;
}

}  // namespace swinfleet
