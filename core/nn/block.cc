#include "core/nn/block.h"

#include "core/nn/checkpointed_block.h"
#include "kernels/placement.h"

namespace swinfleet {

BlockBase::BlockBase(const BlockConfig& config, ParameterTable* table)
    : config_(config), table_(*table), unit_(table->BeginUnit(config.name)) {}

TensorView BlockBase::DropPathScale(const ForwardOptions& options, int branch, int64_t batch,
                                    Arena& activations, const Context& context) const {
  if (!options.drop_path_factor) return {};
  const TensorView scale = activations.Allocate({batch});
  if (scale.device == Device::kDryRun) return scale;
  HostElements<float> factors(scale, context);
  for (int64_t b = 0; b < batch; ++b) {
    factors.data()[b] = options.drop_path_factor(config_.number, branch, b);
  }
  factors.Publish();
  return scale;
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
