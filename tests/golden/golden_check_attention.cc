// Operations around windows: their index arithmetic is the fused kernel's own.
#include <algorithm>
#include <cmath>

#include "tests/golden/golden_check.h"
#include "tests/reference/reference.h"

namespace swinfleet::golden {
namespace {

// Official scores of pairs that must not see each other.
constexpr float kMasked = -100;

// (depth, height, width). A number means both of height and width.
using Triple = std::array<int64_t, 3>;

// From a number, (height, width) or (depth, height, width); `depth` where it isn't given.
Triple ParseTriple(const Json& value, int64_t depth) {
  if (value.is_array() && value.size() == 3) return value.get<Triple>();
  const std::array<int64_t, 2> pair = Pair(value);
  return {depth, pair[0], pair[1]};
}

// Windows on a map of `size` in one picture; throws Error where they don't tile it.
WindowGeometry MakeGeometry(const std::string& path, int64_t batch, const Triple& size,
                            const Triple& window, const Triple& shift) {
  for (int i = 0; i < 3; ++i) {
    if (window[i] >= 1 && size[i] >= window[i] && size[i] % window[i] == 0 && shift[i] >= 0 &&
        shift[i] < window[i]) {
      continue;
    }
    throw Error(path + ": windows of " + std::to_string(window[i]) + " shifted by " +
                std::to_string(shift[i]) + " don't tile " + std::to_string(size[i]) + " tokens");
  }
  WindowGeometry geometry;
  geometry.batch = batch;
  geometry.depth = size[0];
  geometry.height = size[1];
  geometry.width = size[2];
  geometry.window_d = window[0];
  geometry.window_h = window[1];
  geometry.window_w = window[2];
  geometry.shift_d = shift[0];
  geometry.shift_h = shift[1];
  geometry.shift_w = shift[2];
  return geometry;
}

// (windows, N, N) of 0 and -100, by the regions of the fused kernel.
std::vector<float> Mask(const WindowGeometry& geometry) {
  std::vector<float> mask;
  const int64_t tokens = geometry.WindowTokens();
  for (int64_t w = 0; w < geometry.WindowsPerPicture(); ++w) {
    for (int64_t i = 0; i < tokens; ++i) {
      for (int64_t j = 0; j < tokens; ++j) {
        mask.push_back(geometry.RegionAt(w, i) == geometry.RegionAt(w, j) ? 0 : kMasked);
      }
    }
  }
  return mask;
}

// A bias for each pair of a window's tokens from param/<prefix>: the MLP cpb_mlp of Swin V2, or the
// table relative_position_bias_table of Swin V1; and the gradients.
struct PositionBias {
  std::string prefix;
  bool continuous;
  Tensor coords, w1, b1, w2, table, bias, dtable, dw1, db1, dw2;
  std::vector<int32_t> index;

  PositionBias(const Golden& golden, const std::string& name, std::array<int64_t, 2> window,
               std::array<int64_t, 2> pretrained, int64_t heads, bool continuous_)
      : prefix(name), continuous(continuous_) {
    if (window[0] < 1 || window[1] < 1 || window[0] > 64 || window[1] > 64) {
      throw Error(golden.path() + ": a window of " + std::to_string(window[0]) + "x" +
                  std::to_string(window[1]));
    }
    const int64_t entries = (2 * window[0] - 1) * (2 * window[1] - 1);
    const int64_t tokens = window[0] * window[1];
    for (int64_t i = 0; i < tokens * tokens; ++i) {
      index.push_back(static_cast<int32_t>(
          RelativePositionIndex(window[0], window[1], i / tokens, i % tokens)));
    }
    table = Tensor::Zeros(Shape{entries, heads});
    dtable = table;
    bias = Tensor::Zeros(Shape{1, heads, tokens, tokens});
    if (!continuous) {
      table = golden.Load("param/" + prefix + "relative_position_bias_table", table.shape);
      return;
    }
    coords = Tensor::Zeros(Shape{entries, 2});
    LogSpacedCoordinates(window[0], window[1], pretrained[0], pretrained[1], coords.values.data());
    const Tensor first = golden.Load("param/" + prefix + "cpb_mlp.0.weight");
    const int64_t hidden = first.shape.rank() == 2 ? first.shape[0] : 0;
    w1 = golden.Load("param/" + prefix + "cpb_mlp.0.weight", Shape{hidden, 2});
    b1 = golden.Load("param/" + prefix + "cpb_mlp.0.bias", Shape{hidden});
    w2 = golden.Load("param/" + prefix + "cpb_mlp.2.weight", Shape{heads, hidden});
    dw1 = Tensor::Zeros(w1.shape);
    db1 = Tensor::Zeros(b1.shape);
    dw2 = Tensor::Zeros(w2.shape);
  }
  TensorView Index() { return ViewOf(index.data(), Shape{1, bias.shape[2], bias.shape[3]}); }
  // (heads, N, N).
  Shape SquareShape() const { return Shape{bias.shape[1], bias.shape[2], bias.shape[3]}; }
  void Forward(const OpRunner& runner) {
    if (continuous) {
      runner.Run(&OpTable::position_table_forward, PositionTableForwardArgs{.coords = coords.View(),
                                                                            .w1 = w1.View(),
                                                                            .b1 = b1.View(),
                                                                            .w2 = w2.View(),
                                                                            .table = table.View()});
    }
    runner.Run(
        &OpTable::bias_gather,
        BiasGatherArgs{.table = table.View(), .index = Index(), .mask = {}, .bias = bias.View()});
  }
  void Backward(const OpRunner& runner, Tensor& dbias) {
    runner.Run(&OpTable::bias_scatter,
               BiasScatterArgs{
                   .dbias = dbias.View(bias.shape), .index = Index(), .dtable = dtable.View()});
    if (!continuous) return;
    runner.Run(&OpTable::position_table_backward, PositionTableBackwardArgs{.coords = coords.View(),
                                                                            .w1 = w1.View(),
                                                                            .b1 = b1.View(),
                                                                            .w2 = w2.View(),
                                                                            .dtable = dtable.View(),
                                                                            .dw1 = dw1.View(),
                                                                            .db1 = db1.View(),
                                                                            .dw2 = dw2.View()});
  }
  // The MLP's own output (T, heads), before the sigmoid, which the operation keeps to itself.
  Tensor MlpOutput(const OpRunner& runner) {
    Tensor hidden = Tensor::Zeros(Shape{coords.shape[0], w1.shape[0]});
    LinearForwardArgs first{coords.View(), w1.View(), b1.View(), hidden.View()};
    runner.Run(&OpTable::linear_forward, first);
    for (float& x : hidden.values) x = std::max(x, 0.0f);
    Tensor output = Tensor::Zeros(table.shape);
    LinearForwardArgs second{hidden.View(), w2.View(), TensorView{}, output.View()};
    runner.Run(&OpTable::linear_forward, second);
    return output;
  }
  void CompareGradients(Comparison& comparison) const {
    const auto compare = [&](const std::string& name, const Tensor& gradient) {
      comparison.Compare("grad/" + prefix + name, std::span<const float>(gradient.values));
    };
    if (continuous) {
      compare("cpb_mlp.0.weight", dw1);
      compare("cpb_mlp.0.bias", db1);
      compare("cpb_mlp.2.weight", dw2);
    } else {
      compare("relative_position_bias_table", dtable);
    }
  }
};

// WindowAttention of the official code, V1 or V2, on windows that are already cut out: a range of
// all windows.
class Attention {
 public:
  Attention(const Golden& golden, const OpRunner& runner, const WindowGeometry& geometry,
            int64_t dim, int64_t heads, std::array<int64_t, 2> pretrained, bool v2, bool qkv_bias)
      : runner_(runner),
        geometry_(geometry),
        rows_(geometry.Windows() * geometry.WindowTokens()),
        dim_(dim),
        heads_(heads),
        position_(golden, "", {geometry.window_h, geometry.window_w}, pretrained, heads, v2),
        qkv_weight_(golden.Load("param/qkv.weight", Shape{3 * dim, dim})),
        proj_weight_(golden.Load("param/proj.weight", Shape{dim, dim})),
        proj_bias_(golden.Load("param/proj.bias", Shape{dim})) {
    if (v2) logit_scale_ = golden.Load("param/logit_scale", Shape{heads, 1, 1});
    if (!qkv_bias) return;
    if (!v2) {
      qkv_bias_ = golden.Load("param/qkv.bias", Shape{3 * dim});
      return;
    }
    // q and v have a bias, k has none.
    qkv_bias_ = Tensor::Zeros(Shape{3 * dim});
    const Tensor q = golden.Load("param/q_bias", Shape{dim});
    const Tensor v = golden.Load("param/v_bias", Shape{dim});
    std::ranges::copy(q.values, qkv_bias_.values.begin());
    std::ranges::copy(v.values, qkv_bias_.values.begin() + 2 * dim);
  }

  // x and the result are (rows, dim).
  Tensor Forward(Tensor& x) {
    position_.Forward(runner_);
    qkv_ = Tensor::Zeros(Shape{rows_, 3 * dim_});
    LinearForwardArgs qkv{x.View(), qkv_weight_.View(), qkv_bias_.View(), qkv_.View()};
    runner_.Run(&OpTable::linear_forward, qkv);
    attended_ = Tensor::Zeros(Shape{rows_, dim_});
    lse_ = Tensor::Zeros(Shape{rows_, heads_});
    WindowAttentionForwardArgs attention;
    attention.geometry = geometry_;
    attention.heads = heads_;
    attention.range = {0, geometry_.Windows()};
    attention.qkv = qkv_.View(Rows(3 * dim_));
    attention.logit_scale = logit_scale_.View();
    attention.bias = position_.bias.View(position_.SquareShape());
    attention.out = attended_.View(Rows(dim_));
    attention.lse = lse_.View(Rows(heads_));
    runner_.Run(&OpTable::window_attention_forward, attention);
    Tensor y = Tensor::Zeros(Shape{rows_, dim_});
    LinearForwardArgs proj{attended_.View(), proj_weight_.View(), proj_bias_.View(), y.View()};
    runner_.Run(&OpTable::linear_forward, proj);
    return y;
  }

  // Compares the gradients of the parameters and returns that of x.
  Tensor Backward(Tensor& x, Tensor& dy, Comparison& comparison) {
    Tensor dproj_bias = Tensor::Zeros(Shape{dim_});
    Tensor dattended =
        LinearBackward("proj.weight", attended_, proj_weight_, dy, &dproj_bias, comparison);
    comparison.Compare("grad/proj.bias", std::span<const float>(dproj_bias.values));
    Tensor dqkv = AttentionBackward(dattended, comparison);
    Tensor dqkv_bias;
    if (!qkv_bias_.values.empty()) dqkv_bias = Tensor::Zeros(qkv_bias_.shape);
    Tensor dx = LinearBackward("qkv.weight", x, qkv_weight_, dqkv, &dqkv_bias, comparison);
    const std::span<const float> all(dqkv_bias.values);
    if (!all.empty() && position_.continuous) {
      comparison.Compare("grad/q_bias", all.first(dim_));
      comparison.Compare("grad/v_bias", all.last(dim_));
    } else if (!all.empty()) {
      comparison.Compare("grad/qkv.bias", all);
    }
    return dx;
  }

 private:
  Shape Rows(int64_t channels) const {
    return Shape{geometry_.Windows(), geometry_.WindowTokens(), channels};
  }
  // The gradient of qkv; compares those of the logit scale and of the position bias.
  Tensor AttentionBackward(Tensor& dattended, Comparison& comparison) {
    Tensor dqkv = Tensor::Zeros(qkv_.shape);
    Tensor dlogit_scale;
    if (!logit_scale_.values.empty()) dlogit_scale = Tensor::Zeros(logit_scale_.shape);
    Tensor dbias = Tensor::Zeros(position_.SquareShape());
    WindowAttentionBackwardArgs args;
    args.geometry = geometry_;
    args.heads = heads_;
    args.range = {0, geometry_.Windows()};
    args.qkv = qkv_.View(Rows(3 * dim_));
    args.logit_scale = logit_scale_.View();
    args.bias = position_.bias.View(position_.SquareShape());
    args.lse = lse_.View(Rows(heads_));
    args.dout = dattended.View(Rows(dim_));
    args.dqkv = dqkv.View(Rows(3 * dim_));
    args.dlogit_scale = dlogit_scale.View();
    args.dbias = dbias.View();
    runner_.Run(&OpTable::window_attention_backward, args);
    if (!dlogit_scale.values.empty()) {
      comparison.Compare("grad/logit_scale", std::span<const float>(dlogit_scale.values));
    }
    position_.Backward(runner_, dbias);
    position_.CompareGradients(comparison);
    return dqkv;
  }
  // Compares the weight's gradient, adds to that of the bias, and returns that of x.
  Tensor LinearBackward(const std::string& name, Tensor& x, Tensor& weight, Tensor& dy,
                        Tensor* dbias, Comparison& comparison) {
    Tensor dx = Tensor::Zeros(x.shape);
    LinearBackwardInputArgs input;
    input.dy = dy.View();
    input.weight = weight.View();
    input.dx = dx.View();
    runner_.Run(&OpTable::linear_backward_input, input);
    Tensor dweight = Tensor::Zeros(weight.shape);
    LinearBackwardWeightArgs parameters;
    parameters.dy = dy.View();
    parameters.x = x.View();
    parameters.dweight = dweight.View();
    parameters.dbias = dbias->View();
    runner_.Run(&OpTable::linear_backward_weight, parameters);
    comparison.Compare("grad/" + name, std::span<const float>(dweight.values));
    return dx;
  }

  OpRunner runner_;
  WindowGeometry geometry_;
  int64_t rows_, dim_, heads_;
  PositionBias position_;
  Tensor logit_scale_, qkv_weight_, qkv_bias_, proj_weight_, proj_bias_;
  Tensor qkv_, attended_, lse_;
};

// The entries of a config, or the config itself where it describes a single one.
std::vector<Json> Entries(const Json& config) {
  if (!config.contains("entries")) return {config};
  return config.at("entries").get<std::vector<Json>>();
}

std::string Prefix(const Json& entry) {
  return entry.contains("tag") ? entry.at("tag").get<std::string>() + "." : "";
}

std::array<int64_t, 2> PairOr(const Json& config, const char* key,
                              std::array<int64_t, 2> otherwise) {
  return config.contains(key) ? Pair(config.at(key)) : otherwise;
}

}  // namespace

void CheckWindowAttention(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const Json& config = golden.config();
  const Json& arch = config.at("arch");
  if (arch != "swin_v1" && arch != "swin_v2") {
    throw Unsupported("attention of " + arch.dump() + " is not supported yet");
  }
  const std::array<int64_t, 2> window = Pair(config.at("window"));
  const std::array<int64_t, 2> size = PairOr(config, "resolution", window);
  const std::array<int64_t, 2> shift = PairOr(config, "shift_size", {0, 0});
  const auto dim = config.at("dim").get<int64_t>();
  const auto heads = config.at("num_heads").get<int64_t>();
  WindowGeometry geometry = MakeGeometry(golden.path(), 1, {1, size[0], size[1]},
                                         {1, window[0], window[1]}, {0, shift[0], shift[1]});
  Tensor x = golden.Load("input/x");
  const int64_t windows = geometry.WindowsPerPicture();
  if (dim < 1 || heads < 1 || dim % heads != 0 || x.shape.rank() != 3 || x.shape[0] < 1 ||
      x.shape[0] % windows != 0 || x.shape[1] != geometry.WindowTokens() || x.shape[2] != dim) {
    throw Error(golden.path() + ": input/x " + x.shape.ToString() + " doesn't fit its config");
  }
  geometry.batch = x.shape[0] / windows;
  Tensor dy = golden.Load("input/dy", x.shape);
  if (golden.Has("input/mask")) {
    comparison.CompareExact("input/mask", std::span<const float>(Mask(geometry)));
  } else if (shift[0] != 0 || shift[1] != 0) {
    throw Error(golden.path() + ": shifted windows without input/mask");
  }
  Attention attention(golden, runner, geometry, dim, heads,
                      PairOr(config, "pretrained_window", {0, 0}), arch == "swin_v2",
                      config.value("qkv_bias", true));
  const Shape rows{x.shape[0] * x.shape[1], dim};
  x.shape = dy.shape = rows;
  const Tensor y = attention.Forward(x);
  comparison.Compare("output/y", std::span<const float>(y.values));
  CompareDotLoss(golden, y.values, dy.values, comparison);
  const Tensor dx = attention.Backward(x, dy, comparison);
  comparison.Compare("grad/input/x", std::span<const float>(dx.values));
}

void CheckPositionBias(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  double loss = 0;
  for (const Json& entry : Entries(golden.config())) {
    const std::string prefix = Prefix(entry);
    const std::array<int64_t, 2> window = Pair(entry.at("window"));
    PositionBias mlp(golden, prefix, window, PairOr(entry, "pretrained_window", {0, 0}),
                     entry.at("num_heads").get<int64_t>(), /*continuous=*/true);
    mlp.Forward(runner);
    const std::vector<int64_t> index(mlp.index.begin(), mlp.index.end());
    const Tensor table = mlp.MlpOutput(runner);
    comparison.Compare("output/" + prefix + "coords_table",
                       std::span<const float>(mlp.coords.values));
    comparison.CompareExact("output/" + prefix + "index", std::span<const int64_t>(index));
    comparison.Compare("output/" + prefix + "table", std::span<const float>(table.values));
    comparison.Compare("output/" + prefix + "bias", std::span<const float>(mlp.bias.values));
    Tensor dy = golden.Load("input/" + prefix + "dy", mlp.SquareShape());
    for (size_t i = 0; i < dy.values.size(); ++i) {
      loss += static_cast<double>(mlp.bias.values[i]) * static_cast<double>(dy.values[i]);
    }
    mlp.Backward(runner, dy);
    mlp.CompareGradients(comparison);
  }
  comparison.Compare("output/loss", std::span<const double>(&loss, 1));
  CompareExactLoss(golden, std::span<const double>(&loss, 1), comparison);
}

// The product has no such operation by itself (the fused kernel never shows the probabilities), so
// this one is the reference's, which the fused kernel's own tests compare it with.
void CheckCosineCore(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const auto load = [&](const std::string& name, const Shape& shape) {
    const Tensor tensor = golden.Load("input/" + name, shape);
    return reference::Vec(tensor.values.begin(), tensor.values.end());
  };
  reference::AttentionCore a;
  const Json& config = golden.config();
  a.windows = config.at("windows").get<int64_t>();
  a.heads = config.at("num_heads").get<int64_t>();
  a.tokens = config.at("tokens").get<int64_t>();
  a.dim = config.at("head_dim").get<int64_t>();
  const Shape vectors{a.windows, a.heads, a.tokens, a.dim};
  const reference::Vec dy = load("dy", vectors);
  reference::AttentionInputs in;
  in.q = load("q", vectors);
  in.k = load("k", vectors);
  in.v = load("v", vectors);
  in.logit_scale = load("logit_scale", Shape{a.heads, 1, 1});
  in.bias = load("bias", Shape{a.heads, a.tokens, a.tokens});
  if (const StoredTensor* stored = golden.Find("input/mask")) {
    a.per_picture = stored->shape.rank() == 3 ? stored->shape[0] : 0;
    in.mask = load("mask", Shape{a.per_picture, a.tokens, a.tokens});
  }
  const auto result = reference::AttentionForward(a, in);
  const auto gradients = reference::AttentionBackward(a, in, dy);
  double loss = 0;
  for (size_t i = 0; i < dy.size(); ++i) loss += result.out[i] * dy[i];
  const auto compare = [&](const std::string& name, const reference::Vec& values) {
    comparison.Compare(name, std::span<const double>(values));
  };
  compare("output/attention", result.attention);
  compare("output/y", result.out);
  compare("output/loss", {loss});
  CompareExactLoss(golden, std::span<const double>(&loss, 1), comparison);
  compare("grad/input/q", gradients.dq);
  compare("grad/input/k", gradients.dk);
  compare("grad/input/v", gradients.dv);
  compare("grad/input/logit_scale", gradients.dlogit_scale);
  compare("grad/input/bias", gradients.dbias);
}

void CheckAttentionMask(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  for (const Json& entry : Entries(golden.config())) {
    const WindowGeometry geometry =
        MakeGeometry(golden.path(), 1, ParseTriple(entry.at("resolution"), 1),
                     ParseTriple(entry.at("window"), 1), ParseTriple(entry.at("shift"), 0));
    comparison.CompareExact("output/" + Prefix(entry) + "mask",
                            std::span<const float>(Mask(geometry)));
  }
}

void CheckWindowPartition(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  for (const Json& entry : Entries(golden.config())) {
    Tensor x = golden.Load("input/" + Prefix(entry) + "x");
    if (x.shape.rank() == 4) {
      x.shape = Shape{x.shape[0], 1, x.shape[1], x.shape[2], x.shape[3]};
    }
    if (x.shape.rank() != 5 || x.shape.NumElements() == 0) {
      throw Error(golden.path() + ": input/x " + x.shape.ToString() + " is no map");
    }
    const WindowGeometry geometry =
        MakeGeometry(golden.path(), x.shape[0], {x.shape[1], x.shape[2], x.shape[3]},
                     ParseTriple(entry.at("window"), 1), ParseTriple(entry.at("shift"), 0));
    Tensor windows = Tensor::Zeros(Shape{geometry.Windows(), geometry.WindowTokens(), x.shape[4]});
    runner.Run(
        &OpTable::window_gather,
        WindowGatherArgs{.geometry = geometry, .range = {}, .x = x.View(), .rows = windows.View()});
    comparison.CompareExact("output/" + Prefix(entry) + "windows",
                            std::span<const float>(windows.values));
  }
}

}  // namespace swinfleet::golden
