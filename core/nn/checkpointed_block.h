// Activation checkpointing of whole blocks (Chen et al. 2016, "Training Deep Nets with Sublinear
// Memory Cost").
#ifndef SWINFLEET_CORE_NN_CHECKPOINTED_BLOCK_H_
#define SWINFLEET_CORE_NN_CHECKPOINTED_BLOCK_H_

#include <memory>

#include "core/nn/block.h"

namespace swinfleet {

// With kBlock, a block that keeps its input alone and runs `block` again in Backward; else `block`.
std::unique_ptr<Block> Checkpointed(std::unique_ptr<Block> block,
                                    MemoryConfig::Checkpointing checkpointing);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_CHECKPOINTED_BLOCK_H_
