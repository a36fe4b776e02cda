// Transformer blocks: attention and MLP, each with its residual.
#ifndef SWINFLEET_CORE_NN_BLOCK_H_
#define SWINFLEET_CORE_NN_BLOCK_H_

#include <memory>
#include <optional>
#include <string>

#include "core/nn/layer_norm.h"
#include "core/nn/mlp.h"
#include "core/nn/model.h"
#include "core/nn/window_attention.h"

namespace swinfleet {

struct BlockConfig {
  // The official name ("layers.0.blocks.1").
  std::string name;
  // Counts blocks over the whole model.
  int number = 0;
  AttentionConfig attention;
  // Hidden channels of the MLP.
  int64_t hidden = 0;
  double layer_norm_eps = 1e-5;
  // One more normalisation of the main branch, after the block (Swin V2's huge models).
  bool extra_norm = false;
  MemoryConfig::Checkpointing checkpointing = MemoryConfig::Checkpointing::kNone;
};

class Block {
 public:
  virtual ~Block() = default;
  // Returns a tensor of x's shape: in `activations`, or x itself, overwritten, when nothing is kept
  // for backward.
  virtual TensorView Forward(const TensorView& x,  // (B, D, H, W, C) or (B, L, C)
                             const ForwardOptions& options, ParameterAccess& access,
                             Arena& activations, Context& context) = 0;
  // dy becomes dx in place. Once for each Forward, and after the backward pass of all that took its
  // result: what Forward kept, the result with it, gives way to gradients.
  virtual void Backward(const TensorView& dy,  // as x
                        ParameterAccess& access, Arena& activations, Context& context) = 0;
};

// Swin V1's block, Video Swin's and ViT's: x + f(norm(x)) (pre-normalisation).
std::unique_ptr<Block> MakePreNormBlock(const BlockConfig& config, ParameterTable* table);
// Swin V2's: x + norm(f(x)) (residual post-normalisation).
std::unique_ptr<Block> MakePostNormBlock(const BlockConfig& config, ParameterTable* table);

// The block `index` of a stage of a Swin Transformer. `prefix` goes before its name ("encoder.").
BlockConfig SwinBlockConfig(const ModelConfig& model, const MemoryConfig& memory, int stage,
                            int index, int number, const std::string& prefix);
// That block.
std::unique_ptr<Block> MakeSwinBlock(const ModelConfig& model, const MemoryConfig& memory,
                                     int stage, int index, int number, const std::string& prefix,
                                     ParameterTable* table);

// What the kinds of blocks share: a unit, its attention and MLP, and drop path.
class BlockBase : public Block {
 protected:
  // Begins the block's unit.
  BlockBase(const BlockConfig& config, ParameterTable* table);

  // Drop path's factors of a branch for the pictures of a batch, f32 (B), or nothing.
  TensorView DropPathScale(const ForwardOptions& options, int branch, int64_t batch,
                           Arena& activations, const Context& context) const;
  bool selective() const {
    return config_.checkpointing == MemoryConfig::Checkpointing::kSelective;
  }

  const BlockConfig config_;
  const ParameterTable& table_;
  const int unit_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_BLOCK_H_
