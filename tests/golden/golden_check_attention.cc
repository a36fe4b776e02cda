// Operations around windows: their index arithmetic is the fused kernel's own.
#include <algorithm>
#include <cmath>

#include "tests/golden/golden_check.h"
#include "tests/reference/reference.h"

namespace swinfleet::golden {
namespace {

// Official scores of pairs that must not see each other.
constexpr float kMasked = -100;

// Windows on a map of `size` in one picture; throws Error where they don't tile it.
WindowGeometry MakeGeometry(const std::string& path, int64_t batch, std::array<int64_t, 2> size,
                            std::array<int64_t, 2> window, std::array<int64_t, 2> shift) {
  for (int i = 0; i < 2; ++i) {
    if (window[i] >= 1 && size[i] >= window[i] && size[i] % window[i] == 0 && shift[i] >= 0 &&
        shift[i] < window[i]) {
      continue;
    }
    throw Error(path + ": windows of " + std::to_string(window[i]) + " shifted by " +
                std::to_string(shift[i]) + " don't tile " + std::to_string(size[i]) + " tokens");
  }
  WindowGeometry geometry;
  geometry.batch = batch;
  geometry.height = size[0];
  geometry.width = size[1];
  geometry.window_h = window[0];
  geometry.window_w = window[1];
  geometry.shift_h = shift[0];
  geometry.shift_w = shift[1];
  return geometry;
}

// Moves `width` values of each token from windows (B windows, N, width) to image order
// (B, H, W, width), or back.
std::vector<float> Place(const WindowGeometry& geometry, int64_t width,
                         const std::vector<float>& from, bool to_image) {
  std::vector<float> to(from.size());
  const int64_t windows = geometry.WindowsPerPicture();
  const int64_t tokens = geometry.WindowTokens();
  for (int64_t b = 0; b < geometry.batch; ++b) {
    for (int64_t w = 0; w < windows; ++w) {
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t in_windows = (b * windows + w) * tokens + t;
        const int64_t in_image = b * windows * tokens + geometry.TokenAt(w, t);
        const int64_t source = to_image ? in_windows : in_image;
        const int64_t target = to_image ? in_image : in_windows;
        std::copy_n(from.begin() + source * width, width, to.begin() + target * width);
      }
    }
  }
  return to;
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

// The position bias MLP of param/<prefix>cpb_mlp, and its gradients.
struct PositionBiasMlp {
  std::string prefix;
  int64_t window_h, window_w, heads;
  Tensor coords, w1, b1, w2, bias, dw1, db1, dw2;

  PositionBiasMlp(const Golden& golden, const std::string& name, std::array<int64_t, 2> window,
                  std::array<int64_t, 2> pretrained, int64_t heads_)
      : prefix(name + "cpb_mlp."), window_h(window[0]), window_w(window[1]), heads(heads_) {
    if (window_h < 1 || window_w < 1 || window_h > 64 || window_w > 64) {
      throw Error(golden.path() + ": a window of " + std::to_string(window_h) + "x" +
                  std::to_string(window_w));
    }
    coords = Tensor::Zeros(Shape{(2 * window_h - 1) * (2 * window_w - 1), 2});
    LogSpacedCoordinates(window_h, window_w, pretrained[0], pretrained[1], coords.values.data());
    const Tensor first = golden.Load("param/" + prefix + "0.weight");
    const int64_t hidden = first.shape.rank() == 2 ? first.shape[0] : 0;
    w1 = golden.Load("param/" + prefix + "0.weight", Shape{hidden, 2});
    b1 = golden.Load("param/" + prefix + "0.bias", Shape{hidden});
    w2 = golden.Load("param/" + prefix + "2.weight", Shape{heads, hidden});
    bias = Tensor::Zeros(Shape{heads, window_h * window_w, window_h * window_w});
    dw1 = Tensor::Zeros(w1.shape);
    db1 = Tensor::Zeros(b1.shape);
    dw2 = Tensor::Zeros(w2.shape);
  }
  void Forward(const OpRunner& runner) {
    PositionBiasForwardArgs args;
    args.window_h = window_h;
    args.window_w = window_w;
    args.coords = coords.View();
    args.w1 = w1.View();
    args.b1 = b1.View();
    args.w2 = w2.View();
    args.bias = bias.View();
    runner.Run(&OpTable::position_bias_forward, args);
  }
  void Backward(const OpRunner& runner, Tensor& dbias) {
    PositionBiasBackwardArgs args;
    args.window_h = window_h;
    args.window_w = window_w;
    args.coords = coords.View();
    args.w1 = w1.View();
    args.b1 = b1.View();
    args.w2 = w2.View();
    args.dbias = dbias.View(bias.shape);
    args.dw1 = dw1.View();
    args.db1 = db1.View();
    args.dw2 = dw2.View();
    runner.Run(&OpTable::position_bias_backward, args);
  }
  // The MLP's own output (T, heads), which the fused operation keeps to itself.
  Tensor Table(const OpRunner& runner) {
    Tensor hidden = Tensor::Zeros(Shape{coords.shape[0], w1.shape[0]});
    LinearForwardArgs first{coords.View(), w1.View(), b1.View(), hidden.View()};
    runner.Run(&OpTable::linear_forward, first);
    for (float& x : hidden.values) x = std::max(x, 0.0f);
    Tensor table = Tensor::Zeros(Shape{coords.shape[0], heads});
    LinearForwardArgs second{hidden.View(), w2.View(), TensorView{}, table.View()};
    runner.Run(&OpTable::linear_forward, second);
    return table;
  }
  void CompareGradients(Comparison& comparison) const {
    comparison.Compare("grad/" + prefix + "0.weight", std::span<const float>(dw1.values));
    comparison.Compare("grad/" + prefix + "0.bias", std::span<const float>(db1.values));
    comparison.Compare("grad/" + prefix + "2.weight", std::span<const float>(dw2.values));
  }
};

// WindowAttention of the official code on windows that are already cut out.
class Attention {
 public:
  Attention(const Golden& golden, const OpRunner& runner, const WindowGeometry& geometry,
            int64_t dim, int64_t heads, std::array<int64_t, 2> pretrained, bool qkv_bias)
      : runner_(runner),
        geometry_(geometry),
        rows_(geometry.batch * geometry.height * geometry.width),
        dim_(dim),
        heads_(heads),
        position_(golden, "", {geometry.window_h, geometry.window_w}, pretrained, heads),
        logit_scale_(golden.Load("param/logit_scale", Shape{heads, 1, 1})),
        qkv_weight_(golden.Load("param/qkv.weight", Shape{3 * dim, dim})),
        proj_weight_(golden.Load("param/proj.weight", Shape{dim, dim})),
        proj_bias_(golden.Load("param/proj.bias", Shape{dim})) {
    if (!qkv_bias) return;
    // q and v have a bias, k has none.
    qkv_bias_ = Tensor::Zeros(Shape{3 * dim});
    const Tensor q = golden.Load("param/q_bias", Shape{dim});
    const Tensor v = golden.Load("param/v_bias", Shape{dim});
    std::ranges::copy(q.values, qkv_bias_.values.begin());
    std::ranges::copy(v.values, qkv_bias_.values.begin() + 2 * dim);
  }

  // x and the result in image order, (rows, dim).
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
    attention.qkv = qkv_.View(Map(3 * dim_));
    attention.logit_scale = logit_scale_.View(Shape{heads_});
    attention.bias = position_.bias.View();
    attention.out = attended_.View(Map(dim_));
    attention.lse = lse_.View(Map(heads_));
    runner_.Run(&OpTable::window_attention_forward, attention);
    Tensor y = Tensor::Zeros(Shape{rows_, dim_});
    LinearForwardArgs proj{attended_.View(), proj_weight_.View(), proj_bias_.View(), y.View()};
    runner_.Run(&OpTable::linear_forward, proj);
    return y;
  }

  // Compares the gradients of the parameters and returns that of x, in image order.
  Tensor Backward(Tensor& x, Tensor& dy, Comparison& comparison) {
    Tensor dproj_bias = Tensor::Zeros(Shape{dim_});
    Tensor dattended =
        LinearBackward("proj.weight", attended_, proj_weight_, dy, &dproj_bias, comparison);
    comparison.Compare("grad/proj.bias", std::span<const float>(dproj_bias.values));
    Tensor dqkv = Tensor::Zeros(qkv_.shape);
    Tensor dlogit_scale = Tensor::Zeros(Shape{heads_});
    Tensor dbias = Tensor::Zeros(position_.bias.shape);
    WindowAttentionBackwardArgs args;
    args.geometry = geometry_;
    args.heads = heads_;
    args.qkv = qkv_.View(Map(3 * dim_));
    args.logit_scale = logit_scale_.View(Shape{heads_});
    args.bias = position_.bias.View();
    args.lse = lse_.View(Map(heads_));
    args.dout = dattended.View(Map(dim_));
    args.dqkv = dqkv.View(Map(3 * dim_));
    args.dlogit_scale = dlogit_scale.View();
    args.dbias = dbias.View();
    runner_.Run(&OpTable::window_attention_backward, args);
    comparison.Compare("grad/logit_scale", std::span<const float>(dlogit_scale.values));
    position_.Backward(runner_, dbias);
    position_.CompareGradients(comparison);
    Tensor dqkv_bias;
    if (!qkv_bias_.values.empty()) dqkv_bias = Tensor::Zeros(qkv_bias_.shape);
    Tensor dx = LinearBackward("qkv.weight", x, qkv_weight_, dqkv, &dqkv_bias, comparison);
    if (!dqkv_bias.values.empty()) {
      const std::span<const float> all(dqkv_bias.values);
      comparison.Compare("grad/q_bias", all.first(dim_));
      comparison.Compare("grad/v_bias", all.last(dim_));
    }
    return dx;
  }

 private:
  Shape Map(int64_t channels) const {
    return Shape{geometry_.batch, geometry_.height, geometry_.width, channels};
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
  PositionBiasMlp position_;
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
  if (config.at("arch") != "swin_v2") {
    throw Unsupported("attention of " + config.at("arch").dump() + " is not supported yet");
  }
  const std::array<int64_t, 2> window = Pair(config.at("window"));
  const std::array<int64_t, 2> size = PairOr(config, "resolution", window);
  const std::array<int64_t, 2> shift = PairOr(config, "shift_size", {0, 0});
  const auto dim = config.at("dim").get<int64_t>();
  const auto heads = config.at("num_heads").get<int64_t>();
  WindowGeometry geometry = MakeGeometry(golden.path(), 1, size, window, shift);
  const Tensor x = golden.Load("input/x");
  const int64_t windows = geometry.WindowsPerPicture();
  if (dim < 1 || heads < 1 || dim % heads != 0 || x.shape.rank() != 3 || x.shape[0] < 1 ||
      x.shape[0] % windows != 0 || x.shape[1] != geometry.WindowTokens() || x.shape[2] != dim) {
    throw Error(golden.path() + ": input/x " + x.shape.ToString() + " doesn't fit its config");
  }
  geometry.batch = x.shape[0] / windows;
  const Tensor dy = golden.Load("input/dy", x.shape);
  if (golden.Has("input/mask")) {
    comparison.CompareExact("input/mask", std::span<const float>(Mask(geometry)));
  } else if (shift[0] != 0 || shift[1] != 0) {
    throw Error(golden.path() + ": shifted windows without input/mask");
  }
  Attention attention(golden, runner, geometry, dim, heads,
                      PairOr(config, "pretrained_window", {0, 0}), config.value("qkv_bias", true));
  const Shape rows{x.shape[0] * x.shape[1], dim};
  Tensor x_image{Place(geometry, dim, x.values, /*to_image=*/true), rows};
  const std::vector<float> y =
      Place(geometry, dim, attention.Forward(x_image).values, /*to_image=*/false);
  comparison.Compare("output/y", std::span<const float>(y));
  CompareDotLoss(golden, y, dy.values, comparison);
  Tensor dy_image{Place(geometry, dim, dy.values, /*to_image=*/true), rows};
  const Tensor dx = attention.Backward(x_image, dy_image, comparison);
  const std::vector<float> dx_windows = Place(geometry, dim, dx.values, /*to_image=*/false);
  comparison.Compare("grad/input/x", std::span<const float>(dx_windows));
}

void CheckPositionBias(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  double loss = 0;
  for (const Json& entry : Entries(golden.config())) {
    const std::string prefix = Prefix(entry);
    const std::array<int64_t, 2> window = Pair(entry.at("window"));
    PositionBiasMlp mlp(golden, prefix, window, PairOr(entry, "pretrained_window", {0, 0}),
                        entry.at("num_heads").get<int64_t>());
    mlp.Forward(runner);
    std::vector<int64_t> index;
    for (int64_t i = 0; i < window[0] * window[1]; ++i) {
      for (int64_t j = 0; j < window[0] * window[1]; ++j) {
        index.push_back(RelativePositionIndex(window[0], window[1], i, j));
      }
    }
    const Tensor table = mlp.Table(runner);
    comparison.Compare("output/" + prefix + "coords_table",
                       std::span<const float>(mlp.coords.values));
    comparison.CompareExact("output/" + prefix + "index", std::span<const int64_t>(index));
    comparison.Compare("output/" + prefix + "table", std::span<const float>(table.values));
    comparison.Compare("output/" + prefix + "bias", std::span<const float>(mlp.bias.values));
    Tensor dy = golden.Load("input/" + prefix + "dy", mlp.bias.shape);
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
  reference::CosineAttention a;
  const Json& config = golden.config();
  a.windows = config.at("windows").get<int64_t>();
  a.heads = config.at("num_heads").get<int64_t>();
  a.tokens = config.at("tokens").get<int64_t>();
  a.dim = config.at("head_dim").get<int64_t>();
  const Shape vectors{a.windows, a.heads, a.tokens, a.dim};
  const reference::Vec q = load("q", vectors);
  const reference::Vec k = load("k", vectors);
  const reference::Vec v = load("v", vectors);
  const reference::Vec dy = load("dy", vectors);
  const reference::Vec scale = load("logit_scale", Shape{a.heads, 1, 1});
  const reference::Vec bias = load("bias", Shape{a.heads, a.tokens, a.tokens});
  reference::Vec mask;
  if (const StoredTensor* stored = golden.Find("input/mask")) {
    a.masks = stored->shape.rank() == 3 ? stored->shape[0] : 0;
    mask = load("mask", Shape{a.masks, a.tokens, a.tokens});
  }
  const auto result = reference::CosineAttentionForward(a, q, k, v, scale, bias, mask);
  const auto gradients = reference::CosineAttentionBackward(a, q, k, v, scale, bias, mask, dy);
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
    const WindowGeometry geometry = MakeGeometry(golden.path(), 1, Pair(entry.at("resolution")),
                                                 Pair(entry.at("window")), Pair(entry.at("shift")));
    comparison.CompareExact("output/" + Prefix(entry) + "mask",
                            std::span<const float>(Mask(geometry)));
  }
}

void CheckWindowPartition(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  for (const Json& entry : Entries(golden.config())) {
    const std::array<int64_t, 2> window = Pair(entry.at("window"));
    const Tensor x = golden.Load("input/" + Prefix(entry) + "x");
    if (x.shape.rank() != 4) throw Unsupported("windows of videos are not supported yet");
    const WindowGeometry geometry = MakeGeometry(
        golden.path(), x.shape[0], {x.shape[1], x.shape[2]}, window, Pair(entry.at("shift")));
    const std::vector<float> windows = Place(geometry, x.shape[3], x.values, /*to_image=*/false);
    comparison.CompareExact("output/" + Prefix(entry) + "windows", std::span<const float>(windows));
  }
}

}  // namespace swinfleet::golden
