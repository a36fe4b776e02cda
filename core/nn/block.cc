#include "core/nn/block.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/nn/checkpointed_block.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// What the number of pictures to compute is a multiple of, so that there are few such numbers: each
// is another set of matrix products to be prepared, and gathering pays only where an eighth of the
// work is left out.
int64_t MultipleOf(int64_t batch) {
  constexpr int64_t kNumbers = 8;
  return std::max<int64_t>(1, batch / kNumbers);
}

// Whether at this rate so many pictures of a batch are dropped more than once in a hundred times.
// Otherwise the memory of gathering is not worth it.
bool Gathers(double rate, int64_t batch) {
  constexpr double kOften = 0.01;
  double fewer = 0, dropped = std::pow(1 - rate, batch);
  for (int64_t k = 0; k < MultipleOf(batch); ++k) {
    fewer += dropped;
    dropped *= static_cast<double>(batch - k) / static_cast<double>(k + 1) * rate / (1 - rate);
  }
  return 1 - fewer > kOften;
}

// The pictures whose factor is not zero, in order, and so many others, whose branch is multiplied
// by zero, as make up the number. At least one.
std::vector<int32_t> PicturesToCompute(const std::vector<float>& factors) {
  const int64_t batch = std::ssize(factors);
  const int64_t multiple = MultipleOf(batch);
  const int64_t kept = batch - std::ranges::count(factors, 0.0f);
  const int64_t count = std::clamp<int64_t>((kept + multiple - 1) / multiple * multiple, 1, batch);
  int64_t others = count - kept;
  std::vector<int32_t> pictures;
  for (int64_t b = 0; b < batch; ++b) {
    if (factors[b] == 0.0f && others-- <= 0) continue;
    pictures.push_back(static_cast<int32_t>(b));
  }
  return pictures;
}

}  // namespace

BlockBase::BlockBase(const BlockConfig& config, ParameterTable* table)
    : config_(config), table_(*table), unit_(table->BeginUnit(config.name)) {}

KeptPictures BlockBase::Keep(const ForwardOptions& options, int branch, int64_t batch,
                             Arena& activations, const Context& context) const {
  KeptPictures kept;
  kept.batch = batch;
  if (!options.drop_path_factor) return kept;
  // A GPU has arithmetic to spare for what moving the others' rows would cost.
  const bool gathers =
      context.device == Device::kCpu && batch > 1 &&
      (options.drop_path_rates.empty() || Gathers(options.drop_path_rates[config_.number], batch));
  if (activations.device() == Device::kDryRun) {
    kept.scale = activations.Allocate({batch});
    if (gathers) {
      kept.index = activations.Allocate({1, batch}, DType::kI32);
      for (int64_t b = 0; b < batch; ++b) kept.others.push_back(b);
    }
    return kept;
  }
  std::vector<float> factors;
  for (int64_t b = 0; b < batch; ++b) {
    factors.push_back(options.drop_path_factor(config_.number, branch, b));
  }
  if (gathers) {
    const std::vector<int32_t> pictures = PicturesToCompute(factors);
    const int64_t count = std::ssize(pictures);
    if (count < batch) {
      for (int64_t i = 0; i < count; ++i) factors[i] = factors[pictures[i]];
      factors.resize(count);
      kept.index = activations.Allocate({1, count}, DType::kI32);
      std::ranges::copy(pictures, kept.index.i32());
      for (int64_t b = 0; b < batch; ++b) {
        if (!std::ranges::binary_search(pictures, b)) kept.others.push_back(b);
      }
    }
  }
  kept.scale = activations.Allocate({std::ssize(factors)});
  HostElements<float> scale(kept.scale, context);
  std::ranges::copy(factors, scale.data());
  scale.Publish();
  return kept;
}

TensorView BlockBase::Gather(const KeptPictures& kept, const TensorView& x,
                             Context& context) const {
  if (kept.all()) return x;
  const int64_t rows = x.shape[0] / kept.batch, count = kept.index.shape[1];
  const int64_t c = x.shape[1];
  const TensorView y = context.workspace->Allocate({count * rows, c}, x.dtype);
  context.ops->token_gather(
      {x.Reshape({1, kept.batch, rows * c}), kept.index, y.Reshape({1, count, rows * c})}, context);
  return y;
}

void BlockBase::Scatter(const KeptPictures& kept, const TensorView& rows, const TensorView& x,
                        Context& context) const {
  if (kept.all()) return;
  const int64_t count = kept.index.shape[1], picture = x.NumElements() / kept.batch;
  context.ops->token_scatter(
      {rows.Reshape({1, count, picture}), kept.index, x.Reshape({1, kept.batch, picture})},
      context);
}

void BlockBase::Replace(const KeptPictures& kept, const TensorView& rows, const TensorView& x,
                        const TensorView& y, Context& context) const {
  if (kept.all()) return;
  if (y.data != x.data) {
    const int64_t count = x.shape[0] / kept.batch;
    for (const int64_t b : kept.others) {
      context.ops->cast({x.Rows(b * count, count), y.Rows(b * count, count)}, context);
    }
  }
  Scatter(kept, rows, y, context);
}

BlockConfig SwinBlockConfig(const ModelConfig& model, const MemoryConfig& memory, int stage,
                            int index, int number, const std::string& prefix) {
  const bool v2 = model.arch == Architecture::kSwinV2;
  const int64_t channels = model.StageDim(stage);
  const WindowShape window = model.Window(stage, index % 2 != 0);
  BlockConfig block;
  block.name = prefix + "layers." + std::to_string(stage) + ".blocks." + std::to_string(index);
  block.number = number;
  block.hidden = static_cast<int64_t>(static_cast<double>(channels) * model.mlp_ratio);
  block.layer_norm_eps = model.layer_norm_eps;
  block.extra_norm =
      v2 && model.extra_norm_period > 0 && (index + 1) % model.extra_norm_period == 0;
  block.checkpointing = memory.StageCheckpointing(stage);
  block.attention = {
      .geometry = {.height = model.StageH(stage),
                   .width = model.StageW(stage),
                   .window_h = window.size[1],
                   .window_w = window.size[2],
                   .shift_h = window.shift[1],
                   .shift_w = window.shift[2],
                   .depth = model.StageD(stage),
                   .window_d = window.size[0],
                   .shift_d = window.shift[0]},
      .channels = channels,
      .heads = model.num_heads[stage],
      .cosine = v2,
      .position = v2 ? AttentionConfig::Position::kContinuous : AttentionConfig::Position::kTable,
      .qkv_bias = model.qkv_bias,
      .score_scale = static_cast<float>(model.qk_scale),
      .table_window = model.TableWindow(stage),
      .pretrained_window = model.PretrainedWindow(stage),
      .attend_padding = model.is_video(),
      .recompute = block.checkpointing == MemoryConfig::Checkpointing::kSelective,
      .sequential_windows = memory.StageSequentialWindows(stage)};
  return block;
}

std::unique_ptr<Block> MakeSwinBlock(const ModelConfig& model, const MemoryConfig& memory,
                                     int stage, int index, int number, const std::string& prefix,
                                     ParameterTable* table) {
  const BlockConfig config = SwinBlockConfig(model, memory, stage, index, number, prefix);
  std::unique_ptr<Block> block = model.arch == Architecture::kSwinV2
                                     ? MakePostNormBlock(config, table)
                                     : MakePreNormBlock(config, table);
  return Checkpointed(std::move(block), config.checkpointing);
}

}  // namespace swinfleet
