#include "core/nn/window_grouping.h"

#include "kernels/placement.h"

#include <glog/logging.h>

#include <algorithm>

namespace swinfleet {
namespace {

constexpr int32_t kNone = -1;
// Reaches the sum of no tokens.
constexpr int32_t kStart = -2;

double Cost(double groups, double size, double channels) {
  return groups * (4 * size * channels * channels + 2 * size * size * channels);
}

}  // namespace

WindowGrouper::WindowGrouper(int64_t windows, int64_t size)
    : group_(windows), reached_by_(size + 1) {}

void WindowGrouper::Fill(std::span<const int32_t> counts, int64_t size, int32_t group) {
  std::fill_n(reached_by_.begin(), size + 1, kNone);
  reached_by_[0] = kStart;
  int64_t best = 0;
  for (size_t window = 0; window < counts.size() && best < size; ++window) {
    if (group_[window] != kNone) continue;
    const int64_t count = counts[window];
    for (int64_t sum = std::min(best + count, size); sum >= count; --sum) {
      if (reached_by_[sum] != kNone || reached_by_[sum - count] == kNone) continue;
      reached_by_[sum] = static_cast<int32_t>(window);
      best = std::max(best, sum);
    }
  }
  // A sum's rest was reached before it, by windows of smaller number.
  for (int64_t sum = best; sum > 0;) {
    const int32_t window = reached_by_[sum];
    group_[window] = group;
    sum -= counts[window];
  }
}

int64_t WindowGrouper::Group(std::span<const int32_t> counts, int64_t size) {
  CHECK_LE(counts.size(), group_.size());
  CHECK_LT(size, static_cast<int64_t>(reached_by_.size()));
  for (const int32_t count : counts) CHECK(count >= 1 && count <= size) << count << " of " << size;
  windows_ = counts.size();
  std::fill_n(group_.begin(), windows_, kNone);
  int32_t group = 0;
  for (size_t window = 0; window < windows_; ++window) {
    // The knapsack needs not take the first window that is left.
    while (group_[window] == kNone) Fill(counts, size, group++);
  }
  return group;
}

int64_t WindowGrouper::BestSize(std::span<const int32_t> counts, int64_t channels,
                                int64_t largest) {
  int64_t smallest = 1, total = 0;
  for (const int32_t count : counts) {
    smallest = std::max<int64_t>(smallest, count);
    total += count;
  }
  const auto c = static_cast<double>(channels);
  int64_t best = smallest;
  double best_cost =
      Cost(static_cast<double>(Group(counts, smallest)), static_cast<double>(smallest), c);
  for (int64_t size = smallest + 1; size <= std::min(largest, total); ++size) {
    const auto s = static_cast<double>(size);
    // Groups without a place left over cost the least, and more from size to size.
    if (Cost(static_cast<double>(total) / s, s, c) >= best_cost) break;
    const double cost = Cost(static_cast<double>(Group(counts, size)), s, c);
    if (cost >= best_cost) continue;
    best = size;
    best_cost = cost;
  }
  return best;
}

VisibleWindows::VisibleWindows(const Options& options)
    : options_(options), grouper_(0, 0), window_of_(options.visible) {
  const int64_t whole = options.window * options.window, visible = options.visible;
  CHECK(options.window > 0 && options.shift >= 0 && options.shift < options.window)
      << options.window << " shifted by " << options.shift;
  CHECK(visible > 0 && visible <= options.height * options.width) << visible;
  const int64_t windows = WindowsDown() * WindowsAcross();
  const int64_t occupied = std::min(windows, visible);
  number_of_.resize(windows);
  counts_.reserve(occupied);
  next_place_.resize(occupied);
  grouped_ = visible > 2 * whole;
  max_size_ = visible;
  if (!grouped_) return;
  max_size_ =
      options.group_size > 0 ? std::max(std::min(options.group_size, visible), whole) : 2 * whole;
  max_groups_ = std::min(occupied, (2 * visible + max_size_ - 1) / max_size_ + 1);
  grouper_ = WindowGrouper(occupied, max_size_);
}

int64_t VisibleWindows::WindowAlong(int64_t coordinate) const {
  const int64_t before = options_.shift == 0 ? 0 : options_.window - options_.shift;
  return (coordinate + before) / options_.window;
}

void VisibleWindows::CountWindows(std::span<const MapPlace> places) {
  std::ranges::fill(number_of_, 0);
  for (size_t i = 0; i < places.size(); ++i) {
    const int64_t window =
        WindowAlong(places[i].row) * WindowsAcross() + WindowAlong(places[i].column);
    window_of_[i] = static_cast<int32_t>(window);
    ++number_of_[window];
  }
  counts_.clear();
  for (int32_t& number : number_of_) {
    if (number == 0) continue;
    counts_.push_back(number);
    number = static_cast<int32_t>(counts_.size()) - 1;
  }
  for (int32_t& window : window_of_) window = number_of_[window];
}

void VisibleWindows::Pack(std::span<const MapPlace> places) {
  CHECK_EQ(static_cast<int64_t>(places.size()), options_.visible);
  CountWindows(places);
  if (!grouped_) {
    groups_ = 1;
    size_ = options_.visible;
    return;
  }
  if (options_.group_size > 0) {
    const int64_t largest = *std::ranges::max_element(counts_);
    size_ = std::max(std::min(options_.group_size, options_.visible), largest);
  } else {
    size_ = grouper_.BestSize(counts_, options_.channels, max_size_);
  }
  groups_ = grouper_.Group(counts_, size_);
  CHECK_LE(size_, max_size_);
  CHECK_LE(groups_ * size_, max_groups_ * max_size_);
  CHECK_LE(groups_ * size_ * size_, max_groups_ * max_size_ * max_size_);
}

void VisibleWindows::Publish(std::span<const MapPlace> places, Arena& activations,
                             const Context& context) {
  const bool dry = activations.device() == Device::kDryRun;
  const int64_t groups = dry ? max_groups_ : groups_, size = dry ? max_size_ : size_;
  packed_.token = activations.Allocate({1, groups * size}, DType::kI32);
  packed_.place = activations.Allocate({1, options_.visible}, DType::kI32);
  packed_.index = activations.Allocate({groups, size, size}, DType::kI32);
  if (dry) return;
  HostElements<int32_t> token(packed_.token, context), place(packed_.place, context),
      index(packed_.index, context);
  FillTokens(token.span(), place.span());
  FillIndex(places, token.span(), index.span());
  for (HostElements<int32_t>* table : {&token, &place, &index}) table->Publish();
}

// Groups hold their windows in order, and windows their tokens.
void VisibleWindows::FillTokens(std::span<int32_t> token, std::span<int32_t> place) {
  std::ranges::fill(token, kNone);
  if (!grouped_) {
    for (int32_t i = 0; i < options_.visible; ++i) token[i] = place[i] = i;
    return;
  }
  for (int64_t group = 0; group < groups_; ++group) {
    auto next = static_cast<int32_t>(group * size_);
    for (size_t window = 0; window < counts_.size(); ++window) {
      if (grouper_.groups()[window] != group) continue;
      next_place_[window] = next;
      next += counts_[window];
    }
  }
  for (int32_t i = 0; i < options_.visible; ++i) {
    place[i] = next_place_[window_of_[i]]++;
    token[place[i]] = i;
  }
}

void VisibleWindows::FillIndex(std::span<const MapPlace> places, std::span<const int32_t> token,
                               std::span<int32_t> index) {
  const auto window = static_cast<int32_t>(options_.window);
  for (int64_t row = 0; row < groups_ * size_; ++row) {
    const int32_t i = token[row];
    const std::span<const int32_t> others = token.subspan(row / size_ * size_, size_);
    const std::span<int32_t> of_row = index.subspan(row * size_, size_);
    for (int64_t column = 0; column < size_; ++column) {
      const int32_t j = others[column];
      const bool together = i >= 0 && j >= 0 && window_of_[i] == window_of_[j];
      of_row[column] = !together ? kNone
                                 : (places[i].row - places[j].row + window - 1) * (2 * window - 1) +
                                       places[i].column - places[j].column + window - 1;
    }
  }
}

}  // namespace swinfleet
