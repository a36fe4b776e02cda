#include "core/checkpoint/checkpoint.h"

#include <glog/logging.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/checkpoint/safetensors.h"

namespace swinfleet {
namespace {

constexpr char kManifestName[] = "manifest.json";
// Written, read and hashed at a time.
constexpr size_t kChunkBytes = size_t{8} << 20;
constexpr int64_t kChunkElements = kChunkBytes / sizeof(float);
// A manifest describes at most some hundred thousand pieces.
constexpr uint64_t kMaxManifestBytes = uint64_t{256} << 20;
constexpr size_t kMaxOpenShards = 64;

std::string Formatted(const char* format, long long a, long long b = 0) {
  char text[96];
  std::snprintf(text, sizeof(text), format, a, b);
  return text;
}

void CheckPiece(const TensorPiece& piece) {
  CHECK(piece.begin >= 0 && piece.begin <= piece.shape.NumElements() - piece.size)
      << piece.tensor << " " << piece.shape << ": elements " << piece.begin << "+" << piece.size;
}

// Writes one shard under the given name; throws FileError with the file removed.
ShardRecord WriteShardAs(const std::string& dir, const std::string& name,
                         const SafetensorsLayout& layout,
                         const std::map<std::string, const TensorPiece*>& by_name, FileOps& ops) {
  ShardRecord record;
  record.file = name;
  record.bytes = layout.file_size;
  record.header_bytes = layout.header.size();
  const auto header = std::as_bytes(std::span(layout.header));
  record.header_checksum = Checksum(header);
  OutputFile file(dir + "/" + name, ops);
  file.WriteAt(0, header);
  // Pages of it are only taken where elements have to be put together.
  const auto scratch = std::make_unique_for_overwrite<float[]>(kChunkElements);
  for (const StoredTensor& tensor : layout.tensors) {
    const TensorPiece& piece = *by_name.at(tensor.name);
    PieceRecord place{piece.tensor, piece.shape, "F32", piece.begin, piece.size, tensor.begin, 0};
    StreamingChecksum checksum;
    for (int64_t done = 0; done < piece.size;) {
      const int64_t count = std::min(kChunkElements, piece.size - done);
      const auto chunk = std::as_bytes(piece.elements(done, {scratch.get(), size_t(count)}));
      checksum.Update(chunk);
      file.WriteAt(tensor.begin + done * sizeof(float), chunk);
      done += count;
    }
    place.checksum = checksum.Digest();
    record.pieces.push_back(std::move(place));
  }
  file.Sync();
  file.Close();
  return record;
}

bool HasManifest(const std::string& dir) {
  std::error_code code;
  return std::filesystem::exists(dir + "/" + kManifestName, code);
}

// Throws Error unless the shard is at `path` with that size. Attributes of files that another
// machine wrote may be seen late on a network filesystem.
void AwaitShard(const std::string& path, uint64_t bytes, FileOps& ops) {
  std::chrono::milliseconds pause(10);
  constexpr int kTries = 11;
  for (int i = 0; i < kTries; ++i, pause *= 2) {
    std::string problem;
    try {
      const InputFile file(path, ops);
      if (file.size() == bytes) return;
      problem = path + " has " + std::to_string(file.size()) + " bytes instead of " +
                std::to_string(bytes);
    } catch (const FileError& error) {
      if (error.code() != ENOENT && error.code() != ESTALE) throw;
      problem = "rank 0 cannot see " + path;
    }
    if (i + 1 == kTries) {
      throw Error(problem +
                  ", which another rank has written: the run folder has to be on a "
                  "filesystem that all ranks share");
    }
    ops.Sleep(pause);
  }
}

}  // namespace

std::string CheckpointsFolder(const std::string& run_dir) { return run_dir + "/checkpoints"; }

std::string AttemptName(int64_t attempt) { return Formatted("attempt-%03lld", attempt); }

std::string AttemptFolder(const std::string& run_dir, int attempt) {
  CHECK_GE(attempt, 0);
  return CheckpointsFolder(run_dir) + "/" + AttemptName(attempt);
}

std::string CheckpointDir(const std::string& run_dir, int attempt, int64_t step) {
  CHECK_GE(step, 0);
  return AttemptFolder(run_dir, attempt) + Formatted("/step-%08lld", step);
}

ShardRecord WriteShard(const std::string& dir, int rank, int ranks,
                       std::span<const TensorPiece> pieces, FileOps& ops) {
  CHECK(rank >= 0 && rank < ranks) << rank << " of " << ranks;
  if (HasManifest(dir)) {
    throw Error("cannot save into " + dir +
                ": it already holds a complete checkpoint, which is never overwritten");
  }
  std::vector<TensorSpec> specs;
  std::map<std::string, const TensorPiece*> by_name;
  for (const TensorPiece& piece : pieces) {
    CheckPiece(piece);
    if (piece.size == 0 && piece.shape.NumElements() > 0) continue;
    const bool whole = piece.size == piece.shape.NumElements();
    specs.push_back({StoredName(piece.tensor, piece.shape, piece.begin, piece.size), "F32",
                     whole ? piece.shape : Shape{piece.size}});
    by_name[specs.back().name] = &piece;
  }
  const SafetensorsLayout layout = LayOutSafetensors(specs, {{"format", "pt"}});
  MakeFolders(dir);
  const std::string stem = Formatted("rank-%05lld-of-%05lld", rank, ranks);
  try {
    return WriteShardAs(dir, stem + ".safetensors", layout, by_name, ops);
  } catch (const SyncError& error) {
    LOG(WARNING) << error.what() << "; writing the shard anew";
  }
  return WriteShardAs(dir, stem + "-anew.safetensors", layout, by_name, ops);
}

namespace {

// Throws FileError with the copy removed.
void CopyFile(const std::string& from, const std::string& to, FileOps& ops) {
  const InputFile input(from, ops);
  OutputFile output(to, ops);
  std::vector<std::byte> buffer(std::min<uint64_t>(input.size(), kChunkBytes));
  for (uint64_t offset = 0; offset < input.size();) {
    const uint64_t left = input.size() - offset;
    const std::span<std::byte> chunk(buffer.data(), std::min<uint64_t>(left, buffer.size()));
    input.ReadAt(offset, chunk);
    output.WriteAt(offset, chunk);
    offset += chunk.size();
  }
  output.Sync();
  output.Close();
}

}  // namespace

ShardRecord AddSharedShard(const std::string& dir, int rank, int ranks, const SharedShard& shard,
                           FileOps& ops) {
  ShardRecord record = shard.record;
  const std::string stem = Formatted("rank-%05lld-of-%05lld-state", rank, ranks);
  record.file = stem + ".safetensors";
  const std::string path = dir + "/" + record.file;
  const std::string& from = shard.file->path();
  int linked = ops.Link(from, path);
  if (linked == -EEXIST) {
    // Of a save that was given up.
    ops.Unlink(path);
    linked = ops.Link(from, path);
  }
  if (linked == 0) return record;
  if (linked != -EXDEV && linked != -EPERM && linked != -EMLINK && linked != -EOPNOTSUPP) {
    throw FileError(-linked, "link " + from + " as", path);
  }
  try {
    CopyFile(from, path, ops);
    return record;
  } catch (const SyncError& error) {
    LOG(WARNING) << error.what() << "; copying the shard anew";
  }
  record.file = stem + "-anew.safetensors";
  CopyFile(from, dir + "/" + record.file, ops);
  return record;
}

std::vector<ShardRecord> WritePart(const std::string& dir, int rank, int ranks,
                                   std::span<const TensorPiece> pieces,
                                   const std::optional<SharedShard>& shared, FileOps& ops) {
  std::vector<ShardRecord> records = {WriteShard(dir, rank, ranks, pieces, ops)};
  if (shared.has_value()) records.push_back(AddSharedShard(dir, rank, ranks, *shared, ops));
  return records;
}

void CommitManifest(const std::string& dir, const CheckpointMeta& meta,
                    std::vector<ShardRecord> records, FileOps& ops) {
  CheckCoverage(records, dir);
  if (HasManifest(dir)) {
    throw Error("cannot commit " + dir + ": it already holds a complete checkpoint");
  }
  std::sort(records.begin(), records.end(),
            [](const ShardRecord& a, const ShardRecord& b) { return a.file < b.file; });
  for (const ShardRecord& shard : records) AwaitShard(dir + "/" + shard.file, shard.bytes, ops);
  const std::string text = Manifest{meta, std::move(records)}.ToText();
  // The shards' names, and the names of the folders above them, before the manifest's.
  std::string folder = dir;
  for (int level = 0; level < 4; ++level, folder = FolderOf(folder)) SyncFolder(folder, ops);
  const std::string path = dir + "/" + kManifestName;
  try {
    ReplaceFile(path, text, ops);
  } catch (const Error&) {
    // Where the rename was done but may not be durable: what is reported as failed must not exist.
    ops.Unlink(path);
    throw;
  }
}

std::unique_ptr<CheckpointReader> CheckpointReader::Open(const std::string& dir, FileOps& ops) {
  std::unique_ptr<CheckpointReader> reader = OpenManifest(dir, ops);
  reader->Verify();
  return reader;
}

std::unique_ptr<CheckpointReader> CheckpointReader::OpenManifest(const std::string& dir,
                                                                 FileOps& ops) {
  const std::string path = dir + "/" + kManifestName;
  std::string text;
  try {
    text = ReadTextFile(path, kMaxManifestBytes, ops);
  } catch (const FileError& error) {
    if (error.code() != ENOENT) throw;
    throw Error(dir + " has no " + kManifestName +
                ": the checkpoint was never completed, or its "
                "manifest was deleted");
  }
  return std::unique_ptr<CheckpointReader>(
      new CheckpointReader(dir, Manifest::FromText(text, path), ops));
}

CheckpointReader::CheckpointReader(const std::string& dir, Manifest manifest, FileOps& ops)
    : dir_(dir), manifest_(std::move(manifest)), ops_(ops) {
  for (size_t i = 0; i < manifest_.shards.size(); ++i) {
    for (const PieceRecord& piece : manifest_.shards[i].pieces) {
      tensors_.emplace(piece.tensor, piece.shape);
      if (piece.count > 0) places_[piece.tensor].push_back({i, &piece});
    }
  }
  for (auto& [name, places] : places_) {
    std::sort(places.begin(), places.end(),
              [](const Place& a, const Place& b) { return a.piece->begin < b.piece->begin; });
  }
}

std::shared_ptr<InputFile> CheckpointReader::Shard(size_t index) const {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<InputFile>& file = open_[index];
  if (file == nullptr) {
    // Readers that still use a file keep it open through their own reference.
    if (open_.size() > kMaxOpenShards) {
      std::erase_if(open_, [&](const auto& entry) { return entry.first != index; });
    }
    file = std::make_shared<InputFile>(dir_ + "/" + manifest_.shards[index].file, ops_);
  }
  return file;
}

void CheckpointReader::VerifyHeader(size_t shard) const {
  const ShardRecord& record = manifest_.shards[shard];
  const std::shared_ptr<InputFile> file = Shard(shard);
  if (file->size() != record.bytes) {
    throw Error("shard " + file->path() + " has " + std::to_string(file->size()) +
                " bytes, the manifest says " + std::to_string(record.bytes) +
                (file->size() < record.bytes ? ": it is truncated" : ": it is too long"));
  }
  std::vector<std::byte> header(record.header_bytes);
  file->ReadAt(0, header);
  if (Checksum(header) != record.header_checksum) {
    throw Error("shard " + file->path() +
                ": the checksum of its header does not match the "
                "manifest's: the file was damaged after it was written");
  }
}

void CheckpointReader::VerifyPiece(size_t shard, const PieceRecord& piece) const {
  const std::shared_ptr<InputFile> file = Shard(shard);
  StreamingChecksum checksum;
  uint64_t left = piece.Bytes();
  std::vector<std::byte> buffer(std::min<uint64_t>(left, kChunkBytes));
  for (uint64_t offset = piece.offset; left > 0;) {
    const std::span<std::byte> chunk(buffer.data(), std::min<uint64_t>(left, buffer.size()));
    file->ReadAt(offset, chunk);
    checksum.Update(chunk);
    offset += chunk.size();
    left -= chunk.size();
  }
  if (checksum.Digest() != piece.checksum) {
    throw Error("shard " + file->path() + ": tensor " + piece.tensor + ", elements " +
                std::to_string(piece.begin) + " to " + std::to_string(piece.begin + piece.count) +
                ": checksum " + HexOf(checksum.Digest()) + " instead of the manifest's " +
                HexOf(piece.checksum) + ": the file was damaged after it was written");
  }
}

void CheckpointReader::VerifyShards(int first, int stride) const {
  CHECK(first >= 0 && first < stride) << first << " of " << stride;
  int64_t item = 0;
  const auto mine = [&] { return item++ % stride == first; };
  // Sizes and headers come first: a truncated or missing shard is found without reading others.
  for (size_t i = 0; i < manifest_.shards.size(); ++i) {
    if (mine()) VerifyHeader(i);
  }
  for (size_t i = 0; i < manifest_.shards.size(); ++i) {
    for (const PieceRecord& piece : manifest_.shards[i].pieces) {
      if (mine()) VerifyPiece(i, piece);
    }
  }
}

void CheckpointReader::Read(const std::string& tensor, int64_t begin, std::span<float> out) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) throw Error(dir_ + " has no tensor " + tensor);
  const int64_t count = static_cast<int64_t>(out.size());
  CHECK(begin >= 0 && begin <= found->second.NumElements() - count)
      << tensor << " " << found->second << ": elements " << begin << "+" << count;
  if (count == 0) return;
  const std::vector<Place>& places = places_.at(tensor);
  auto place =
      std::upper_bound(places.begin(), places.end(), begin,
                       [](int64_t element, const Place& p) { return element < p.piece->begin; });
  for (--place; !out.empty(); ++place) {
    const PieceRecord& piece = *place->piece;
    const int64_t skip = begin - piece.begin;
    const size_t part = std::min<size_t>(out.size(), piece.count - skip);
    const uint64_t offset = piece.offset + skip * StoredElementSize(piece.dtype);
    CHECK(ReadStoredAsF32(*Shard(place->shard), offset, piece.dtype, out.first(part)))
        << piece.dtype;
    begin += static_cast<int64_t>(part);
    out = out.subspan(part);
  }
}

}  // namespace swinfleet
