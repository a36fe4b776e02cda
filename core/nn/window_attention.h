// Multi-head self-attention within windows, with its projections and position bias.
#ifndef SWINFLEET_CORE_NN_WINDOW_ATTENTION_H_
#define SWINFLEET_CORE_NN_WINDOW_ATTENTION_H_

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/parameters.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// Windows of which a picture has only some tokens (GreenMIM), packed into groups of one size. The
// same for all pictures of a batch; may change from one Forward to the next.
struct PackedWindows {
  TensorView token;  // i32 (1, groups * size): the token at each place, -1 at places left over
  TensorView place;  // i32 (1, tokens): the place of each token
  // i32 (groups, size, size): the entry of the position table for each pair of places, -1 for those
  // that don't attend to each other.
  TensorView index;
};

struct AttentionConfig {
  enum class Position {
    kNone,
    // A learned table of biases (Swin V1).
    kTable,
    // An MLP over log-spaced relative coordinates (Swin V2).
    kContinuous
  };

  // Of one picture; the batch is that of each call.
  WindowGeometry geometry;
  int64_t channels = 0;
  int64_t heads = 0;
  // Scaled cosine instead of q k / sqrt(D).
  bool cosine = false;
  Position position = Position::kNone;
  // One bias of q, k and v; with `cosine` of q and v alone.
  bool qkv_bias = true;
  // Without `cosine`: the factor on q k in place of 1 / sqrt(D); 0 means that.
  float score_scale = 0;
  // kTable: the window (depth, height, width) that the table was made for, at least the geometry's.
  std::array<int64_t, 3> table_window = {1, 1, 1};
  // kContinuous: the window that coordinates are divided by; 0 means the geometry's own.
  int64_t pretrained_window = 0;
  // Tokens of padding are keys like others (Video Swin), not excluded.
  bool attend_padding = false;
  // Compute attention again in Backward, from q, k and v.
  bool recompute = false;
  // Sequential self-attention: windows in a group; everything between input and output exists for
  // one group at a time, in Backward too. 0 means all at once.
  int64_t sequential_windows = 0;
  // Attention is within the windows packed here, in place of the geometry's (whose position bias it
  // keeps).
  const PackedWindows* packed = nullptr;
};

// WindowAttention of the official code, window partition and shift included. Part of a unit.
class WindowAttention {
 public:
  WindowAttention(const AttentionConfig& config, const std::string& name, ParameterTable* table);

  void Forward(const AcquiredUnit& unit,
               const TensorView& x,  // (M, C)
               const TensorView& y,  // (M, C); may be x itself
               bool keep, Arena& activations, Context& context);
  // Once for each Forward: what that kept gives way to its gradients.
  void Backward(const AcquiredUnit& unit, const TensorView& gradient,
                const TensorView& x,   // (M, C), as in Forward
                const TensorView& dy,  // (M, C)
                const TensorView& dx,  // (M, C); added to with `accumulate`
                bool accumulate, Context& context);

 private:
  // A group of windows, or everything: rows are tokens, in the order that the range asks for.
  struct Group {
    WindowGeometry geometry;
    WindowRange range;
    int64_t rows = 0;
    // Their shape with `channels` channels, for the attention operations.
    Shape ShapeOf(int64_t channels) const;
  };
  // Whether work goes group by group, in window order.
  bool Grouped() const;
  Group Everything(int64_t rows) const;
  // Of attention's arguments: only groups have rows of padding.
  bool ExcludesPadding(const Group& group) const;
  void ForEachGroup(int64_t rows, const std::function<void(const Group&)>& body) const;

  // The bias of q, k and v together, (3 C), in the workspace where it has to be put together.
  TensorView QkvBias(const AcquiredUnit& unit, DType dtype, Context& context) const;
  // The biases of all relative positions, (T, heads): the parameter, or float32 in `arena`; absent
  // without a position bias.
  TensorView PositionTable(const AcquiredUnit& unit, Arena* arena, Context& context) const;
  // The position bias, f32 (1, heads, N, N), of packed windows (groups, heads, size, size), in the
  // workspace; absent without a table.
  TensorView PositionBias(const TensorView& table, Context& context) const;
  void PositionBiasBackward(const AcquiredUnit& unit, const TensorView& gradient,
                            const TensorView& dbias, Context& context) const;
  // Tokens (M, C) at their places in the packed windows, in the workspace; zeros at those left
  // over.
  TensorView Pack(const TensorView& x, Context& context) const;
  void Unpack(const TensorView& packed, const TensorView& x, Context& context) const;
  void Attend(const AcquiredUnit& unit, const Group& group, const TensorView& qkv,
              const TensorView& bias, const TensorView& out, const TensorView& lse,
              Context& context) const;
  void GroupForward(const AcquiredUnit& unit, const Group& group, const TensorView& bias,
                    const TensorView& x, const TensorView& y, Context& context) const;
  void GroupBackward(const AcquiredUnit& unit, const TensorView& gradient, const Group& group,
                     const TensorView& bias, const TensorView& dbias, const TensorView& x,
                     const TensorView& dy, const TensorView& dx, Context& context) const;
  // From dy to the gradient of qkv, with those of everything between: qkv and attention give way to
  // their gradients.
  void AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient, const Group& group,
                         const TensorView& qkv, const TensorView& bias, const TensorView& attention,
                         const TensorView& lse, const TensorView& dy, const TensorView& dbias,
                         Context& context) const;
  void QkvBackward(const AcquiredUnit& unit, const TensorView& gradient, const TensorView& x,
                   const TensorView& dqkv, const TensorView& dx, bool accumulate,
                   Context& context) const;
  TensorView Coordinates(const Context& context) const;
  TensorView Index(const Context& context) const;

  const std::string name_;
  AttentionConfig config_;
  // kContinuous: relative coordinates, (T, 2).
  std::vector<float> coords_;
  // Entry of the table for each pair of tokens, (N, N); null without a position bias.
  std::shared_ptr<const std::vector<int32_t>> index_;
  int64_t table_size_ = 0;

  int logit_scale_ = -1, qkv_bias_ = -1, q_bias_ = -1, v_bias_ = -1;
  int table_bias_ = -1, cpb_w1_ = -1, cpb_b1_ = -1, cpb_w2_ = -1;
  int qkv_weight_, proj_weight_, proj_bias_;

  // Kept for backward; nothing in groups.
  TensorView qkv_;        // (M, 3 C)
  TensorView attention_;  // (M, C), before the projection; absent when computed again
  TensorView lse_;        // f32 (M, heads), of packed windows (B * places, heads)
  TensorView table_;      // (T, heads), as PositionTable has it
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_WINDOW_ATTENTION_H_
