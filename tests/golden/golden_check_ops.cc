// Single operations, but those around windows.
#include <algorithm>
#include <cmath>

#include "core/optim/optimizer.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// (rows, width) of a tensor whose innermost dimension is `width`.
Shape Rows(const Tensor& tensor, int64_t width) {
  return Shape{tensor.shape.NumElements() / width, width};
}

// A linear layer with its gradients, from param/<prefix>weight and, if there is one, bias.
struct Linear {
  std::string prefix;
  Tensor weight, bias, dweight, dbias;

  Linear(const Golden& golden, const std::string& name, const Shape& shape)
      : prefix(name + "."), weight(golden.Load("param/" + prefix + "weight", shape)) {
    if (golden.Has("param/" + prefix + "bias")) {
      bias = golden.Load("param/" + prefix + "bias", Shape{shape[0]});
    }
    dweight = Tensor::Zeros(weight.shape);
    if (!bias.values.empty()) dbias = Tensor::Zeros(bias.shape);
  }
  int64_t outputs() const { return weight.shape[0]; }
  int64_t inputs() const { return weight.shape.NumElements() / weight.shape[0]; }

  Tensor Forward(const OpRunner& runner, Tensor& x) {
    const Shape x_rows = Rows(x, inputs());
    Tensor y = Tensor::Zeros(Shape{x_rows[0], outputs()});
    LinearForwardArgs args;
    args.x = x.View(x_rows);
    args.weight = weight.View(Shape{outputs(), inputs()});
    args.bias = bias.View();
    args.y = y.View();
    runner.Run(&OpTable::linear_forward, args);
    return y;
  }
  Tensor Backward(const OpRunner& runner, Tensor& x, Tensor& dy) {
    const Shape x_rows = Rows(x, inputs());
    Tensor dx = Tensor::Zeros(x.shape);
    LinearBackwardInputArgs input;
    input.dy = dy.View(Shape{x_rows[0], outputs()});
    input.weight = weight.View(Shape{outputs(), inputs()});
    input.dx = dx.View(x_rows);
    runner.Run(&OpTable::linear_backward_input, input);
    LinearBackwardWeightArgs parameters;
    parameters.dy = input.dy;
    parameters.x = x.View(x_rows);
    parameters.dweight = dweight.View(Shape{outputs(), inputs()});
    parameters.dbias = dbias.View();
    runner.Run(&OpTable::linear_backward_weight, parameters);
    return dx;
  }
  void CompareGradients(Comparison& comparison) const {
    comparison.Compare("grad/" + prefix + "weight", std::span<const float>(dweight.values));
    if (dbias.values.empty()) return;
    comparison.Compare("grad/" + prefix + "bias", std::span<const float>(dbias.values));
  }
};

// LayerNorm with its gradients, from param/<prefix>weight and bias.
struct Norm {
  std::string prefix;
  Tensor gamma, beta, dgamma, dbeta, mean, rstd;
  float eps;

  Norm(const Golden& golden, const std::string& prefix_, int64_t dim, double eps_)
      : prefix(prefix_),
        gamma(golden.Load("param/" + prefix + "weight", Shape{dim})),
        beta(golden.Load("param/" + prefix + "bias", Shape{dim})),
        dgamma(Tensor::Zeros(Shape{dim})),
        dbeta(Tensor::Zeros(Shape{dim})),
        eps(static_cast<float>(eps_)) {}

  Tensor Forward(const OpRunner& runner, Tensor& x) {
    const Shape rows = Rows(x, gamma.shape[0]);
    Tensor y = Tensor::Zeros(x.shape);
    mean = Tensor::Zeros(Shape{rows[0]});
    rstd = Tensor::Zeros(Shape{rows[0]});
    LayerNormForwardArgs args;
    args.x = x.View(rows);
    args.gamma = gamma.View();
    args.beta = beta.View();
    args.y = y.View(rows);
    args.mean = mean.View();
    args.rstd = rstd.View();
    args.eps = eps;
    runner.Run(&OpTable::layer_norm_forward, args);
    return y;
  }
  Tensor Backward(const OpRunner& runner, Tensor& x, Tensor& dy) {
    const Shape rows = Rows(x, gamma.shape[0]);
    Tensor dx = Tensor::Zeros(x.shape);
    LayerNormBackwardArgs args;
    args.x = x.View(rows);
    args.gamma = gamma.View();
    args.mean = mean.View();
    args.rstd = rstd.View();
    args.dy = dy.View(rows);
    args.dx = dx.View(rows);
    args.dgamma = dgamma.View();
    args.dbeta = dbeta.View();
    runner.Run(&OpTable::layer_norm_backward, args);
    return dx;
  }
  void CompareGradients(Comparison& comparison) const {
    comparison.Compare("grad/" + prefix + "weight", std::span<const float>(dgamma.values));
    comparison.Compare("grad/" + prefix + "bias", std::span<const float>(dbeta.values));
  }
};

// input/x of so many dimensions, the last of them `width` (0: any).
Tensor LoadInput(const Golden& golden, int rank, int64_t width) {
  Tensor x = golden.Load("input/x");
  const bool fits = (rank == 0 || x.shape.rank() == rank) && x.shape.NumElements() > 0 &&
                    (width == 0 || x.shape[x.shape.rank() - 1] == width);
  if (!fits) {
    throw Error(golden.path() + ": input/x has the unexpected shape " + x.shape.ToString());
  }
  return x;
}

// output/y and its loss; returns dy.
Tensor CompareOutput(const Golden& golden, const Tensor& y, const Shape& shape,
                     Comparison& comparison) {
  Tensor dy = golden.Load("input/dy", shape);
  comparison.Compare("output/y", std::span<const float>(y.values));
  CompareDotLoss(golden, y.values, dy.values, comparison);
  return dy;
}

void CompareInputGradient(const Tensor& dx, Comparison& comparison) {
  comparison.Compare("grad/input/x", std::span<const float>(dx.values));
}

void CheckGelu(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  Tensor x = LoadInput(golden, 0, 0);
  const Shape rows = Rows(x, x.shape[x.shape.rank() - 1]);
  Tensor y = Tensor::Zeros(x.shape);
  GeluForwardArgs forward;
  forward.x = x.View(rows);
  forward.y = y.View(rows);
  runner.Run(&OpTable::gelu_forward, forward);
  Tensor dy = CompareOutput(golden, y, x.shape, comparison);
  Tensor dx = Tensor::Zeros(x.shape);
  Tensor again = Tensor::Zeros(x.shape);
  GeluBackwardArgs backward;
  backward.x = x.View(rows);
  backward.dy = dy.View(rows);
  backward.dx = dx.View(rows);
  backward.y = again.View(rows);
  runner.Run(&OpTable::gelu_backward, backward);
  CompareInputGradient(dx, comparison);
  comparison.Compare("output/y", std::span<const float>(again.values), "again in backward");
}

void CheckLayerNorm(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const auto dim = golden.config().at("dim").get<int64_t>();
  Tensor x = LoadInput(golden, 0, dim);
  Norm norm(golden, "", dim, golden.config().at("eps").get<double>());
  const Tensor y = norm.Forward(runner, x);
  Tensor dy = CompareOutput(golden, y, x.shape, comparison);
  CompareInputGradient(norm.Backward(runner, x, dy), comparison);
  norm.CompareGradients(comparison);
}

void CheckMlp(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const auto dim = golden.config().at("dim").get<int64_t>();
  const auto hidden_dim = golden.config().at("hidden_dim").get<int64_t>();
  Tensor x = LoadInput(golden, 0, dim);
  Linear fc1(golden, "fc1", Shape{hidden_dim, dim});
  Linear fc2(golden, "fc2", Shape{dim, hidden_dim});
  Tensor hidden = fc1.Forward(runner, x);
  Tensor active = Tensor::Zeros(hidden.shape);
  GeluForwardArgs forward;
  forward.x = hidden.View();
  forward.y = active.View();
  runner.Run(&OpTable::gelu_forward, forward);
  const Tensor y = fc2.Forward(runner, active);
  Tensor dy = CompareOutput(golden, y, x.shape, comparison);
  Tensor dhidden = fc2.Backward(runner, active, dy);
  GeluBackwardArgs backward;
  backward.x = hidden.View();
  backward.dy = dhidden.View();
  backward.dx = dhidden.View();
  runner.Run(&OpTable::gelu_backward, backward);
  CompareInputGradient(fc1.Backward(runner, x, dhidden), comparison);
  fc1.CompareGradients(comparison);
  fc2.CompareGradients(comparison);
}

void CheckPatchMerging(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const Json& config = golden.config();
  const bool norm_first = config.at("arch") == "swin_v1";
  if (!norm_first && config.at("arch") != "swin_v2") {
    throw Unsupported("patch merging of " + config.at("arch").dump() + " is not supported yet");
  }
  const auto dim = config.at("dim").get<int64_t>();
  const std::array<int64_t, 2> size = Pair(config.at("resolution"));
  Tensor x = LoadInput(golden, 3, dim);
  const int64_t batch = x.shape[0];
  if (size[0] % 2 != 0 || size[1] % 2 != 0 || x.shape[1] != size[0] * size[1]) {
    throw Error(golden.path() + ": input/x " + x.shape.ToString() + " is no map of " +
                std::to_string(size[0]) + "x" + std::to_string(size[1]) + " with even sides");
  }
  const Shape map{batch, size[0], size[1], dim};
  const int64_t tokens = x.shape[1] / 4;
  Linear reduction(golden, "reduction", Shape{2 * dim, 4 * dim});
  Norm norm(golden, "norm.", norm_first ? 4 * dim : 2 * dim, config.value("eps", 1e-5));
  Tensor rows = Tensor::Zeros(Shape{batch * tokens, 4 * dim});
  MergeGatherArgs gather;
  gather.x = x.View(map);
  gather.rows = rows.View();
  runner.Run(&OpTable::merge_gather, gather);
  const Shape y_shape{batch, tokens, 2 * dim};
  Tensor drows;
  if (norm_first) {
    Tensor normalised = norm.Forward(runner, rows);
    const Tensor y = reduction.Forward(runner, normalised);
    Tensor dy = CompareOutput(golden, y, y_shape, comparison);
    Tensor dnormalised = reduction.Backward(runner, normalised, dy);
    drows = norm.Backward(runner, rows, dnormalised);
  } else {
    Tensor reduced = reduction.Forward(runner, rows);
    const Tensor y = norm.Forward(runner, reduced);
    Tensor dy = CompareOutput(golden, y, y_shape, comparison);
    Tensor dreduced = norm.Backward(runner, reduced, dy);
    drows = reduction.Backward(runner, rows, dreduced);
  }
  Tensor dx = Tensor::Zeros(x.shape);
  MergeScatterArgs scatter;
  scatter.rows = drows.View();
  scatter.x = dx.View(map);
  runner.Run(&OpTable::merge_scatter, scatter);
  CompareInputGradient(dx, comparison);
  reduction.CompareGradients(comparison);
  norm.CompareGradients(comparison);
}

void CheckPatchEmbed(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const Json& config = golden.config();
  const auto dim = config.at("embed_dim").get<int64_t>();
  const auto chans = config.at("in_chans").get<int64_t>();
  const std::array<int64_t, 2> size = Pair(config.at("img_size"));
  const std::array<int64_t, 2> patch = Pair(config.at("patch_size"));
  Tensor x = LoadInput(golden, 4, size[1]);
  if (x.shape[1] != chans || x.shape[2] != size[0] || patch[0] < 1 || patch[1] < 1 ||
      size[0] % patch[0] != 0 || size[1] % patch[1] != 0) {
    throw Error(golden.path() + ": input/x " + x.shape.ToString() + " can't be cut into patches");
  }
  const int64_t tokens = (size[0] / patch[0]) * (size[1] / patch[1]);
  Linear projection(golden, "proj", Shape{dim, chans, patch[0], patch[1]});
  const Shape y_shape{x.shape[0], tokens, dim}, rows{x.shape[0] * tokens, dim};
  Tensor projected = Tensor::Zeros(y_shape);
  PatchEmbeddingForwardArgs forward;
  forward.image = x.View();
  forward.weight = projection.weight.View();
  forward.bias = projection.bias.View();
  forward.y = projected.View(rows);
  runner.Run(&OpTable::patch_embedding_forward, forward);
  Tensor dprojected;
  if (config.value("patch_norm", true)) {
    Norm norm(golden, "norm.", dim, config.value("eps", 1e-5));
    const Tensor y = norm.Forward(runner, projected);
    Tensor dy = CompareOutput(golden, y, y_shape, comparison);
    dprojected = norm.Backward(runner, projected, dy);
    norm.CompareGradients(comparison);
  } else {
    dprojected = CompareOutput(golden, projected, y_shape, comparison);
  }
  Tensor dx = Tensor::Zeros(x.shape);
  PatchEmbeddingBackwardArgs backward;
  backward.image = forward.image;
  backward.weight = forward.weight;
  backward.dy = dprojected.View(rows);
  backward.dweight = projection.dweight.View();
  backward.dbias = projection.dbias.View();
  backward.dimage = dx.View();
  runner.Run(&OpTable::patch_embedding_backward, backward);
  CompareInputGradient(dx, comparison);
  projection.CompareGradients(comparison);
}

void CheckCrossEntropy(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const Json& config = golden.config();
  const auto pictures = config.at("batch_size").get<int64_t>();
  const auto classes = config.at("num_classes").get<int64_t>();
  Tensor logits = golden.Load("input/logits", Shape{pictures, classes});
  Tensor target{LoadTargets(golden, config.at("loss").get<std::string>(),
                            config.value("smoothing", 0.0), pictures, classes),
                logits.shape};
  Tensor loss = Tensor::Zeros(Shape{pictures});
  Tensor dlogits = Tensor::Zeros(logits.shape);
  CrossEntropyArgs args;
  args.logits = logits.View();
  args.target = target.View();
  args.loss = loss.View();
  args.dlogits = dlogits.View();
  args.grad_scale = static_cast<float>(1.0 / static_cast<double>(pictures));
  runner.Run(&OpTable::cross_entropy, args);
  double mean = 0;
  for (const float x : loss.values) mean += x / static_cast<double>(pictures);
  comparison.Compare("output/loss", std::span<const double>(&mean, 1));
  CompareExactLoss(golden, std::span<const double>(&mean, 1), comparison);
  comparison.Compare("grad/input/logits", std::span<const float>(dlogits.values));
}

void CheckClipping(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const size_t count = golden.config().at("shapes").size();
  std::vector<Tensor> gradients;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    gradients.push_back(golden.Load("input/" + std::to_string(i)));
    const int64_t elements = gradients.back().shape.NumElements();
    std::vector<double> sums((elements + kNormChunk - 1) / kNormChunk);
    SumOfSquaresArgs args;
    args.x = gradients.back().View(Shape{elements});
    args.sums = sums.data();
    runner.Run(&OpTable::sum_of_squares, args);
    for (const double part : sums) sum += part;
  }
  const double norm = std::sqrt(sum);
  for (const auto& [tag, limit] : golden.config().at("max_norms").items()) {
    const float factor = ClipFactor(norm, limit.get<double>());
    comparison.Compare("output/" + tag + ".norm", std::span<const double>(&norm, 1));
    for (size_t i = 0; i < count; ++i) {
      std::vector<float> clipped = gradients[i].values;
      for (float& x : clipped) x *= factor;
      comparison.Compare("output/" + tag + "." + std::to_string(i),
                         std::span<const float>(clipped));
    }
  }
}

void CheckOptimizer(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  const OptimizerConfig optimizer = ParseOptimizer(golden.config());
  ParameterHyper hyper;
  hyper.weight_decay = optimizer.weight_decay;
  Tensor w = golden.Load("param/w");
  const Tensor before = w;
  const Shape flat{w.shape.NumElements()};
  Tensor first = Tensor::Zeros(flat);
  Tensor second = Tensor::Zeros(flat);
  const bool adamw = optimizer.kind == OptimizerConfig::Kind::kAdamW;
  const auto steps = golden.config().at("steps").get<int64_t>();
  for (int64_t step = 0; step < steps; ++step) {
    Tensor gradient = golden.Load("input/grad" + std::to_string(step), w.shape);
    OptimizerState state;
    state.first = first.View();
    if (adamw) state.second = second.View();
    runner.WithContext([&](Context& context) {
      UpdateSegment(optimizer, hyper, BaseRate(optimizer, hyper), step, /*grad_scale=*/1,
                    w.View(flat), gradient.View(flat), state, context);
    });
    comparison.Compare("output/w" + std::to_string(step), std::span<const float>(w.values));
  }
  if (adamw) {
    comparison.Compare("output/state_m", std::span<const float>(first.values));
    comparison.Compare("output/state_v", std::span<const float>(second.values));
  } else {
    comparison.Compare("output/state_momentum", std::span<const float>(first.values));
  }
  comparison.Compare("after_steps/w", std::span<const float>(w.values));
  if (golden.Has("after_steps/w")) comparison.CompareMovement({{"w", before.values, w.values}});
}

using OpCheck = void (*)(const Golden&, const OpRunner&, Comparison&);

// By the metadata's `handler` or, where a file has none, by how its operation's name begins.
struct OpEntry {
  const char* handler;
  std::vector<const char*> names;
  OpCheck check;
};

const std::vector<OpEntry>& OpEntries() {
  static const std::vector<OpEntry> entries = {
      {"Optimizer", {"adamw", "sgd"}, CheckOptimizer},
      {"CrossEntropy", {"ce"}, CheckCrossEntropy},
      {"ClipGradNorm", {"clip_grad_norm"}, CheckClipping},
      {"Gelu", {"gelu"}, CheckGelu},
      {"LayerNorm", {"layernorm"}, CheckLayerNorm},
      {"PatchMerging", {"merge_v1", "merge_v2"}, CheckPatchMerging},
      {"Mlp", {"mlp"}, CheckMlp},
      {"PatchEmbed", {"patch_embed"}, CheckPatchEmbed},
      {"WindowAttention", {"attn_v1", "attn_v2"}, CheckWindowAttention},
      {"CpbBias", {"cpb"}, CheckPositionBias},
      {"CosineAttentionCore", {"cosine_core"}, CheckCosineCore},
      {"AttentionMask", {"attn_mask"}, CheckAttentionMask},
      {"WindowPartition", {"window_partition"}, CheckWindowPartition},
      {"Mixup", {"mixup"}, CheckMixup},
      {"CutmixBox", {"cutmix_box"}, CheckCutmixBox},
      {"MaskGen", {"mask_generator"}, CheckMaskGenerator},
      {"NormTargets", {"norm_targets"}, CheckNormTargets},
      {"GreenGrouping", {"green_grouping"}, CheckGreenGrouping},
      {"GreenPrepare", {"green_prepare"}, CheckGreenPrepare},
  };
  return entries;
}

OpCheck FindOp(const Golden& golden) {
  const std::string handler = golden.Text("handler");
  std::string op = golden.Text("op");
  if (op.empty()) op = golden.name().starts_with("ops_") ? golden.name().substr(4) : golden.name();
  for (const OpEntry& entry : OpEntries()) {
    if (handler == entry.handler) return entry.check;
    if (!handler.empty()) continue;
    for (const std::string name : entry.names) {
      if (op == name || op.starts_with(name + "_")) return entry.check;
    }
  }
  throw Unsupported("operation \"" + op + "\" is not supported yet");
}

}  // namespace

void CompareDotLoss(const Golden& golden, std::span<const float> y, std::span<const float> dy,
                    Comparison& comparison) {
  double loss = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    loss += static_cast<double>(y[i]) * static_cast<double>(dy[i]);
  }
  comparison.Compare("output/loss", std::span<const double>(&loss, 1));
  CompareExactLoss(golden, std::span<const double>(&loss, 1), comparison);
}

void CheckOp(const Golden& golden, const Machine& machine, Comparison& comparison) {
  if (machine.gpu != nullptr) throw Unsupported("single operations run on the CPU");
  FindOp(golden)(golden, OpRunner(machine.threads), comparison);
}

}  // namespace swinfleet::golden
