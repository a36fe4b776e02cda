// What a checkpoint says about itself: which job and step it is, and where each element of each
// tensor lies in its shards. Everything here is text and arithmetic; files are in checkpoint.h.
#ifndef SWINFLEET_CORE_CHECKPOINT_MANIFEST_H_
#define SWINFLEET_CORE_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/optim/loss_scaler.h"
#include "kernels/tensor.h"

namespace swinfleet {

// Elements [begin, begin + size) of a flattened float32 tensor. Names are "param/<name>"
// and, for the state of optimizers, "adamw_m/<name>", "adamw_v/<name>", "sgd_momentum/<name>",
// where <name> is the parameter's official name. Parameters are the float32 masters, whatever dtype
// the job computes with.
struct TensorPiece {
  std::string tensor;
  // Of the whole tensor.
  Shape shape;
  int64_t begin = 0;
  int64_t size = 0;
  // Elements [first, first + scratch.size()) of the piece: where they lie, or else put together in
  // `scratch`, so that what is not kept in float32 never needs to exist as a whole. Throws Error
  // when they come from a file that can't be read. A dry run has none.
  std::function<std::span<const float>(int64_t first, std::span<float> scratch)> elements = nullptr;
};

// Of elements that stay where they are until the piece has been used.
TensorPiece PieceInMemory(const std::string& tensor, const Shape& shape, int64_t begin,
                          std::span<const float> data);

// Where a piece lies in a shard. A shard may have padding between its tensors, which are then
// tensors of their own, "padding/<shard>/<number>", that mean nothing.
struct PieceRecord {
  std::string tensor;
  Shape shape;
  // "F32", or "BF16" of moments.
  std::string dtype = "F32";
  int64_t begin = 0;
  int64_t count = 0;
  // Byte of the file at which it begins.
  uint64_t offset = 0;
  // XXH3 (64 bits) of its bytes.
  uint64_t checksum = 0;
  // Of the file.
  uint64_t Bytes() const;
  bool operator==(const PieceRecord&) const = default;
};

// One shard file: its header and its pieces are all of its bytes, and each has a checksum.
struct ShardRecord {
  // Without folder.
  std::string file;
  uint64_t bytes = 0;
  uint64_t header_bytes = 0;
  uint64_t header_checksum = 0;
  std::vector<PieceRecord> pieces;

  // JSON on one line: what a rank sends to rank 0.
  std::string ToJson() const;
  // Throws Error for a text that is no consistent record; `source` is for messages.
  static ShardRecord FromJson(const std::string& text, const std::string& source);
  bool operator==(const ShardRecord&) const = default;
};

// What has to be the same for a resumed run to give the same bits.
struct ReproducibilityKey {
  std::string program_version;
  // As Highway and oneDNN name it, "AVX2"; or a GPU's name, with " in TF32" where it multiplies so.
  std::string instruction_set;
  int threads_per_rank = 1;
  int64_t micro_batch_size = 0;
  int64_t micro_batches = 0;
  // Of weights and activations: "F32", "BF16" or "F16".
  std::string dtype = "F32";
  // Of the optimizer's moments: "F32" or "BF16".
  std::string moments = "F32";
  // How gradients are summed: "tree", which plain and split accumulation share; "low
  // precision", whose bits also depend on the number of ranks; or "library", whose bits depend on
  // the MPI library too.
  std::string accumulation = "tree";
  // Windows in a group of sequential self-attention, one a stage, 0 where there are no groups: what
  // the job says, or what its memory budget led to. Empty: not known.
  std::vector<int64_t> sequential_windows;
  bool operator==(const ReproducibilityKey&) const = default;
  // What differs from `now`, for a warning: "threads per rank 2, now 1". Empty: nothing, of what is
  // known of both.
  std::string Differences(const ReproducibilityKey& now) const;
};

// What pixels from 0 to 1 become: (pixel - mean) / std of their channel; empty means 0 and 1.
struct Normalisation {
  std::vector<double> mean;
  std::vector<double> std;
  bool operator==(const Normalisation&) const = default;
};

struct CheckpointMeta {
  // The job specification as text.
  std::string job_spec;
  // Optimizer steps done.
  int64_t step = 0;
  int attempt = 0;
  uint64_t seed = 0;
  // Samples consumed since the start of the run: the position in the data order.
  int64_t data_position = 0;
  // Of the training split.
  DataIdentity data;
  // What the model was trained with, whether or not the job specification says so. Nothing: older
  // than version 4, and to be seen from the specification alone.
  std::optional<Normalisation> normalisation;
  ReproducibilityKey reproducibility;
  // The model's dimensions, as JSON.
  std::string model;
  // Steps skipped for a loss or norm that was not finite, in all and in a row up to now.
  int64_t skipped_steps = 0;
  int64_t consecutive_nonfinite = 0;
  // Of float16; else nothing.
  std::optional<LossScaleState> loss_scale;
  // The latest loss, accuracy, ...; any number, also NaN.
  std::map<std::string, double> metrics;
  // How it was written; it can be read on any number of ranks and at any stage.
  int ranks = 1;
  int zero_stage = 0;
};

struct Manifest {
  // The format's version that this program writes, and the newest that it reads. Version 1 lacked
  // the accumulation and the loss scale, version 2 the groups of sequential attention, version
  // 3 the normalisation, version 4 the moments' dtype and pieces of BF16.
  static constexpr int kVersion = 5;
  CheckpointMeta meta;
  std::vector<ShardRecord> shards;

  // JSON whose first line is a checksum of all that follows. Throws Error for text that is not
  // UTF-8.
  std::string ToText() const;
  // Throws Error for a text that was changed, is of a newer version, or is inconsistent, the
  // coverage included. `source` is for messages.
  static Manifest FromText(const std::string& text, const std::string& source);
};

// Throws Error unless the shards hold every element of every tensor exactly once, agree on shapes,
// have names of their own, and each optimizer state that occurs is there for every parameter.
void CheckCoverage(const std::vector<ShardRecord>& shards, const std::string& source);

// A piece's name in its shard. A whole tensor keeps its own, so that any safetensors program can
// read it; a part says where it begins.
std::string StoredName(const std::string& tensor, const Shape& shape, int64_t begin, int64_t count);

// XXH3 of bytes, as in the records.
uint64_t Checksum(std::span<const std::byte> bytes);

// The same of bytes that come in chunks.
class StreamingChecksum {
 public:
  StreamingChecksum();
  ~StreamingChecksum();
  StreamingChecksum(const StreamingChecksum&) = delete;
  StreamingChecksum& operator=(const StreamingChecksum&) = delete;
  void Update(std::span<const std::byte> bytes);
  // Of all bytes since the last Reset, or the beginning.
  uint64_t Digest() const;
  void Reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// As 16 hexadecimal digits.
std::string HexOf(uint64_t value);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_MANIFEST_H_
