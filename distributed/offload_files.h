// Where state that is offloaded to disk lies.
#ifndef SWINFLEET_DISTRIBUTED_OFFLOAD_FILES_H_
#define SWINFLEET_DISTRIBUTED_OFFLOAD_FILES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "core/checkpoint/file_ops.h"
#include "core/checkpoint/scratch_file.h"
#include "distributed/communicator.h"

namespace swinfleet {

// "<offload_dir>/<name of the run folder>-<hash of its path>": of one run, on this host.
std::string OffloadRunFolder(const std::string& offload_dir, const std::string& run_dir);

// A rank's folder for an attempt, "<run's>/attempt-001/rank-00000", which is this object's alone:
// a lock that the system lets go of with the process, however it ends. What older attempts left
// behind when they crashed is removed first, as far as nobody holds it. The folder goes with the
// object.
class OffloadFolder {
 public:
  // Throws Error when another process uses the folder, or when it can't be made.
  OffloadFolder(const std::string& run_folder, int64_t attempt, int rank,
                FileOps& ops = FileOps::System());
  ~OffloadFolder();
  OffloadFolder(const OffloadFolder&) = delete;
  OffloadFolder& operator=(const OffloadFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  FileOps& ops_;
  std::string path_;
  int lock_ = -1;
};

// What a rank's offloaded state takes and moves on its disk, in bytes.
struct DiskUse {
  // Two sets, and a third of the moments while a save that runs beside updates holds one.
  uint64_t state = 0;
  // The rank's part of a checkpoint, where that is on the same filesystem, and what more is taken
  // while one is being made.
  uint64_t checkpoint = 0;
  uint64_t saving = 0;
  // What an update reads; it writes as much.
  uint64_t update = 0;

  // With so many checkpoints that are kept: the most that they take, beside `state`.
  uint64_t Checkpoints(int64_t kept) const {
    return static_cast<uint64_t>(kept) * checkpoint + saving;
  }
};

// The checkpoints that a run makes, of which as many are kept. An empty folder: none.
struct CheckpointPlace {
  std::string run_dir;
  int64_t kept = 0;
};

// Throws Error on every rank of a filesystem that has not the room that all of its ranks on this
// host need together, with the figures. Checkpoints count where they come to the same filesystem,
// but for those that are there already. `problem` is what has gone wrong on this rank already
// (empty: nothing), which is thrown then. Collective, and all ranks have made their folders.
void CheckOffloadSpace(const std::string& folder, const DiskUse& use,
                       const CheckpointPlace& checkpoints, const std::string& problem,
                       Communicator* communicator, FileOps& ops = FileOps::System());

// Two files with the same header that take turns: while one is rewritten the other stays whole.
class AlternatingFile {
 public:
  // Files "<folder>/<name>-<number>.safetensors". Throws FileError.
  AlternatingFile(const std::string& folder, const std::string& name, const std::string& header,
                  uint64_t bytes, FileOps& ops);

  ScratchFile& current() { return *current_; }
  // The one to be rewritten, made anew where a checkpoint has the former one. Throws FileError.
  ScratchFile& next();
  // The rewriting is over: makes `next` durable. Throws SyncError, after which it is of no use.
  void FlushNext();
  // `next`, which is durable, becomes the current one.
  void Swap();
  // The current one, which is then never written again. The other's room is given back.
  std::shared_ptr<const ScratchFile> Pin();

 private:
  std::shared_ptr<ScratchFile> Make();

  const std::string stem_;
  const std::string header_;
  const uint64_t bytes_;
  FileOps& ops_;
  int64_t made_ = 0;
  bool pinned_ = false;
  std::shared_ptr<ScratchFile> current_;
  std::shared_ptr<ScratchFile> next_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_OFFLOAD_FILES_H_
