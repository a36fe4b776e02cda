// What Vision Transformers are made of.
#ifndef SWINFLEET_CORE_NN_VIT_BLOCK_H_
#define SWINFLEET_CORE_NN_VIT_BLOCK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/block.h"

namespace swinfleet {

struct VitConfig {
  int64_t tokens = 0;
  int64_t channels = 0;
  int64_t heads = 0;
  double mlp_ratio = 4;
  bool qkv_bias = true;
  double layer_norm_eps = 1e-6;
  MemoryConfig::Checkpointing checkpointing = MemoryConfig::Checkpointing::kNone;
  // Pictures that attention works on at a time; 0 means all.
  int64_t sequential_windows = 0;
};

// Of a ViT encoder that attends over `tokens` tokens, as its job describes it.
VitConfig VitEncoderConfig(const ModelConfig& model, const MemoryConfig& memory, int64_t tokens);

// Blocks "NAME.0", "NAME.1", ...: timm's vision_transformer.Block, where all tokens attend to each
// other. They count from `first_number`.
std::vector<std::unique_ptr<Block>> MakeVitBlocks(const VitConfig& config, const std::string& name,
                                                  int64_t depth, int first_number,
                                                  ParameterTable* table);

// Matrices whose names begin with `prefix` start as MAE's do (xavier_uniform of
// initialize_weights).
void UseXavier(const std::string& prefix, ParameterTable* table);

// first, first + 1, ...: indices of `count` tokens.
std::vector<int32_t> TokenRange(int64_t first, int64_t count);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_VIT_BLOCK_H_
