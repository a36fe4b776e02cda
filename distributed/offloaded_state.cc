#include "distributed/offloaded_state.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "core/checkpoint/safetensors.h"
#include "distributed/master_weights.h"
#include "kernels/error.h"
#include "kernels/thread_placement.h"

namespace swinfleet {
namespace {

constexpr uint64_t kAlignment = ScratchFile::kAlignment;

// The name in safetensors files.
const char* StoredDType(DType dtype) {
  if (dtype == DType::kF32) return "F32";
  if (dtype == DType::kBF16) return "BF16";
  CHECK(dtype == DType::kU16) << NameOf(dtype);
  return "U16";
}

// Waits at the end of a scope for all that is under way, however the scope ends.
class DrainAtEnd {
 public:
  explicit DrainAtEnd(DiskIo* io) : io_(io) {}
  ~DrainAtEnd() { io_->Drain(); }
  DrainAtEnd(const DrainAtEnd&) = delete;
  DrainAtEnd& operator=(const DrainAtEnd&) = delete;

 private:
  DiskIo* io_;
};

}  // namespace

OffloadedState::OffloadedState(const OffloadSetting& setting, Arena* host, Arena* device,
                               Accelerator* gpu)
    : setting_(setting), dry_(host->device() == Device::kDryRun) {
  CHECK(setting.moments == DType::kF32 || setting.moments == DType::kBF16);
  const bool adamw = setting.optimizer == OptimizerConfig::Kind::kAdamW;
  tensors_[0].there = true;
  tensors_[0].prefix = adamw ? "adamw_m/" : "sgd_momentum/";
  tensors_[1].there = adamw;
  tensors_[1].prefix = "adamw_v/";
  tensors_[0].dtype = tensors_[1].dtype = setting.moments;
  const bool narrow = setting.dtype != DType::kF32;
  tensors_[kMaster].there = narrow;
  tensors_[kMaster].prefix = "master/";
  if (narrow) tensors_[kMaster].dtype = MasterDType(setting.dtype);
  pieces_ = CutIntoPieces(setting.units, setting.piece_elements);
  const std::string moments = LayOut(0, kMaster, &moment_bytes_);
  const std::string masters = narrow ? LayOut(kMaster, 1, &master_bytes_) : "";
  AllocateSlots(host);
  if (device != nullptr) {
    const auto& [first, second, master] = slots_[0].memory;
    const OptimizerState largest = {.first = first, .second = second, .master = master};
    device_ = std::make_unique<DeviceBuffers>(largest, /*marks=*/1, device, gpu);
  }
  if (dry_) return;
  for (auto& running : running_) running = std::make_unique<RunningChecksum>();
  moments_ = std::make_unique<AlternatingFile>(setting_.folder, "moments", moments, moment_bytes_,
                                               *setting_.ops);
  if (narrow) {
    masters_ = std::make_unique<AlternatingFile>(setting_.folder, "masters", masters, master_bytes_,
                                                 *setting_.ops);
  }
  io_ = MakeDiskIo(kSlots * kTensors, *setting_.ops);
  thread_ = std::thread([this] { RunUpdates(); });
}

OffloadedState::~OffloadedState() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void OffloadedState::AddRecords(int tensor, int unit, uint64_t offset,
                                std::vector<PieceRecord>* pieces) const {
  const OwnedElements& owned = setting_.units[unit];
  const Tensor& kind = tensors_[tensor];
  const std::string dtype = StoredDType(kind.dtype);
  int64_t at = owned.begin;
  const auto add = [&](const std::string& name, const Shape& shape, int64_t begin, int64_t count) {
    pieces->push_back({name, shape, dtype, begin, count, offset, 0});
    offset += count * SizeOf(kind.dtype);
    at += count;
  };
  const auto pad_to = [&](int64_t end) {
    if (at == end) return;
    char name[60];
    std::snprintf(name, sizeof(name), "padding/%05d/%zu", setting_.rank, pieces->size());
    add(name, Shape{end - at}, 0, end - at);
  };
  for (const ShardLayout::Segment& segment : owned.segments) {
    const ParameterInfo& info = setting_.table->parameters()[segment.parameter];
    pad_to(segment.unit_begin);
    add(kind.prefix + info.name, info.shape, segment.parameter_begin, segment.size);
  }
  pad_to(owned.begin + owned.size);
}

std::string OffloadedState::LayOut(int first, int count, uint64_t* bytes) {
  std::vector<PieceRecord> pieces;
  uint64_t offset = 0;
  for (size_t unit = 0; unit < setting_.units.size(); ++unit) {
    for (int t = first; t < first + count; ++t) {
      Tensor& tensor = tensors_[t];
      if (!tensor.there) continue;
      tensor.unit_offset.push_back(offset);
      const size_t before = pieces.size();
      AddRecords(t, static_cast<int>(unit), offset, &pieces);
      for (size_t i = before; i < pieces.size(); ++i) tensor.records.push_back(i);
      offset += setting_.units[unit].size * SizeOf(tensor.dtype);
    }
  }
  std::vector<StoredTensor> stored;
  for (const PieceRecord& piece : pieces) {
    const bool whole = piece.count == piece.shape.NumElements();
    stored.push_back({StoredName(piece.tensor, piece.shape, piece.begin, piece.count), piece.dtype,
                      whole ? piece.shape : Shape{piece.count}, piece.offset,
                      piece.offset + piece.Bytes()});
  }
  std::string header = SafetensorsHeaderBytes(stored, {{"format", "pt"}}, kAlignment);
  for (int t = first; t < first + count; ++t) {
    for (uint64_t& begin : tensors_[t].unit_offset) begin += header.size();
  }
  *bytes = header.size() + offset;
  if (first == kMaster) return header;
  for (PieceRecord& piece : pieces) piece.offset += header.size();
  record_.bytes = *bytes;
  record_.header_bytes = header.size();
  record_.header_checksum = Checksum(std::as_bytes(std::span(header)));
  record_.pieces = std::move(pieces);
  written_checksums_.resize(record_.pieces.size());
  return header;
}

void OffloadedState::AllocateSlots(Arena* arena) {
  int64_t largest = 0;
  for (const UpdatePiece& piece : pieces_) largest = std::max(largest, piece.size);
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors_) {
    if (tensor.there) bytes += largest * SizeOf(tensor.dtype);
  }
  // Whole chunks of elements are multiples of the alignment.
  CHECK_EQ(bytes % kAlignment, 0u);
  auto at = reinterpret_cast<uintptr_t>(arena->AllocateBytes(kSlots * bytes + kAlignment));
  at += (kAlignment - at % kAlignment) % kAlignment;
  for (Slot& slot : slots_) {
    for (int t = 0; t < kTensors; ++t) {
      if (!tensors_[t].there) continue;
      slot.memory[t] = {.data = reinterpret_cast<void*>(at),
                        .shape = Shape{largest},
                        .dtype = tensors_[t].dtype,
                        .device = arena->device()};
      at += slot.memory[t].Bytes();
    }
  }
}

ScratchFile& OffloadedState::FileOf(int tensor, bool next) {
  AlternatingFile& file = tensor == kMaster ? *masters_ : *moments_;
  return next ? file.next() : file.current();
}

void OffloadedState::StartOne(int tensor, size_t piece, bool write) {
  const UpdatePiece& p = pieces_[piece];
  Slot& slot = slots_[piece % kSlots];
  ScratchFile& file = FileOf(tensor, write);
  const size_t element = SizeOf(tensors_[tensor].dtype);
  DiskRequest& request = slot.requests[tensor];
  request.write = write;
  request.fd = file.fd();
  request.path = &file.path();
  request.data = static_cast<std::byte*>(slot.memory[tensor].data);
  request.bytes = p.size * element;
  request.offset =
      tensors_[tensor].unit_offset[p.unit] + (p.begin - setting_.units[p.unit].begin) * element;
  io_->Start(&request);
  slot.pending[tensor] = true;
}

void OffloadedState::StartReads(const Pass& pass, size_t piece) {
  Settle(&slots_[piece % kSlots]);
  for (int t = 0; t < kTensors; ++t) {
    if (pass.read[t] && tensors_[t].there) StartOne(t, piece, /*write=*/false);
  }
}

void OffloadedState::StartWrites(const Pass& pass, size_t piece) {
  for (int t = 0; t < kTensors; ++t) {
    if (pass.write[t] && tensors_[t].there) StartOne(t, piece, /*write=*/true);
  }
}

void OffloadedState::Settle(Slot* slot) {
  for (int t = 0; t < kTensors; ++t) {
    if (!std::exchange(slot->pending[t], false)) continue;
    io_->Wait(&slot->requests[t]);
  }
}

UpdatePart OffloadedState::PartOf(const Pass& pass, size_t piece) const {
  const UpdatePiece& p = pieces_[piece];
  const Slot& slot = slots_[piece % kSlots];
  const auto view = [&](int t) {
    const bool used = tensors_[t].there && (pass.read[t] || pass.write[t]);
    if (!used) return TensorView{};
    return slot.memory[t].Rows(0, p.size);
  };
  return {p, {.first = view(0), .second = view(1), .master = view(kMaster)}};
}

bool OffloadedState::Stream(const Pass& pass, const UpdateWork& work) {
  const bool on_gpu = pass.on_gpu && device_ != nullptr;
  const auto work_on = [&](size_t piece) {
    if (on_gpu) return device_->Update(piece, PartOf(pass, piece), work);
    work(PartOf(pass, piece));
  };
  if (dry_) {
    for (size_t i = 0; i < pieces_.size(); ++i) work_on(i);
    return true;
  }
  // What an earlier pass that failed left.
  for (Slot& slot : slots_) slot.pending = {};
  const DrainAtEnd drain(io_.get());
  if (pass.write[0]) BeginChecksums();
  for (size_t i = 0; i < std::min<size_t>(kAhead, pieces_.size()); ++i) StartReads(pass, i);
  // A GPU ends a piece while the next one is begun.
  const size_t behind = on_gpu ? 1 : 0;
  for (size_t i = 0; i < pieces_.size() + behind; ++i) {
    if (stop_) return false;
    if (i < pieces_.size()) {
      Settle(&slots_[i % kSlots]);
      if (i + kAhead < pieces_.size()) StartReads(pass, i + kAhead);
      work_on(i);
    }
    if (i < behind) continue;
    if (on_gpu) device_->Wait(i - behind);
    EndPiece(pass, i - behind);
  }
  for (Slot& slot : slots_) Settle(&slot);
  return true;
}

void OffloadedState::EndPiece(const Pass& pass, size_t piece) {
  if (pass.write[0]) AddToChecksums(slots_[piece % kSlots], pieces_[piece].size);
  StartWrites(pass, piece);
}

void OffloadedState::BeginChecksums() {
  for (int t = 0; t < kMaster; ++t) {
    RunningChecksum& running = *running_[t];
    running.next = 0;
    running.sum.Reset();
    if (tensors_[t].there) running.left = record_.pieces[tensors_[t].records[0]].Bytes();
  }
}

void OffloadedState::AddToChecksums(const Slot& slot, int64_t size) {
  for (int t = 0; t < kMaster; ++t) {
    const Tensor& tensor = tensors_[t];
    if (!tensor.there) continue;
    RunningChecksum& running = *running_[t];
    std::span<const std::byte> bytes(static_cast<const std::byte*>(slot.memory[t].data),
                                     size * SizeOf(tensor.dtype));
    while (!bytes.empty()) {
      const auto part = bytes.first(std::min<uint64_t>(bytes.size(), running.left));
      running.sum.Update(part);
      running.left -= part.size();
      bytes = bytes.subspan(part.size());
      if (running.left > 0) continue;
      written_checksums_[tensor.records[running.next++]] = running.sum.Digest();
      running.sum.Reset();
      if (running.next < tensor.records.size()) {
        running.left = record_.pieces[tensor.records[running.next]].Bytes();
      }
    }
  }
}

void OffloadedState::Commit(const Pass& pass) {
  if (dry_) return;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<AlternatingFile*> written;
  if (pass.write[0]) written.push_back(moments_.get());
  if (pass.write[kMaster] && masters_ != nullptr) written.push_back(masters_.get());
  for (AlternatingFile* file : written) file->FlushNext();
  for (AlternatingFile* file : written) file->Swap();
  for (size_t i = 0; pass.write[0] && i < written_checksums_.size(); ++i) {
    record_.pieces[i].checksum = written_checksums_[i];
  }
  sync_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::exception_ptr OffloadedState::RunUpdate() {
  const Pass all = {.on_gpu = true, .read = {true, true, true}, .write = {true, true, true}};
  // A unit can be used once its last piece has been worked on.
  const auto work = [this, done = size_t{0}](const UpdatePart& part) mutable {
    update_work_(part);
    ++done;
    const int next = done < pieces_.size() ? pieces_[done].unit : std::ssize(setting_.units);
    if (next == part.unit) return;
    if (device_ != nullptr) device_->SetMark(0);
    const std::lock_guard lock(mutex_);
    units_done_ = next;
    changed_.notify_all();
  };
  try {
    if (Stream(all, work)) Commit(all);
  } catch (const Error&) {
    return std::current_exception();
  }
  return nullptr;
}

void OffloadedState::RunUpdates() {
  LeaveComputeCpus();
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || at_work_; });
    if (stop_) return;
    lock.unlock();
    std::exception_ptr error = RunUpdate();
    lock.lock();
    update_error_ = std::move(error);
    at_work_ = false;
    changed_.notify_all();
  }
}

void OffloadedState::StartUpdate(UpdateWork work) {
  CHECK(!updating_) << "an update is under way";
  update_work_ = std::move(work);
  if (dry_) {
    RunUpdate();
    return;
  }
  updating_ = true;
  if (device_ != nullptr) device_->StartAfterComputing();
  {
    const std::lock_guard lock(mutex_);
    units_done_ = 0;
    at_work_ = true;
  }
  changed_.notify_all();
}

void OffloadedState::WaitForUnit(int unit) {
  if (!updating_) return;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this, unit] { return !at_work_ || units_done_ > unit; });
    if (at_work_) {
      // What was put on the GPU may not be done, and comes before what is computed next.
      if (device_ != nullptr) device_->ComputeAfter(0);
      return;
    }
  }
  FinishUpdate();
}

void OffloadedState::FinishUpdate() {
  if (!updating_) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !at_work_; });
  updating_ = false;
  update_work_ = nullptr;
  if (device_ != nullptr) device_->ComputeAfter(0);
  if (update_error_ != nullptr) std::rethrow_exception(std::exchange(update_error_, nullptr));
}

void OffloadedState::SetMoments(const UpdateWork& work) {
  CHECK(!updating_) << "an update is under way";
  const Pass moments = {.write = {true, true, false}};
  Stream(moments, work);
  Commit(moments);
}

TensorView OffloadedState::Masters(int unit, int64_t begin, int64_t size) {
  CHECK(!updating_) << "an update is under way";
  CHECK(tensors_[kMaster].there) << "float32 weights are their own masters";
  const Tensor& tensor = tensors_[kMaster];
  const OwnedElements& owned = setting_.units[unit];
  CHECK(begin >= owned.begin && begin + size <= owned.begin + owned.size)
      << owned.name << ": " << begin << "+" << size;
  // Direct I/O reads whole blocks. Elements from the shard's begin.
  const auto element = static_cast<int64_t>(SizeOf(tensor.dtype));
  const int64_t per_block = kAlignment / element;
  Slot& slot = slots_[0];
  const int64_t at = begin - owned.begin;
  const int64_t first = at / per_block * per_block;
  const int64_t count = std::min(size, first + slot.memory[kMaster].NumElements() - at);
  const int64_t end = (at + count + per_block - 1) / per_block * per_block;
  ScratchFile& file = masters_->current();
  DiskRequest& request = slot.requests[kMaster];
  request.write = false;
  request.fd = file.fd();
  request.path = &file.path();
  request.data = static_cast<std::byte*>(slot.memory[kMaster].data);
  request.bytes = static_cast<size_t>((end - first) * element);
  request.offset = tensor.unit_offset[unit] + first * element;
  RunAlone(&request);
  return slot.memory[kMaster].Rows(at - first, count);
}

void OffloadedState::SetMasters(int unit, int64_t begin, std::span<const float> masters) {
  // In place: what the file holds beside these elements stays.
  while (!masters.empty()) {
    const TensorView kept = Masters(unit, begin, static_cast<int64_t>(masters.size()));
    KeepMasters(masters.first(kept.NumElements()), kept);
    DiskRequest& request = slots_[0].requests[kMaster];
    request.write = true;
    RunAlone(&request);
    masters = masters.subspan(kept.NumElements());
    begin += kept.NumElements();
  }
}

void OffloadedState::RunAlone(DiskRequest* request) {
  const DrainAtEnd drain(io_.get());
  io_->Start(request);
  io_->Wait(request);
}

SharedShard OffloadedState::Pin() {
  CHECK(!updating_) << "an update is under way";
  return {moments_->Pin(), record_};
}

}  // namespace swinfleet
