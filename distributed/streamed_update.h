// Updates of optimizer state that is kept elsewhere than the weights: piece by piece, beside what
// is computed next.
#ifndef SWINFLEET_DISTRIBUTED_STREAMED_UPDATE_H_
#define SWINFLEET_DISTRIBUTED_STREAMED_UPDATE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/optim/optimizer.h"
#include "distributed/shard_layout.h"

namespace swinfleet {

// Elements that are updated at a time, whole chunks of kNormChunk: of a moment 8 MiB.
inline constexpr int64_t kPieceElements = int64_t{1} << 21;

// The elements [begin, begin + size) of a unit that this rank updates: whole chunks of kNormChunk.
struct OwnedElements {
  std::string name;
  int64_t begin = 0;
  int64_t size = 0;
  std::vector<ShardLayout::Segment> segments;
};

// A piece of a unit: elements [begin, begin + size), whole chunks of kNormChunk.
struct UpdatePiece {
  int unit = 0;
  int64_t begin = 0;
  int64_t size = 0;
};

// The units in order, in pieces of at most `most` elements.
inline std::vector<UpdatePiece> CutIntoPieces(const std::vector<OwnedElements>& units,
                                              int64_t most) {
  std::vector<UpdatePiece> pieces;
  for (size_t unit = 0; unit < units.size(); ++unit) {
    const OwnedElements& owned = units[unit];
    for (int64_t done = 0; done < owned.size; done += most) {
      pieces.push_back({.unit = static_cast<int>(unit),
                        .begin = owned.begin + done,
                        .size = std::min(most, owned.size - done)});
    }
  }
  return pieces;
}

// A piece with its state, (size) each, where the work on it is done.
struct UpdatePart : UpdatePiece {
  OptimizerState state = {};
  // The GPU's, on which the work is to be put; null: the caller's thread works.
  void* stream = nullptr;
};
using UpdateWork = std::function<void(const UpdatePart&)>;

class StreamedUpdate {
 public:
  virtual ~StreamedUpdate() = default;

  // Starts an update, in which `work` changes the state of each piece, in the order of units, one
  // call at a time. Until the update is over only what waits for it may be called, and what the
  // work uses is the work's.
  virtual void StartUpdate(UpdateWork work) = 0;
  // What comes next finds the units up to this one updated, if an update is under way. Throws what
  // the update throws.
  virtual void WaitForUnit(int unit) = 0;
  // Waits until an update that is under way is over. Throws what the update throws.
  virtual void FinishUpdate() = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_STREAMED_UPDATE_H_
