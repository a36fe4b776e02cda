// Optimizer state on a local disk.
#ifndef SWINFLEET_DISTRIBUTED_OFFLOADED_STATE_H_
#define SWINFLEET_DISTRIBUTED_OFFLOADED_STATE_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/config/job_config.h"
#include "core/nn/parameters.h"
#include "distributed/device_buffers.h"
#include "distributed/disk_io.h"
#include "distributed/offload_files.h"
#include "distributed/streamed_update.h"
#include "kernels/arena.h"

namespace swinfleet {

struct OffloadSetting {
  const ParameterTable* table = nullptr;
  // One a unit.
  std::vector<OwnedElements> units;
  OptimizerConfig::Kind optimizer = OptimizerConfig::Kind::kAdamW;
  // Of the weights.
  DType dtype = DType::kF32;
  // Of the moments: float32 or bfloat16.
  DType moments = DType::kF32;
  int rank = 0;
  // OffloadFolder's; unused in a dry run.
  std::string folder;
  // What is read, updated and written at a time; whole chunks of kNormChunk.
  int64_t piece_elements = kPieceElements;
  FileOps* ops = nullptr;
};

// What the optimizer keeps, in files: the moments in one, and what weights in 16 bits lack of their
// masters in another. Of each there are two that take turns (AlternatingFile), so that an update
// that fails or crashes leaves the state before it whole.
//
// Files. Each is a safetensors file: after a header, for each unit its first moments (in the order
// of the unit's elements), then its second. Shards are whole chunks, so that each of these begins
// at a multiple of 4096, as direct I/O needs. Parameters are tensors of their own with the names of
// checkpoints, and what lies between them is padding (PieceRecord). So a checkpoint takes the
// current file of moments as it is: XXH3 checksums of its pieces are computed as it is written.
//
// Streaming. The owned elements are cut into pieces of at most piece_elements. Four buffers, the
// only memory, go round: while a piece is updated in one, the next two are being read and the one
// before is being written. An update so takes as long as the slowest of reading, writing and
// computing. It has a thread of its own, so that it runs beside what the caller computes: it is
// done with the first units long before the last ones, and waits for the disk most of the time.
// Where a GPU updates, a piece goes from its buffer through one of the GPU's (DeviceBuffers) and
// back before it is written, while the next one is begun.
//
// Errors. A disk that is full or fails, a file that was cut off: an Error names file, bytes and
// what to do. Parameters are half updated then, so the caller can only give up; the last checkpoint
// is as good as before.
class OffloadedState : public StreamedUpdate {
 public:
  // Takes the buffers from `host`. Where a GPU updates, that is pinned, and the GPU's buffers come
  // from `device`; in a dry run there is no `gpu`. On dry-run memory there are no files, and all
  // that follows touches nothing. Throws FileError.
  explicit OffloadedState(const OffloadSetting& setting, Arena* host, Arena* device = nullptr,
                          Accelerator* gpu = nullptr);
  ~OffloadedState() override;

  // The work is done on a thread of this object's. Where a GPU updates, this and what waits for
  // updates are the accelerator's thread's.
  void StartUpdate(UpdateWork work) override;
  void WaitForUnit(int unit) override;
  // And what was written is current. When this throws, the state is the one before the update.
  void FinishUpdate() override;
  // `work` sets the moments of each piece, on the host; there are no masters in it.
  void SetMoments(const UpdateWork& work);
  // What weights in 16 bits lack of elements [begin, begin + size) of a unit, all of them owned; as
  // many of the first ones as one read takes. Valid until the next call of anything. Throws
  // FileError.
  TensorView Masters(int unit, int64_t begin, int64_t size);
  // Keeps what weights in 16 bits lack of elements [begin, begin + masters.size()) of a unit, all
  // of them owned.
  void SetMasters(int unit, int64_t begin, std::span<const float> masters);

  // The moments for a checkpoint. What changes them afterwards writes other files.
  SharedShard Pin();

  // Bytes of a set on disk: of moments, and of what masters need. An update reads a set and writes
  // another.
  uint64_t moment_bytes() const { return moment_bytes_; }
  uint64_t master_bytes() const { return master_bytes_; }
  // Time that updates and all else here have waited for the disk so far.
  double wait_seconds() const { return io_ == nullptr ? 0 : io_->wait_seconds() + sync_seconds_; }

 private:
  // First moment, second moment, master.
  static constexpr int kTensors = 3;
  static constexpr int kMaster = 2;
  static constexpr int kSlots = DeviceBuffers::kLanes;
  static constexpr int kAhead = 2;

  // One of the kTensors, if it is there.
  struct Tensor {
    bool there = false;
    DType dtype = DType::kF32;
    std::string prefix;
    // Byte of its file at which each unit's elements begin.
    std::vector<uint64_t> unit_offset;
    // Of the moments: its pieces among those of the record, in order.
    std::vector<size_t> records;
  };
  struct Slot {
    std::array<TensorView, kTensors> memory;
    std::array<DiskRequest, kTensors> requests;
    std::array<bool, kTensors> pending = {};
  };
  // Of a pass over the pieces: which tensors are read, and which written; and whether a GPU works
  // on them, where there is one.
  struct Pass {
    bool on_gpu = false;
    std::array<bool, kTensors> read = {};
    std::array<bool, kTensors> write = {};
  };
  // The checksums of one tensor's pieces as its bytes go by.
  struct RunningChecksum {
    StreamingChecksum sum;
    size_t next = 0;
    uint64_t left = 0;
  };

  // Lays out the tensors [first, first + count) as one file; returns its header.
  std::string LayOut(int first, int count, uint64_t* bytes);
  // Adds a unit's elements in `tensor` to `pieces`, from byte `offset` on.
  void AddRecords(int tensor, int unit, uint64_t offset, std::vector<PieceRecord>* pieces) const;
  void AllocateSlots(Arena* arena);
  ScratchFile& FileOf(int tensor, bool next);
  // Runs `work` over all pieces, reading before and writing after as `pass` says. What is written
  // is not yet current when this returns. False: the thread of updates is to end, and not all is
  // written.
  bool Stream(const Pass& pass, const UpdateWork& work);
  void StartReads(const Pass& pass, size_t piece);
  void StartWrites(const Pass& pass, size_t piece);
  void StartOne(int tensor, size_t piece, bool write);
  UpdatePart PartOf(const Pass& pass, size_t piece) const;
  // What comes after the work on a piece: starts to write it.
  void EndPiece(const Pass& pass, size_t piece);
  // Reads or writes with nothing else under way.
  void RunAlone(DiskRequest* request);
  // Waits for what is under way in a buffer.
  void Settle(Slot* slot);
  void BeginChecksums();
  void AddToChecksums(const Slot& slot, int64_t size);
  // What was written becomes current: all of it or, when something can't be made durable, nothing.
  void Commit(const Pass& pass);
  // The thread of updates.
  void RunUpdates();
  // A whole update; what it throws.
  std::exception_ptr RunUpdate();

  const OffloadSetting setting_;
  const bool dry_;
  std::array<Tensor, kTensors> tensors_;
  std::vector<UpdatePiece> pieces_;
  std::array<Slot, kSlots> slots_;
  // Of a GPU that updates; a mark is behind the last unit that is done.
  std::unique_ptr<DeviceBuffers> device_;
  uint64_t moment_bytes_ = 0;
  uint64_t master_bytes_ = 0;
  // Of the moments' file: what is current, and what is being written.
  ShardRecord record_;
  std::array<std::unique_ptr<RunningChecksum>, kMaster> running_;
  std::vector<uint64_t> written_checksums_;
  std::unique_ptr<AlternatingFile> moments_;
  std::unique_ptr<AlternatingFile> masters_;
  double sync_seconds_ = 0;
  // After what it uses, so that it ends before: what is under way uses the buffers and files.
  std::unique_ptr<DiskIo> io_;

  // The update under way: started by the caller, who also notes its end.
  bool updating_ = false;
  UpdateWork update_work_;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by the mutex. The thread has an update to do, and is done with so many units of it.
  bool at_work_ = false;
  int units_done_ = 0;
  std::exception_ptr update_error_;
  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_OFFLOADED_STATE_H_
