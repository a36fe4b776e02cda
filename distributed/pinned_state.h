// Optimizer state in the host's memory, of weights that are on a GPU.
#ifndef SWINFLEET_DISTRIBUTED_PINNED_STATE_H_
#define SWINFLEET_DISTRIBUTED_PINNED_STATE_H_

#include <vector>

#include "core/optim/optimizer.h"
#include "distributed/device_buffers.h"
#include "distributed/streamed_update.h"
#include "kernels/accelerator.h"
#include "kernels/arena.h"

namespace swinfleet {

struct PinnedSetting {
  // One a unit: what this rank updates, and its state, (size) each, in pinned memory of the host.
  std::vector<OwnedElements> units;
  std::vector<OptimizerState> state;
  // What is copied and updated at a time; whole chunks of kNormChunk.
  int64_t piece_elements = kPieceElements;
};

// Streams through a GPU's buffers in an update. All of it is put on lanes at once, so that neither
// the host nor what is computed next waits for it, but for units that are needed: where those are
// updated, lanes have marks. The state is the host's between FinishUpdate and the next StartUpdate.
// All calls come from the accelerator's thread.
class PinnedState : public StreamedUpdate {
 public:
  // Takes the buffers from `device`, the GPU's arena. In a dry run there is no `gpu`.
  PinnedState(const PinnedSetting& setting, Arena* device, Accelerator* gpu);

  void StartUpdate(UpdateWork work) override;
  // The host does not wait.
  void WaitForUnit(int unit) override;
  void FinishUpdate() override;

 private:
  OptimizerState StateOf(const UpdatePiece& piece) const;
  OptimizerState LargestState() const;

  const PinnedSetting setting_;
  const std::vector<UpdatePiece> pieces_;
  DeviceBuffers buffers_;
  bool updating_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_PINNED_STATE_H_
