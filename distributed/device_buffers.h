// Where a GPU updates optimizer state that is in the host's memory.
#ifndef SWINFLEET_DISTRIBUTED_DEVICE_BUFFERS_H_
#define SWINFLEET_DISTRIBUTED_DEVICE_BUFFERS_H_

#include <array>
#include <cstddef>
#include <memory>

#include "core/optim/optimizer.h"
#include "distributed/streamed_update.h"
#include "kernels/accelerator.h"
#include "kernels/arena.h"

namespace swinfleet {

// Buffers of a GPU through which pieces of state pass, in turn, each in a lane of its own: while
// one is copied in, another is updated and a third is copied out. One thread puts them there; it
// may be another than the accelerator's.
class DeviceBuffers {
 public:
  static constexpr int kLanes = 4;

  // `largest` has the number of elements and the dtypes of the largest piece's tensors; what is
  // absent there is absent here. From `arena`, which is the GPU's; in a dry run there is no `gpu`.
  DeviceBuffers(const OptimizerState& largest, int marks, Arena* arena, Accelerator* gpu);

  // The accelerator's thread's. What is put here from now on begins when the GPU has computed what
  // it was called with.
  void StartAfterComputing();
  // Puts the piece of that number on its lane: its state is copied in from pinned memory of the
  // host, `work` is done on it, on the lane's stream, and the state is copied out to where it was.
  void Update(size_t number, const UpdatePart& part, const UpdateWork& work);
  // Sets the mark behind all pieces that were put here so far.
  void SetMark(int mark);
  // Returns when the piece of that number is where it was, updated, or pieces of all lanes.
  void Wait(size_t number);
  void WaitForAll();
  // The accelerator's thread's. What is computed from now on begins when all pieces before the mark
  // have been updated.
  void ComputeAfter(int mark);

 private:
  struct Buffer {
    OptimizerState state;
    // Null in a dry run.
    std::unique_ptr<DeviceLane> lane;
  };
  std::array<Buffer, kLanes> buffers_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_DEVICE_BUFFERS_H_
