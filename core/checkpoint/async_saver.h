// Saving while training goes on: a thread writes a rank's shard from a copy of its tensors.
#ifndef SWINFLEET_CORE_CHECKPOINT_ASYNC_SAVER_H_
#define SWINFLEET_CORE_CHECKPOINT_ASYNC_SAVER_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/checkpoint.h"

namespace swinfleet {

// How a save of one rank's part ended.
struct SaveOutcome {
  std::string dir;
  // Its shards. Empty when it failed; then `error` says why.
  std::vector<ShardRecord> records;
  std::string error;
  double seconds = 0;
};

// The elements of all pieces: what a buffer for their copies has to hold.
int64_t SaveBufferElements(std::span<const TensorPiece> pieces);

// Copies the pieces into a buffer that is large enough (CHECK); returns the pieces of the copies,
// of use as long as the buffer is not changed. Throws Error when elements can't be read.
std::vector<TensorPiece> CopyPieces(std::span<const TensorPiece> pieces, std::span<float> buffer);

// One save in flight at most. All methods are for one thread, the owner's.
class AsyncSaver {
 public:
  // The thread is started here.
  explicit AsyncSaver(FileOps& ops = FileOps::System());
  // Waits for a save in flight.
  ~AsyncSaver();
  AsyncSaver(const AsyncSaver&) = delete;
  AsyncSaver& operator=(const AsyncSaver&) = delete;

  // Starts to write the pieces as WritePart does. The thread reads them: what they are of stays as
  // it is until the save has ended. None is in flight (CHECK).
  void Begin(const std::string& dir, int rank, int ranks, std::vector<TensorPiece> pieces,
             std::optional<SharedShard> shared = std::nullopt);
  // A save was begun whose outcome has not been taken.
  bool InFlight() const { return in_flight_; }
  // Takes the outcome if the save in flight has ended; never waits.
  std::optional<SaveOutcome> Poll();
  // Waits for the save in flight (CHECK) and takes its outcome.
  SaveOutcome Wait();

 private:
  void Run();
  SaveOutcome Save();

  FileOps& ops_;
  bool in_flight_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  // Set by the owner, taken by the thread; the job's fields below belong to the thread meanwhile.
  bool begun_ = false;
  std::optional<SaveOutcome> outcome_;
  std::string dir_;
  int rank_ = 0;
  int ranks_ = 1;
  std::vector<TensorPiece> pieces_;
  std::optional<SharedShard> shared_;

  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_ASYNC_SAVER_H_
