// Transformer blocks: attention and MLP, each with its residual.
#ifndef SWINFLEET_CORE_NN_BLOCK_H_
#define SWINFLEET_CORE_NN_BLOCK_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

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

// The pictures that a branch is computed for under drop path (Huang et al., Deep Networks with
// Stochastic Depth). On the CPU these are the ones that it keeps: the others' branch would be
// multiplied by zero, and so would its gradients. A few of those fill up their number, one where
// all are dropped. A GPU computes all.
struct KeptPictures {
  int64_t batch = 0;
  TensorView index;  // i32 (1, K), which ones; absent: all
  TensorView scale;  // f32 (K), their factors; absent without drop path
  // Which ones are left out, in order; all in a dry run.
  std::vector<int64_t> others;

  bool all() const { return index.empty(); }
};

// What the kinds of blocks share: a unit, its attention and MLP, and drop path.
class BlockBase : public Block {
 protected:
  // Begins the block's unit.
  BlockBase(const BlockConfig& config, ParameterTable* table);

  // Of a branch (0 attention, 1 MLP) and a batch. A dry run takes the memory that the branch has
  // with any pictures kept.
  KeptPictures Keep(const ForwardOptions& options, int branch, int64_t batch, Arena& activations,
                    const Context& context) const;
  // The kept pictures' rows of x (M, C): x itself where all are kept, else a copy in the workspace.
  TensorView Gather(const KeptPictures& kept, const TensorView& x, Context& context) const;
  // These rows back to their places in x. Nothing to do where they are x.
  void Scatter(const KeptPictures& kept, const TensorView& rows, const TensorView& x,
               Context& context) const;
  // y (M, C) = x, but the kept pictures' rows, which are `rows`. y may be x; where all pictures are
  // kept, the rows are y.
  void Replace(const KeptPictures& kept, const TensorView& rows, const TensorView& x,
               const TensorView& y, Context& context) const;
  bool selective() const {
    return config_.checkpointing == MemoryConfig::Checkpointing::kSelective;
  }

  const BlockConfig config_;
  const ParameterTable& table_;
  const int unit_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_BLOCK_H_
