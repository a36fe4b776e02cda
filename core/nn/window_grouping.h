// GreenMIM's optimal grouping: which windows, with the tokens that a mask leaves them, attend
// together (Huang et al. 2022, "Green Hierarchical Vision Transformer for Masked Image Modeling",
// section 3.2).
#ifndef SWINFLEET_CORE_NN_WINDOW_GROUPING_H_
#define SWINFLEET_CORE_NN_WINDOW_GROUPING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/window_attention.h"
#include "kernels/arena.h"

namespace swinfleet {

// Puts windows into groups. All memory is taken by the constructor.
class WindowGrouper {
 public:
  // For at most `windows` windows and groups of at most `size` tokens.
  WindowGrouper(int64_t windows, int64_t size);

  // One knapsack of `size` tokens after the other is filled as far as the windows that are left
  // allow; among equally full ones windows of smaller number are preferred. `counts` are the
  // windows' tokens, from 1 to `size` each. Returns the number of groups.
  int64_t Group(std::span<const int32_t> counts, int64_t size);
  // Of the latest Group: each window's group.
  std::span<const int32_t> groups() const { return {group_.data(), windows_}; }

  // The size of a group, from the largest count to `largest`, for which attention in groups costs
  // least, by the paper's measure: groups * (4 size C^2 + 2 size^2 C), with C channels.
  int64_t BestSize(std::span<const int32_t> counts, int64_t channels, int64_t largest);

 private:
  // Fills one knapsack from the windows without a group.
  void Fill(std::span<const int32_t> counts, int64_t size, int32_t group);

  std::vector<int32_t> group_;
  size_t windows_ = 0;
  // For each sum of tokens the window with which it was first reached, -1 for none.
  std::vector<int32_t> reached_by_;
};

// A token's place on a stage's map.
struct MapPlace {
  int32_t row = 0;
  int32_t column = 0;
};

// The visible tokens of a stage, in windows that are shifted or not, packed into groups. Where at
// most two whole windows' tokens are visible, there is but one group, of all of them.
//
// How many groups there are, and of what size, hangs on the mask, while memory is planned without
// one. With V visible tokens in at most n windows of at most w^2, a size lies between the largest
// count of a window and max(w^2, the size asked for), or 2 w^2 where the size is chosen by cost (as
// many as one group of all tokens may have). Any two groups together have more tokens than the
// size: else the knapsack of the earlier one would have been filled with both. So groups * size <=
// 2 V + size. MaxGroups() groups of MaxSize() bound from above, over all masks: the size, the
// places (groups * size), and the pairs (groups * size^2).
class VisibleWindows {
 public:
  struct Options {
    // The map and the windows on it, in tokens.
    int64_t height = 0;
    int64_t width = 0;
    int64_t window = 0;
    int64_t shift = 0;
    // Visible tokens.
    int64_t visible = 0;
    int64_t channels = 0;
    // Tokens in a group, but never fewer than the largest window has; 0: the size of least cost.
    int64_t group_size = 0;
  };
  explicit VisibleWindows(const Options& options);

  // Whether windows are grouped, or all tokens are one group.
  bool grouped() const { return grouped_; }
  int64_t MaxGroups() const { return max_groups_; }
  int64_t MaxSize() const { return max_size_; }

  // Packs the tokens at these places, `visible` of them; allocates nothing.
  void Pack(std::span<const MapPlace> places);
  // Of the latest Pack.
  int64_t groups() const { return groups_; }
  int64_t size() const { return size_; }
  // Each token's window; windows with tokens are numbered in raster order over the map.
  std::span<const int32_t> window_of() const { return window_of_; }
  // Writes the tables of the latest Pack to `activations`; on the dry-run device, tables of
  // MaxGroups() groups of MaxSize() tokens. `packed` then names them.
  void Publish(std::span<const MapPlace> places, Arena& activations, const Context& context);
  const PackedWindows& packed() const { return packed_; }

 private:
  int64_t WindowsDown() const { return WindowAlong(options_.height - 1) + 1; }
  int64_t WindowsAcross() const { return WindowAlong(options_.width - 1) + 1; }
  // Number of the window in which a coordinate lies. A shift cuts the map at shift, shift + window,
  // ...: the same windows as of the official cyclic shift and mask.
  int64_t WindowAlong(int64_t coordinate) const;
  void CountWindows(std::span<const MapPlace> places);
  // Of the tables, in memory of the host: the token at each place and the place of each token; then
  // the index, from the former.
  void FillTokens(std::span<int32_t> token, std::span<int32_t> place);
  void FillIndex(std::span<const MapPlace> places, std::span<const int32_t> token,
                 std::span<int32_t> index);

  const Options options_;
  bool grouped_ = false;
  int64_t max_groups_ = 1, max_size_ = 0;
  int64_t groups_ = 0, size_ = 0;
  WindowGrouper grouper_;
  std::vector<int32_t> window_of_;   // (visible)
  std::vector<int32_t> counts_;      // of windows with tokens
  std::vector<int32_t> number_of_;   // each window's number among those with tokens
  std::vector<int32_t> next_place_;  // of each window with tokens
  PackedWindows packed_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_WINDOW_GROUPING_H_
