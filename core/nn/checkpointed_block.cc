#include "core/nn/checkpointed_block.h"

#include <utility>

#include "kernels/profile.h"

namespace swinfleet {
namespace {

class CheckpointedBlock : public Block {
 public:
  explicit CheckpointedBlock(std::unique_ptr<Block> block) : block_(std::move(block)) {}

  TensorView Forward(const TensorView& x, const ForwardOptions& options, ParameterAccess& access,
                     Arena& activations, Context& context) override {
    if (!options.keep_for_backward) {
      return block_->Forward(x, options, access, activations, context);
    }
    x_ = x;
    options_ = options;
    options_.capture = nullptr;
    // Without keeping, the block overwrites what it is given.
    const TensorView y = activations.Allocate(x.shape, x.dtype);
    context.ops->cast({x, y}, context);
    ForwardOptions once = options;
    once.keep_for_backward = false;
    return block_->Forward(y, once, access, activations, context);
  }

  void Backward(const TensorView& dy, ParameterAccess& access, Arena& activations,
                Context& context) override {
    ArenaScope scope(&activations);
    {
      const ProfileScope profile(context, "again");
      block_->Forward(x_, options_, access, activations, context);
    }
    block_->Backward(dy, access, activations, context);
  }

 private:
  std::unique_ptr<Block> block_;
  // Kept for backward.
  TensorView x_;
  ForwardOptions options_;
};

}  // namespace

std::unique_ptr<Block> Checkpointed(std::unique_ptr<Block> block,
                                    MemoryConfig::Checkpointing checkpointing) {
  if (checkpointing != MemoryConfig::Checkpointing::kBlock) return block;
  return std::make_unique<CheckpointedBlock>(std::move(block));
}

}  // namespace swinfleet
