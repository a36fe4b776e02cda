// One checkpoint on disk: a folder `<run>/checkpoints/attempt-001/step-00001000/` with safetensors
// shards, one a rank, and `manifest.json`. A checkpoint exists when its manifest does. Its way
// there:
//
//   every rank   WriteShard       the rank's tensors, flushed and fsynced
//   every rank   -> rank 0        ShardRecord::ToJson, over the communicator
//   rank 0       CommitManifest   checks that nothing is missing, renames the manifest into place
//
// It is read on any number of ranks through CheckpointReader, in ranges of elements of whole
// tensors: how it was cut when it was written does not matter.
#ifndef SWINFLEET_CORE_CHECKPOINT_CHECKPOINT_H_
#define SWINFLEET_CORE_CHECKPOINT_CHECKPOINT_H_

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/file_ops.h"
#include "core/checkpoint/manifest.h"
#include "core/checkpoint/scratch_file.h"

namespace swinfleet {

// "<run_dir>/checkpoints".
std::string CheckpointsFolder(const std::string& run_dir);
// "attempt-001": what an attempt's folders and files are called, here and elsewhere in a run.
std::string AttemptName(int64_t attempt);
// "<run_dir>/checkpoints/attempt-001". Attempts count from 1; 0 is where imported weights are put,
// for the first attempt to go on from.
std::string AttemptFolder(const std::string& run_dir, int attempt);
// "<run_dir>/checkpoints/attempt-001/step-00001000".
std::string CheckpointDir(const std::string& run_dir, int attempt, int64_t step);

// Writes the pieces that rank `rank` of `ranks` holds into a shard of its own in `dir`, which is
// created if need be, and makes it durable. Pieces without elements are left out. After a failed
// fsync the file is written anew under another name, once. Throws Error, with nothing left behind,
// when the disk is full or fails, and when `dir` already holds a complete checkpoint.
ShardRecord WriteShard(const std::string& dir, int rank, int ranks,
                       std::span<const TensorPiece> pieces, FileOps& ops = FileOps::System());

// A shard that is a file already and is never written again. The record lacks the file's name in
// the checkpoint.
struct SharedShard {
  std::shared_ptr<const ScratchFile> file;
  ShardRecord record;
};

// Makes it the second shard of rank `rank` of `ranks` in `dir`, which is there: by another name for
// the same bytes (a hard link) on the same filesystem, else by a copy, made durable. Throws Error,
// with nothing left behind.
ShardRecord AddSharedShard(const std::string& dir, int rank, int ranks, const SharedShard& shard,
                           FileOps& ops = FileOps::System());

// A rank's part of a checkpoint: WriteShard, and AddSharedShard if there is one.
std::vector<ShardRecord> WritePart(const std::string& dir, int rank, int ranks,
                                   std::span<const TensorPiece> pieces,
                                   const std::optional<SharedShard>& shared,
                                   FileOps& ops = FileOps::System());

// Makes `dir` a checkpoint: checks the coverage of `records` and that every shard is there with its
// size, then puts the manifest into place. Throws Error; then `dir` holds no checkpoint. A shard
// that cannot be seen is given time (a network filesystem may be late), about ten seconds.
void CommitManifest(const std::string& dir, const CheckpointMeta& meta,
                    std::vector<ShardRecord> records, FileOps& ops = FileOps::System());

// A complete checkpoint. Thread-safe.
class CheckpointReader {
 public:
  // Opens a checkpoint and verifies all of it: manifest, coverage, sizes and checksums. Throws
  // Error, saying what is wrong with which file.
  static std::unique_ptr<CheckpointReader> Open(const std::string& dir,
                                                FileOps& ops = FileOps::System());
  // The same without looking at the shards, for ranks that share that work through VerifyShards.
  static std::unique_ptr<CheckpointReader> OpenManifest(const std::string& dir,
                                                        FileOps& ops = FileOps::System());

  // Verifies sizes and checksums of every shard. Throws Error.
  void Verify() const { VerifyShards(0, 1); }
  // The part of that work that falls to worker `first` of `stride`: all of them together verify
  // everything. Work is shared piece by piece, also within one shard. Throws Error.
  void VerifyShards(int first, int stride) const;

  const std::string& dir() const { return dir_; }
  const CheckpointMeta& meta() const { return manifest_.meta; }
  const std::vector<ShardRecord>& shards() const { return manifest_.shards; }
  // Names and shapes of all tensors.
  const std::map<std::string, Shape>& tensors() const { return tensors_; }
  bool Has(const std::string& tensor) const { return tensors_.contains(tensor); }

  // Elements [begin, begin + out.size()) of a flattened tensor, from whichever shards hold them.
  // Throws Error for a tensor that is not there and for a file that cannot be read.
  void Read(const std::string& tensor, int64_t begin, std::span<float> out) const;

 private:
  struct Place {
    size_t shard = 0;
    const PieceRecord* piece = nullptr;
  };

  CheckpointReader(const std::string& dir, Manifest manifest, FileOps& ops);
  std::shared_ptr<InputFile> Shard(size_t index) const;
  void VerifyHeader(size_t shard) const;
  void VerifyPiece(size_t shard, const PieceRecord& piece) const;

  std::string dir_;
  Manifest manifest_;
  FileOps& ops_;
  std::map<std::string, Shape> tensors_;
  // In order of their first elements.
  std::map<std::string, std::vector<Place>> places_;
  mutable std::mutex mutex_;
  // Shards held open, by index; bounded.
  mutable std::map<size_t, std::shared_ptr<InputFile>> open_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_CHECKPOINT_H_
