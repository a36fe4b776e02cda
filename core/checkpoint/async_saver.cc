#include "core/checkpoint/async_saver.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "kernels/thread_placement.h"

namespace swinfleet {

int64_t SaveBufferElements(std::span<const TensorPiece> pieces) {
  int64_t elements = 0;
  for (const TensorPiece& piece : pieces) elements += piece.size;
  return elements;
}

std::vector<TensorPiece> CopyPieces(std::span<const TensorPiece> pieces, std::span<float> buffer) {
  CHECK_LE(SaveBufferElements(pieces), static_cast<int64_t>(buffer.size()));
  std::vector<TensorPiece> copies;
  copies.reserve(pieces.size());
  for (const TensorPiece& piece : pieces) {
    const std::span<float> copy = buffer.first(piece.size);
    const std::span<const float> data = piece.elements(0, copy);
    if (data.data() != copy.data()) std::copy(data.begin(), data.end(), copy.begin());
    copies.push_back(PieceInMemory(piece.tensor, piece.shape, piece.begin, copy));
    buffer = buffer.subspan(copy.size());
  }
  return copies;
}

AsyncSaver::AsyncSaver(FileOps& ops) : ops_(ops), thread_([this] { Run(); }) {}

AsyncSaver::~AsyncSaver() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void AsyncSaver::Begin(const std::string& dir, int rank, int ranks, std::vector<TensorPiece> pieces,
                       std::optional<SharedShard> shared) {
  CHECK(!in_flight_) << "a save is in flight; its outcome has to be taken first";
  // The thread is idle: until begun_ is set, all of this is the owner's.
  pieces_ = std::move(pieces);
  dir_ = dir;
  rank_ = rank;
  ranks_ = ranks;
  shared_ = std::move(shared);
  in_flight_ = true;
  {
    const std::lock_guard lock(mutex_);
    begun_ = true;
  }
  changed_.notify_all();
}

std::optional<SaveOutcome> AsyncSaver::Poll() {
  const std::lock_guard lock(mutex_);
  if (!outcome_) return std::nullopt;
  in_flight_ = false;
  std::optional<SaveOutcome> taken = std::move(outcome_);
  outcome_.reset();
  return taken;
}

SaveOutcome AsyncSaver::Wait() {
  CHECK(in_flight_) << "no save was begun";
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return outcome_.has_value(); });
  }
  return *Poll();
}

SaveOutcome AsyncSaver::Save() {
  const auto start = std::chrono::steady_clock::now();
  SaveOutcome outcome;
  outcome.dir = dir_;
  // A failed save never ends training, whatever the failure is.
  try {
    outcome.records = WritePart(dir_, rank_, ranks_, pieces_, shared_, ops_);
  } catch (const std::exception& error) {
    outcome.error = error.what();
  }
  // Its file may go now.
  shared_.reset();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

void AsyncSaver::Run() {
  LeaveComputeCpus();
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || begun_; });
    // A save that was begun is written even when the saver is about to be destroyed.
    if (!begun_) return;
    lock.unlock();
    SaveOutcome outcome = Save();
    lock.lock();
    begun_ = false;
    outcome_ = std::move(outcome);
    changed_.notify_all();
  }
}

}  // namespace swinfleet
