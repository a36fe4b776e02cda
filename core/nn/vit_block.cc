#include "core/nn/vit_block.h"

#include <cmath>
#include <numeric>

#include "core/nn/checkpointed_block.h"

namespace swinfleet {

VitConfig VitEncoderConfig(const ModelConfig& model, const MemoryConfig& memory, int64_t tokens) {
  return {.tokens = tokens,
          .channels = model.embed_dim,
          .heads = model.num_heads[0],
          .mlp_ratio = model.mlp_ratio,
          .qkv_bias = model.qkv_bias,
          .layer_norm_eps = model.layer_norm_eps,
          .checkpointing = memory.StageCheckpointing(0),
          .sequential_windows = memory.StageSequentialWindows(0)};
}

std::vector<std::unique_ptr<Block>> MakeVitBlocks(const VitConfig& config, const std::string& name,
                                                  int64_t depth, int first_number,
                                                  ParameterTable* table) {
  std::vector<std::unique_ptr<Block>> blocks;
  for (int i = 0; i < depth; ++i) {
    BlockConfig block;
    block.name = name + "." + std::to_string(i);
    block.number = first_number + i;
    block.hidden = static_cast<int64_t>(static_cast<double>(config.channels) * config.mlp_ratio);
    block.layer_norm_eps = config.layer_norm_eps;
    block.checkpointing = config.checkpointing;
    // One window that is the whole picture.
    block.attention.geometry = {
        .height = 1, .width = config.tokens, .window_h = 1, .window_w = config.tokens};
    block.attention.channels = config.channels;
    block.attention.heads = config.heads;
    block.attention.qkv_bias = config.qkv_bias;
    block.attention.recompute = config.checkpointing == MemoryConfig::Checkpointing::kSelective;
    block.attention.sequential_windows = config.sequential_windows;
    blocks.push_back(Checkpointed(MakePreNormBlock(block, table), config.checkpointing));
  }
  return blocks;
}

void UseXavier(const std::string& prefix, ParameterTable* table) {
  const auto count = static_cast<int>(table->parameters().size());
  for (int i = 0; i < count; ++i) {
    const ParameterInfo& info = table->parameters()[i];
    if (!info.name.starts_with(prefix) || !info.name.ends_with(".weight")) continue;
    if (info.shape.rank() < 2) continue;
    // A convolution counts as the matrix that it is.
    const auto outputs = static_cast<double>(info.shape[0]);
    const double inputs = static_cast<double>(info.size()) / outputs;
    table->SetInitializer(i, {Initializer::Kind::kUniform, std::sqrt(6 / (inputs + outputs))});
  }
}

std::vector<int32_t> TokenRange(int64_t first, int64_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first));
  return tokens;
}

}  // namespace swinfleet
