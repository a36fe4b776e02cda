#include "core/nn/window_attention.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// Hidden units of the position bias's MLP (WindowAttention.cpb_mlp of the official code).
constexpr int64_t kPositionHidden = 512;

int64_t TableSize(const std::array<int64_t, 3>& window) {
  return (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1);
}

// The first `tokens` rows and columns of relative_position_index of a whole window. Where the map
// is smaller than the table's window, the official Video Swin numbers the tokens by the whole
// window all the same.
std::vector<int32_t> RelativeIndex(const std::array<int64_t, 3>& window, int64_t tokens) {
  std::vector<int32_t> index(tokens * tokens);
  const auto place = [&](int64_t token) {
    return std::array<int64_t, 3>{token / (window[1] * window[2]), token / window[2] % window[1],
                                  token % window[2]};
  };
  for (int64_t i = 0; i < tokens; ++i) {
    const std::array<int64_t, 3> a = place(i);
    for (int64_t j = 0; j < tokens; ++j) {
      const std::array<int64_t, 3> b = place(j);
      int64_t entry = 0;
      for (int axis = 0; axis < 3; ++axis) {
        entry = entry * (2 * window[axis] - 1) + a[axis] - b[axis] + window[axis] - 1;
      }
      index[i * tokens + j] = static_cast<int32_t>(entry);
    }
  }
  return index;
}

// One index for all blocks that use it, because a large window's is megabytes.
std::shared_ptr<const std::vector<int32_t>> SharedIndex(const std::array<int64_t, 3>& window,
                                                        int64_t tokens) {
  static std::mutex mutex;
  static std::map<std::pair<std::array<int64_t, 3>, int64_t>,
                  std::weak_ptr<const std::vector<int32_t>>>
      known;
  const std::lock_guard lock(mutex);
  auto& entry = known[{window, tokens}];
  std::shared_ptr<const std::vector<int32_t>> index = entry.lock();
  if (index == nullptr) {
    index = std::make_shared<const std::vector<int32_t>>(RelativeIndex(window, tokens));
    entry = index;
  }
  return index;
}

}  // namespace

WindowAttention::WindowAttention(const AttentionConfig& config, const std::string& name,
                                 ParameterTable* table)
    : name_(name), config_(config) {
  using Position = AttentionConfig::Position;
  const WindowGeometry& geometry = config.geometry;
  const int64_t c = config.channels, heads = config.heads;
  const Initializer zeros = {Initializer::Kind::kZeros};
  const Initializer weights = {Initializer::Kind::kTruncatedNormal, 0.02};
  const auto add = [&](const char* part, const Shape& shape, const Initializer& init) {
    return table->Add(name + "." + part, shape, init);
  };
  if (config.cosine) {
    logit_scale_ =
        add("logit_scale", {heads, 1, 1}, {Initializer::Kind::kConstant, std::log(10.0)});
  }
  if (config.qkv_bias && config.cosine) {
    q_bias_ = add("q_bias", {c}, zeros);
    v_bias_ = add("v_bias", {c}, zeros);
  }
  std::array<int64_t, 3> window = config.table_window;
  if (config.position == Position::kContinuous) {
    CHECK_EQ(geometry.window_d, 1);
    window = {1, geometry.window_h, geometry.window_w};
    coords_.resize(2 * TableSize(window));
    LogSpacedCoordinates(geometry.window_h, geometry.window_w, config.pretrained_window,
                         config.pretrained_window, coords_.data());
    cpb_w1_ = add("cpb_mlp.0.weight", {kPositionHidden, 2}, weights);
    cpb_b1_ = add("cpb_mlp.0.bias", {kPositionHidden}, zeros);
    cpb_w2_ = add("cpb_mlp.2.weight", {heads, kPositionHidden}, weights);
  } else if (config.position == Position::kTable) {
    table_bias_ = add("relative_position_bias_table", {TableSize(window), heads}, weights);
  }
  if (config.position != Position::kNone) {
    table_size_ = TableSize(window);
    index_ = SharedIndex(window, geometry.WindowTokens());
  }
  qkv_weight_ = table->AddProductWeight(name + ".qkv.weight", {3 * c, c}, weights);
  if (config.qkv_bias && !config.cosine) qkv_bias_ = add("qkv.bias", {3 * c}, zeros);
  proj_weight_ = table->AddProductWeight(name + ".proj.weight", {c, c}, weights);
  proj_bias_ = add("proj.bias", {c}, zeros);
}

Shape WindowAttention::Group::ShapeOf(int64_t channels) const {
  if (range.count > 0) return {range.count, geometry.WindowTokens(), channels};
  return {geometry.batch, geometry.depth, geometry.height, geometry.width, channels};
}

bool WindowAttention::Grouped() const {
  // Padding that is attended to needs rows of its own, which only groups have.
  return config_.sequential_windows > 0 ||
         (config_.attend_padding && config_.geometry.HasPadding());
}

WindowAttention::Group WindowAttention::Everything(int64_t rows) const {
  Group group = {.geometry = config_.geometry, .range = {}, .rows = rows};
  if (config_.packed != nullptr) {
    // A row of windows, one a group.
    group.geometry = {.height = 1,
                      .width = config_.packed->token.shape[1],
                      .window_h = 1,
                      .window_w = config_.packed->index.shape[1]};
    group.geometry.batch = rows / config_.packed->place.shape[1];
    return group;
  }
  group.geometry.batch = rows / group.geometry.Tokens();
  return group;
}

bool WindowAttention::ExcludesPadding(const Group& group) const {
  return !config_.attend_padding || group.range.count == 0;
}

void WindowAttention::ForEachGroup(int64_t rows,
                                   const std::function<void(const Group&)>& body) const {
  Group group = Everything(rows);
  const int64_t windows = group.geometry.Windows();
  const int64_t size = config_.sequential_windows > 0 ? config_.sequential_windows : windows;
  for (int64_t first = 0; first < windows; first += size) {
    group.range = {first, std::min(size, windows - first)};
    group.rows = group.range.count * group.geometry.WindowTokens();
    body(group);
  }
}

TensorView WindowAttention::Coordinates(const Context& context) const {
  return ConstantOnDevice(ViewOf(const_cast<float*>(coords_.data()), {table_size_, 2}), context);
}

TensorView WindowAttention::Index(const Context& context) const {
  if (config_.packed != nullptr) return config_.packed->index;
  const int64_t tokens = config_.geometry.WindowTokens();
  return ConstantOnDevice(ViewOf(const_cast<int32_t*>(index_->data()), {1, tokens, tokens}),
                          context);
}

TensorView WindowAttention::QkvBias(const AcquiredUnit& unit, DType dtype, Context& context) const {
  if (q_bias_ < 0) return unit[qkv_bias_];
  // The keys have no bias.
  const TensorView bias = context.workspace->Allocate({3, config_.channels}, dtype);
  context.ops->fill({bias, 0}, context);
  context.ops->add({unit[q_bias_], bias.Rows(0, 1)}, context);
  context.ops->add({unit[v_bias_], bias.Rows(2, 1)}, context);
  return bias.Reshape({3 * config_.channels});
}

TensorView WindowAttention::PositionTable(const AcquiredUnit& unit, Arena* arena,
                                          Context& context) const {
  if (index_ == nullptr) return {};
  if (table_bias_ >= 0) return unit[table_bias_];
  const TensorView table = arena->Allocate({table_size_, config_.heads});
  context.ops->position_table_forward({.coords = Coordinates(context),
                                       .w1 = unit[cpb_w1_],
                                       .b1 = unit[cpb_b1_],
                                       .w2 = unit[cpb_w2_],
                                       .table = table},
                                      context);
  return table;
}

TensorView WindowAttention::PositionBias(const TensorView& table, Context& context) const {
  if (table.empty()) return {};
  const TensorView index = Index(context);
  const TensorView bias =
      context.workspace->Allocate({index.shape[0], config_.heads, index.shape[1], index.shape[2]});
  context.ops->bias_gather({.table = table, .index = index, .mask = {}, .bias = bias}, context);
  return bias;
}

void WindowAttention::PositionBiasBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                           const TensorView& dbias, Context& context) const {
  if (dbias.empty()) return;
  if (table_bias_ >= 0) {
    context.ops->bias_scatter({dbias, Index(context), unit.At(gradient, table_bias_)}, context);
    return;
  }
  ArenaScope scope(context.workspace);
  const TensorView dtable = context.workspace->Allocate({table_size_, config_.heads});
  context.ops->fill({dtable, 0}, context);
  context.ops->bias_scatter({dbias, Index(context), dtable}, context);
  context.ops->position_table_backward({.coords = Coordinates(context),
                                        .w1 = unit[cpb_w1_],
                                        .b1 = unit[cpb_b1_],
                                        .w2 = unit[cpb_w2_],
                                        .dtable = dtable,
                                        .dw1 = unit.At(gradient, cpb_w1_),
                                        .db1 = unit.At(gradient, cpb_b1_),
                                        .dw2 = unit.At(gradient, cpb_w2_)},
                                       context);
}

TensorView WindowAttention::Pack(const TensorView& x, Context& context) const {
  const TensorView& token = config_.packed->token;
  const int64_t channels = x.shape[1], tokens = config_.packed->place.shape[1];
  const int64_t batch = x.shape[0] / tokens;
  const TensorView packed = context.workspace->Allocate({batch, token.shape[1], channels}, x.dtype);
  context.ops->token_gather({x.Reshape({batch, tokens, channels}), token, packed}, context);
  return packed;
}

void WindowAttention::Unpack(const TensorView& packed, const TensorView& x,
                             Context& context) const {
  const TensorView& place = config_.packed->place;
  const int64_t channels = x.shape[1], tokens = place.shape[1], batch = x.shape[0] / tokens;
  context.ops->token_gather(
      {packed.Reshape({batch, packed.NumElements() / (batch * channels), channels}), place,
       x.Reshape({batch, tokens, channels})},
      context);
}

void WindowAttention::Attend(const AcquiredUnit& unit, const Group& group, const TensorView& qkv,
                             const TensorView& bias, const TensorView& out, const TensorView& lse,
                             Context& context) const {
  ArenaScope scope(context.workspace);
  const bool packs = config_.packed != nullptr;
  const Shape out_shape = group.ShapeOf(config_.channels);
  const TensorView to = packs ? context.workspace->Allocate(out_shape, out.dtype) : out;
  const TensorView from = packs ? Pack(qkv, context) : qkv;
  context.ops->window_attention_forward({.geometry = group.geometry,
                                         .heads = config_.heads,
                                         .qkv = from.Reshape(group.ShapeOf(3 * config_.channels)),
                                         .logit_scale = unit[logit_scale_],
                                         .bias = bias,
                                         .out = to.Reshape(out_shape),
                                         .lse = lse.Reshape(group.ShapeOf(config_.heads)),
                                         .range = group.range,
                                         .exclude_padding = ExcludesPadding(group),
                                         .score_scale = config_.score_scale},
                                        context);
  if (packs) Unpack(to, out, context);
}

void WindowAttention::Forward(const AcquiredUnit& unit, const TensorView& x, const TensorView& y,
                              bool keep, Arena& activations, Context& context) {
  const ProfileScope profile(context, name_);
  const int64_t rows = x.shape[0], c = config_.channels;
  ArenaScope scope(context.workspace);
  if (Grouped()) {
    const TensorView bias = PositionBias(PositionTable(unit, context.workspace, context), context);
    ForEachGroup(rows, [&](const Group& group) { GroupForward(unit, group, bias, x, y, context); });
    return;
  }
  Arena& kept = keep ? activations : *context.workspace;
  qkv_ = kept.Allocate({rows, 3 * c}, x.dtype);
  lse_ = kept.Allocate(Everything(rows).ShapeOf(config_.heads));
  attention_ = (config_.recompute ? *context.workspace : kept).Allocate({rows, c}, x.dtype);
  table_ = PositionTable(unit, &kept, context);
  {
    ArenaScope inner(context.workspace);
    const TensorView qkv_bias = QkvBias(unit, x.dtype, context);
    context.ops->linear_forward({x, unit[qkv_weight_], qkv_bias, qkv_}, context);
  }
  {
    ArenaScope inner(context.workspace);
    const TensorView bias = PositionBias(table_, context);
    Attend(unit, Everything(rows), qkv_, bias, attention_, lse_, context);
  }
  context.ops->linear_forward({attention_, unit[proj_weight_], unit[proj_bias_], y}, context);
}

void WindowAttention::GroupForward(const AcquiredUnit& unit, const Group& group,
                                   const TensorView& bias, const TensorView& x, const TensorView& y,
                                   Context& context) const {
  ArenaScope scope(context.workspace);
  const int64_t rows = group.rows, c = config_.channels;
  const auto allocate = [&](int64_t width) {
    return context.workspace->Allocate({rows, width}, x.dtype);
  };
  const auto map = [&](const TensorView& view) {
    return view.Reshape(Everything(x.shape[0]).ShapeOf(c));
  };
  const TensorView attention = allocate(c);
  // Rows of padding are not written, and must not hold what a product would spread.
  context.ops->fill({attention, 0}, context);
  {
    ArenaScope inner(context.workspace);
    const TensorView inputs = allocate(c);
    context.ops->window_gather(
        {group.geometry, group.range, map(x), inputs.Reshape(group.ShapeOf(c))}, context);
    const TensorView qkv = allocate(3 * c);
    const TensorView lse = context.workspace->Allocate({rows, config_.heads});
    const TensorView qkv_bias = QkvBias(unit, x.dtype, context);
    context.ops->linear_forward({inputs, unit[qkv_weight_], qkv_bias, qkv}, context);
    Attend(unit, group, qkv, bias, attention, lse, context);
  }
  const TensorView projected = allocate(c);
  context.ops->linear_forward({attention, unit[proj_weight_], unit[proj_bias_], projected},
                              context);
  context.ops->window_scatter({group.geometry, group.range, projected.Reshape(group.ShapeOf(c)),
                               map(y), /*accumulate=*/false},
                              context);
}

void WindowAttention::Backward(const AcquiredUnit& unit, const TensorView& gradient,
                               const TensorView& x, const TensorView& dy, const TensorView& dx,
                               bool accumulate, Context& context) {
  const ProfileScope profile(context, name_);
  ArenaScope scope(context.workspace);
  const int64_t rows = x.shape[0], c = config_.channels;
  const auto make_dbias = [&](const TensorView& bias) {
    if (bias.empty()) return TensorView{};
    const TensorView dbias = context.workspace->Allocate(bias.shape);
    context.ops->fill({dbias, 0}, context);
    return dbias;
  };
  if (Grouped()) {
    const TensorView bias = PositionBias(PositionTable(unit, context.workspace, context), context);
    const TensorView dbias = make_dbias(bias);
    if (!accumulate) context.ops->fill({dx, 0}, context);
    ForEachGroup(rows, [&](const Group& group) {
      GroupBackward(unit, gradient, group, bias, dbias, x, dy, dx, context);
    });
    PositionBiasBackward(unit, gradient, dbias, context);
    return;
  }
  {
    ArenaScope inner(context.workspace);
    // A table that is a parameter may lie elsewhere since it was acquired anew.
    const TensorView bias = PositionBias(table_bias_ >= 0 ? unit[table_bias_] : table_, context);
    const TensorView dbias = make_dbias(bias);
    TensorView attention = attention_;
    if (config_.recompute) {
      attention = context.workspace->Allocate({rows, c}, x.dtype);
      Attend(unit, Everything(rows), qkv_, bias, attention, lse_, context);
    }
    AttentionBackward(unit, gradient, Everything(rows), qkv_, bias, attention, lse_, dy, dbias,
                      context);
    PositionBiasBackward(unit, gradient, dbias, context);
  }
  QkvBackward(unit, gradient, x, qkv_, dx, accumulate, context);
}

void WindowAttention::GroupBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                    const Group& group, const TensorView& bias,
                                    const TensorView& dbias, const TensorView& x,
                                    const TensorView& dy, const TensorView& dx,
                                    Context& context) const {
  ArenaScope scope(context.workspace);
  const int64_t rows = group.rows, c = config_.channels;
  const auto allocate = [&](int64_t width) {
    return context.workspace->Allocate({rows, width}, x.dtype);
  };
  const auto map = [&](const TensorView& view) {
    return view.Reshape(Everything(x.shape[0]).ShapeOf(c));
  };
  const auto gather = [&](const TensorView& from) {
    const TensorView to = allocate(c);
    context.ops->window_gather(
        {group.geometry, group.range, map(from), to.Reshape(group.ShapeOf(c))}, context);
    return to;
  };
  const TensorView inputs = gather(x);
  const TensorView qkv = allocate(3 * c);
  {
    ArenaScope inner(context.workspace);
    const TensorView attention = allocate(c);
    const TensorView lse = context.workspace->Allocate({rows, config_.heads});
    {
      ArenaScope innermost(context.workspace);
      const TensorView qkv_bias = QkvBias(unit, x.dtype, context);
      context.ops->linear_forward({inputs, unit[qkv_weight_], qkv_bias, qkv}, context);
    }
    context.ops->fill({attention, 0}, context);
    Attend(unit, group, qkv, bias, attention, lse, context);
    const TensorView dout = gather(dy);
    AttentionBackward(unit, gradient, group, qkv, bias, attention, lse, dout, dbias, context);
  }
  const TensorView dinputs = allocate(c);
  QkvBackward(unit, gradient, inputs, qkv, dinputs, /*accumulate=*/false, context);
  context.ops->window_scatter({group.geometry, group.range, dinputs.Reshape(group.ShapeOf(c)),
                               map(dx), /*accumulate=*/true},
                              context);
}

void WindowAttention::AttentionBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                        const Group& group, const TensorView& qkv,
                                        const TensorView& bias, const TensorView& attention,
                                        const TensorView& lse, const TensorView& dy,
                                        const TensorView& dbias, Context& context) const {
  ArenaScope scope(context.workspace);
  const int64_t c = config_.channels;
  const TensorView dattention = attention;
  context.ops->linear_backward_weight(
      {dy, attention, unit.At(gradient, proj_weight_), unit.At(gradient, proj_bias_),
       unit.Accumulates(proj_weight_)},
      context);
  context.ops->linear_backward_input({dy, unit[proj_weight_], dattention}, context);
  const bool packs = config_.packed != nullptr;
  const Shape qkv_shape = group.ShapeOf(3 * c);
  const TensorView places = (packs ? Pack(qkv, context) : qkv).Reshape(qkv_shape);
  const TensorView dout = packs ? Pack(dattention, context) : dattention;
  context.ops->window_attention_backward({.geometry = group.geometry,
                                          .heads = config_.heads,
                                          .qkv = places,
                                          .logit_scale = unit[logit_scale_],
                                          .bias = bias,
                                          .lse = lse.Reshape(group.ShapeOf(config_.heads)),
                                          .dout = dout.Reshape(group.ShapeOf(c)),
                                          .dqkv = places,
                                          .dlogit_scale = unit.At(gradient, logit_scale_),
                                          .dbias = dbias,
                                          .range = group.range,
                                          .exclude_padding = ExcludesPadding(group),
                                          .score_scale = config_.score_scale},
                                         context);
  if (packs) Unpack(places, qkv, context);
}

void WindowAttention::QkvBackward(const AcquiredUnit& unit, const TensorView& gradient,
                                  const TensorView& x, const TensorView& dqkv, const TensorView& dx,
                                  bool accumulate, Context& context) const {
  ArenaScope scope(context.workspace);
  TensorView dbias = unit.At(gradient, qkv_bias_);
  if (q_bias_ >= 0) {
    dbias = context.workspace->Allocate({3 * config_.channels});
    context.ops->fill({dbias, 0}, context);
  }
  context.ops->linear_backward_weight(
      {dqkv, x, unit.At(gradient, qkv_weight_), dbias, unit.Accumulates(qkv_weight_)}, context);
  if (q_bias_ >= 0) {
    const TensorView parts = dbias.Reshape({3, config_.channels});
    context.ops->add({parts.Rows(0, 1), unit.At(gradient, q_bias_)}, context);
    context.ops->add({parts.Rows(2, 1), unit.At(gradient, v_bias_)}, context);
  }
  context.ops->linear_backward_input({dqkv, unit[qkv_weight_], dx, accumulate}, context);
}

}  // namespace swinfleet
