#include "distributed/pinned_state.h"

#include <glog/logging.h>

#include <algorithm>

namespace swinfleet {

PinnedState::PinnedState(const PinnedSetting& setting, Arena* device, Accelerator* gpu)
    : setting_(setting),
      pieces_(CutIntoPieces(setting.units, setting.piece_elements)),
      buffers_(LargestState(), static_cast<int>(setting.units.size()), device, gpu) {}

OptimizerState PinnedState::StateOf(const UpdatePiece& piece) const {
  const int64_t begin = piece.begin - setting_.units[piece.unit].begin;
  const OptimizerState& unit = setting_.state[piece.unit];
  const auto rows = [&](const TensorView& tensor) {
    return tensor.empty() ? tensor : tensor.Rows(begin, piece.size);
  };
  return {.first = rows(unit.first), .second = rows(unit.second), .master = rows(unit.master)};
}

OptimizerState PinnedState::LargestState() const {
  const auto largest = std::ranges::max_element(pieces_, {}, &UpdatePiece::size);
  CHECK(largest != pieces_.end());
  return StateOf(*largest);
}

void PinnedState::StartUpdate(UpdateWork work) {
  CHECK(!updating_) << "an update is under way";
  updating_ = true;
  buffers_.StartAfterComputing();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const UpdatePiece& piece = pieces_[i];
    buffers_.Update(i, {piece, StateOf(piece)}, work);
    const bool last = i + 1 == pieces_.size() || pieces_[i + 1].unit != piece.unit;
    if (last) buffers_.SetMark(piece.unit);
  }
}

void PinnedState::WaitForUnit(int unit) {
  if (updating_) buffers_.ComputeAfter(unit);
}

void PinnedState::FinishUpdate() {
  if (!updating_) return;
  updating_ = false;
  buffers_.WaitForAll();
}

}  // namespace swinfleet
