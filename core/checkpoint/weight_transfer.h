// Weights trained at another window or picture size, or on pictures instead of clips, made to fit.
// Each function is what the official code does when it loads such weights, but for ResizeClipTable,
// which it lacks.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHT_TRANSFER_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHT_TRANSFER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace swinfleet {

// Height and width of a map, in entries.
struct MapSize {
  int64_t height = 0;
  int64_t width = 0;
  int64_t entries() const { return height * width; }
  bool operator==(const MapSize&) const = default;
};

// torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of every channel: a = -0.75,
// no antialiasing, borders repeated. `in` is (in_size.height, in_size.width, channels), the result
// likewise: official tables and embeddings have their channels last.
std::vector<float> ResizeBicubic(std::span<const float> in, MapSize in_size, MapSize out_size,
                                 int64_t channels);

// What the fine-tuning of SimMIM does with a table of relative position biases, (size^2, channels)
// with size = 2 window - 1: the source's offsets are spread in a geometric sequence, so that the
// largest is the largest of the target (remap_pretrained_keys_swin of utils_simmim.py), and the
// table is read between them with the interpolating cubic spline of FITPACK (not-a-knot; constant
// beyond the ends). in_size is at least 5: a cubic needs 4 points.
std::vector<float> ResizeGeometric(std::span<const float> in, int64_t in_size, int64_t out_size,
                                   int64_t channels);

// A table of relative position biases of clips' windows, (2 depth - 1, 2 height - 1, 2 width - 1,
// channels) for a window of depth x height x width tokens, made for another window. Over height and
// width each offset in time is resized as V1's tables are (ResizeBicubic, where the sizes differ).
// In time nothing is stretched: an offset that both windows have keeps its biases, a shallower
// window takes the middle of the table, and offsets beyond the source's take those of its last one
// on their side. The tokens of a larger picture are finer, so that the same content lies further
// apart; those of a deeper window lie as far apart in time as before (patch_frames and
// frame_interval say how far), there are only more of them. The official code lets tables of
// another window keep their random initial values.
std::vector<float> ResizeClipTable(std::span<const float> in,
                                   const std::array<int64_t, 3>& in_window,
                                   const std::array<int64_t, 3>& out_window, int64_t channels);

// The window that a relative_coords_table of the official Swin V2 is in units of: the pre-training
// window if one was set, else the table's own. `coords` is (2 height - 1, 2 width - 1, 2) for
// `window`, as LogSpacedCoordinates gives it, possibly rounded to 16 bits. 1 for a window of one
// token, whose only offset is 0 in all units; nothing if these are not such coordinates.
std::optional<int64_t> WindowOfCoordinates(std::span<const float> coords, MapSize window);

// Video Swin's inflate_weights: a 2D projection (channels, values) of patches repeated over
// `frames`, divided by them: (rows, values_per_frame) with rows = out * in channels becomes (rows,
// frames, values_per_frame).
std::vector<float> InflateProjection(std::span<const float> in, int64_t rows, int64_t frames);

// A table repeated `times` times, one copy for each offset in time.
std::vector<float> RepeatTable(std::span<const float> in, int64_t times);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHT_TRANSFER_H_
