#include "core/checkpoint/manifest.h"

#include <glog/logging.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checkpoint/safetensors.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "swinfleet-checkpoint";
// {"xxh3_64": "0123456789abcdef", newline: its length does not depend on the checksum.
constexpr char kChecksumKey[] = "{\"xxh3_64\": \"";
constexpr char kChecksumEnd[] = "\",\n";
// State of optimizers: one tensor for each parameter, or none at all.
constexpr const char* kStatePrefixes[] = {"adamw_m/", "adamw_v/", "sgd_momentum/"};
constexpr char kParameterPrefix[] = "param/";
// Elements of one tensor; keeps every product of sizes below 2^63.
constexpr int64_t kMaxElements = int64_t{1} << 58;

[[noreturn]] void Reject(const std::string& source, const std::string& what) {
  throw Error(source + ": " + what);
}

// Typed access to a JSON object whose text was written by somebody else.
class Fields {
 public:
  Fields(const json& object, const std::string& source) : object_(object), source_(source) {
    if (!object.is_object()) Reject(source, "a JSON object is expected");
  }
  const json& At(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) Reject(source_, std::string("\"") + key + "\" is missing");
    return *found;
  }
  std::string Text(const char* key) const {
    if (!At(key).is_string()) Reject(source_, std::string("\"") + key + "\" is not a text");
    return At(key).get<std::string>();
  }
  uint64_t Unsigned(const char* key, uint64_t limit = std::numeric_limits<uint64_t>::max()) const {
    if (!At(key).is_number_unsigned() || At(key).get<uint64_t>() > limit) {
      Reject(source_, std::string("\"") + key + "\" is not a whole number from 0 to " +
                          std::to_string(limit));
    }
    return At(key).get<uint64_t>();
  }
  int64_t Count(const char* key) const { return static_cast<int64_t>(Unsigned(key, kMaxCount)); }
  int Int(const char* key) const {
    return static_cast<int>(Unsigned(key, std::numeric_limits<int>::max()));
  }
  uint64_t Hex(const char* key) const {
    const std::string text = Text(key);
    if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
      Reject(source_, std::string("\"") + key + "\" is not 16 hexadecimal digits");
    }
    return std::stoull(text, nullptr, 16);
  }
  const json& List(const char* key) const {
    if (!At(key).is_array()) Reject(source_, std::string("\"") + key + "\" is not a list");
    return At(key);
  }
  std::vector<int64_t> Counts(const char* key) const {
    std::vector<int64_t> counts;
    for (const json& value : List(key)) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxCount) {
        Reject(source_, std::string("\"") + key + "\" has the entry " + value.dump() +
                            ", which is not a whole number");
      }
      counts.push_back(value.get<int64_t>());
    }
    return counts;
  }
  std::vector<double> Numbers(const char* key) const {
    std::vector<double> numbers;
    for (const json& value : List(key)) {
      if (!value.is_number()) {
        Reject(source_, std::string("\"") + key + "\" has the entry " + value.dump() +
                            ", which is not a number");
      }
      numbers.push_back(value.get<double>());
    }
    return numbers;
  }

 private:
  static constexpr uint64_t kMaxCount = std::numeric_limits<int64_t>::max();

  const json& object_;
  const std::string& source_;
};

json ParseText(const std::string& text, const std::string& source) {
  const auto guard = [&](int depth, json::parse_event_t, json&) {
    if (depth > 16) Reject(source, "it is nested too deeply");
    return true;
  };
  try {
    return json::parse(text, guard);
  } catch (const json::exception& error) {
    Reject(source, std::string("it is not valid JSON: ") + error.what());
  }
}

std::string Dump(const json& value, int indent) {
  try {
    return value.dump(indent);
  } catch (const json::exception& error) {
    throw Error(std::string("cannot write a checkpoint's manifest: the job specification or a name "
                            "is not valid UTF-8: ") +
                error.what());
  }
}

json ShapeToJson(const Shape& shape) {
  json dims = json::array();
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

Shape ShapeFromJson(const json& value, const std::string& tensor, const std::string& source) {
  Shape shape;
  uint64_t elements = 1;
  if (!value.is_array() || value.size() > static_cast<size_t>(Shape::kMaxRank)) {
    Reject(source, "tensor " + tensor + " has no list \"shape\" of at most " +
                       std::to_string(Shape::kMaxRank) + " dimensions");
  }
  for (const json& dim : value) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{kMaxElements} ||
        (dim.get<uint64_t>() != 0 && elements > kMaxElements / dim.get<uint64_t>())) {
      Reject(source, "tensor " + tensor + " has the impossible shape " + value.dump());
    }
    elements *= dim.get<uint64_t>();
    shape.Append(dim.get<int64_t>());
  }
  return shape;
}

json ShardToJson(const ShardRecord& shard) {
  json pieces = json::array();
  for (const PieceRecord& piece : shard.pieces) {
    pieces.push_back({{"tensor", piece.tensor},
                      {"shape", ShapeToJson(piece.shape)},
                      {"dtype", piece.dtype},
                      {"begin", piece.begin},
                      {"count", piece.count},
                      {"offset", piece.offset},
                      {"xxh3_64", HexOf(piece.checksum)}});
  }
  return {{"file", shard.file},
          {"bytes", shard.bytes},
          {"header_bytes", shard.header_bytes},
          {"header_xxh3_64", HexOf(shard.header_checksum)},
          {"pieces", std::move(pieces)}};
}

PieceRecord PieceFromJson(const json& value, const std::string& source) {
  const Fields fields(value, source);
  PieceRecord piece;
  piece.tensor = fields.Text("tensor");
  piece.shape = ShapeFromJson(fields.At("shape"), piece.tensor, source);
  piece.dtype = fields.Text("dtype");
  if (piece.dtype != "F32" && piece.dtype != "BF16") {
    Reject(source, "tensor " + piece.tensor + " is " + piece.dtype +
                       "; this program reads F32 and BF16 only");
  }
  piece.begin = fields.Count("begin");
  piece.count = fields.Count("count");
  const int64_t elements = piece.shape.NumElements();
  if (piece.begin > elements || piece.count > elements - piece.begin) {
    Reject(source, "elements " + std::to_string(piece.begin) + "+" + std::to_string(piece.count) +
                       " lie outside of tensor " + piece.tensor + " " + piece.shape.ToString());
  }
  piece.offset = fields.Count("offset");
  piece.checksum = fields.Hex("xxh3_64");
  return piece;
}

// Header and pieces tile the file: every one of its bytes is under a checksum.
void CheckShard(const ShardRecord& shard, const std::string& source) {
  if (shard.file.empty() || shard.file.find('/') != std::string::npos || shard.file[0] == '.') {
    Reject(source, "\"" + shard.file + "\" is no name of a shard");
  }
  std::vector<const PieceRecord*> pieces;
  for (const PieceRecord& piece : shard.pieces) pieces.push_back(&piece);
  std::sort(pieces.begin(), pieces.end(), [](const PieceRecord* a, const PieceRecord* b) {
    return std::tie(a->offset, a->count) < std::tie(b->offset, b->count);
  });
  uint64_t end = shard.header_bytes;
  for (const PieceRecord* piece : pieces) {
    if (piece->offset != end) {
      Reject(source, shard.file + ": " + piece->tensor + " begins at byte " +
                         std::to_string(piece->offset) + ", not where the bytes before it end, " +
                         std::to_string(end));
    }
    end += piece->Bytes();
  }
  if (end != shard.bytes) {
    Reject(source, shard.file + " has " + std::to_string(shard.bytes) +
                       " bytes, of which the records describe " + std::to_string(end));
  }
}

ShardRecord ShardFromJson(const json& value, const std::string& source) {
  const Fields fields(value, source);
  ShardRecord shard;
  shard.file = fields.Text("file");
  shard.bytes = fields.Count("bytes");
  shard.header_bytes = fields.Count("header_bytes");
  shard.header_checksum = fields.Hex("header_xxh3_64");
  for (const json& piece : fields.List("pieces")) {
    shard.pieces.push_back(PieceFromJson(piece, source));
  }
  CheckShard(shard, source);
  return shard;
}

// JSON has no NaN and no infinity: they are written as texts.
json NumberToJson(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

double NumberFromJson(const json& value, const std::string& key, const std::string& source) {
  if (value.is_number()) return value.get<double>();
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  Reject(source, "the metric \"" + key + "\" is not a number");
}

json LossScaleToJson(const std::optional<LossScaleState>& state) {
  if (!state.has_value()) return nullptr;
  return {{"scale", state->scale}, {"good_steps", state->good_steps}};
}

std::optional<LossScaleState> LossScaleFromJson(const json& value, const std::string& source) {
  if (value.is_null()) return std::nullopt;
  const Fields fields(value, source);
  LossScaleState state;
  const json& scale = fields.At("scale");
  if (!scale.is_number() || !(scale.get<double>() >= LossScaler::kLeast) ||
      !(scale.get<double>() <= LossScaler::kMost)) {
    Reject(source, "the loss scale " + scale.dump() + " is not between 1 and 16777216");
  }
  state.scale = scale.get<double>();
  state.good_steps = fields.Count("good_steps");
  return state;
}

json NormalisationToJson(const std::optional<Normalisation>& normalisation) {
  if (!normalisation.has_value()) return nullptr;
  return {{"mean", normalisation->mean}, {"std", normalisation->std}};
}

std::optional<Normalisation> NormalisationFromJson(const json& value, const std::string& source) {
  if (value.is_null()) return std::nullopt;
  const Fields fields(value, source);
  return Normalisation{fields.Numbers("mean"), fields.Numbers("std")};
}

json MetaToJson(const CheckpointMeta& meta) {
  json metrics = json::object();
  for (const auto& [key, value] : meta.metrics) metrics[key] = NumberToJson(value);
  return {{"job_spec", meta.job_spec},
          {"step", meta.step},
          {"attempt", meta.attempt},
          {"seed", meta.seed},
          {"data_position", meta.data_position},
          {"data",
           {{"count", meta.data.count},
            {"channels", meta.data.channels},
            {"height", meta.data.height},
            {"width", meta.data.width},
            {"num_classes", meta.data.num_classes},
            {"index_hash", HexOf(meta.data.index_hash)}}},
          {"normalisation", NormalisationToJson(meta.normalisation)},
          {"reproducibility",
           {{"program_version", meta.reproducibility.program_version},
            {"instruction_set", meta.reproducibility.instruction_set},
            {"threads_per_rank", meta.reproducibility.threads_per_rank},
            {"micro_batch_size", meta.reproducibility.micro_batch_size},
            {"micro_batches", meta.reproducibility.micro_batches},
            {"dtype", meta.reproducibility.dtype},
            {"moments", meta.reproducibility.moments},
            {"accumulation", meta.reproducibility.accumulation},
            {"sequential_windows", meta.reproducibility.sequential_windows}}},
          {"model", meta.model},
          {"skipped_steps", meta.skipped_steps},
          {"consecutive_nonfinite", meta.consecutive_nonfinite},
          {"loss_scale", LossScaleToJson(meta.loss_scale)},
          {"metrics", std::move(metrics)},
          {"ranks", meta.ranks},
          {"zero_stage", meta.zero_stage}};
}

CheckpointMeta MetaFromJson(const json& value, int version, const std::string& source) {
  const Fields fields(value, source);
  CheckpointMeta meta;
  meta.job_spec = fields.Text("job_spec");
  meta.step = fields.Count("step");
  meta.attempt = fields.Int("attempt");
  meta.seed = fields.Unsigned("seed");
  meta.data_position = fields.Count("data_position");
  const Fields data(fields.At("data"), source);
  meta.data.count = data.Count("count");
  meta.data.channels = data.Count("channels");
  meta.data.height = data.Count("height");
  meta.data.width = data.Count("width");
  meta.data.num_classes = data.Count("num_classes");
  meta.data.index_hash = data.Hex("index_hash");
  const Fields key(fields.At("reproducibility"), source);
  meta.reproducibility.program_version = key.Text("program_version");
  meta.reproducibility.instruction_set = key.Text("instruction_set");
  meta.reproducibility.threads_per_rank = key.Int("threads_per_rank");
  meta.reproducibility.micro_batch_size = key.Count("micro_batch_size");
  meta.reproducibility.micro_batches = key.Count("micro_batches");
  meta.reproducibility.dtype = key.Text("dtype");
  if (version >= 2) {
    meta.reproducibility.accumulation = key.Text("accumulation");
    meta.loss_scale = LossScaleFromJson(fields.At("loss_scale"), source);
  }
  if (version >= 3) meta.reproducibility.sequential_windows = key.Counts("sequential_windows");
  if (version >= 5) meta.reproducibility.moments = key.Text("moments");
  if (version >= 4) {
    meta.normalisation = NormalisationFromJson(fields.At("normalisation"), source);
  }
  meta.model = fields.Text("model");
  meta.skipped_steps = fields.Count("skipped_steps");
  meta.consecutive_nonfinite = fields.Count("consecutive_nonfinite");
  if (!fields.At("metrics").is_object()) Reject(source, "\"metrics\" is not an object");
  for (const auto& [name, number] : fields.At("metrics").items()) {
    meta.metrics[name] = NumberFromJson(number, name, source);
  }
  meta.ranks = fields.Int("ranks");
  meta.zero_stage = fields.Int("zero_stage");
  return meta;
}

using PiecesByTensor = std::map<std::string, std::vector<const PieceRecord*>>;

// The pieces of one tensor, which is never empty: every element exactly once, one shape.
void CheckTensor(const std::string& name, std::vector<const PieceRecord*> pieces,
                 const std::string& source) {
  std::sort(pieces.begin(), pieces.end(), [](const PieceRecord* a, const PieceRecord* b) {
    return std::tie(a->begin, a->count) < std::tie(b->begin, b->count);
  });
  const Shape& shape = pieces.front()->shape;
  int64_t end = 0;
  for (const PieceRecord* piece : pieces) {
    if (!(piece->shape == shape)) {
      Reject(source, "tensor " + name + " has the shape " + shape.ToString() +
                         " in one piece and " + piece->shape.ToString() + " in another");
    }
    if (piece->begin != end) {
      Reject(source, "elements " + std::to_string(std::min(end, piece->begin)) + " to " +
                         std::to_string(std::max(end, piece->begin)) + " of tensor " + name +
                         (piece->begin > end ? " are in no shard" : " are there twice"));
    }
    end += piece->count;
  }
  if (end != shape.NumElements()) {
    Reject(source, "elements " + std::to_string(end) + " to " +
                       std::to_string(shape.NumElements()) + " of tensor " + name +
                       " are in no shard");
  }
}

// An optimizer's state is there for every parameter with its shape, or for none.
void CheckState(const PiecesByTensor& tensors, const std::string& prefix,
                const std::string& source) {
  std::map<std::string, Shape> parameters;
  std::map<std::string, Shape> states;
  const auto collect = [&](const std::string& from, std::map<std::string, Shape>& into) {
    for (auto it = tensors.lower_bound(from); it != tensors.end() && it->first.starts_with(from);
         ++it) {
      into.emplace(it->first.substr(from.size()), it->second.front()->shape);
    }
  };
  collect(kParameterPrefix, parameters);
  collect(prefix, states);
  if (states.empty()) return;
  for (const auto& [name, shape] : parameters) {
    const auto state = states.find(name);
    if (state == states.end()) Reject(source, "tensor " + prefix + name + " is missing");
    if (!(state->second == shape)) {
      Reject(source, "tensor " + prefix + name + " has the shape " + state->second.ToString() +
                         ", its parameter " + shape.ToString());
    }
  }
  for (const auto& [name, shape] : states) {
    if (!parameters.contains(name)) {
      Reject(source, "tensor " + prefix + name + " belongs to no parameter");
    }
  }
}

void Compare(const std::string& what, const std::string& then, const std::string& now,
             std::string* text) {
  if (then == now) return;
  if (!text->empty()) *text += "; ";
  *text += what + " " + then + ", now " + now;
}

}  // namespace

uint64_t Checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

struct StreamingChecksum::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

StreamingChecksum::StreamingChecksum() : state_(std::make_unique<State>()) {
  CHECK(state_->xxh != nullptr);
  Reset();
}

StreamingChecksum::~StreamingChecksum() = default;

void StreamingChecksum::Update(std::span<const std::byte> bytes) {
  CHECK_EQ(XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size()), XXH_OK);
}

uint64_t StreamingChecksum::Digest() const { return XXH3_64bits_digest(state_->xxh); }

void StreamingChecksum::Reset() { CHECK_EQ(XXH3_64bits_reset(state_->xxh), XXH_OK); }

std::string StoredName(const std::string& tensor, const Shape& shape, int64_t begin,
                       int64_t count) {
  return count == shape.NumElements() ? tensor : tensor + "@" + std::to_string(begin);
}

std::string HexOf(uint64_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) text[i] = kDigits[value & 15];
  return text;
}

uint64_t PieceRecord::Bytes() const {
  return static_cast<uint64_t>(count) * StoredElementSize(dtype);
}

std::string ShardRecord::ToJson() const { return Dump(ShardToJson(*this), -1); }

ShardRecord ShardRecord::FromJson(const std::string& text, const std::string& source) {
  return ShardFromJson(ParseText(text, source), source);
}

std::string ReproducibilityKey::Differences(const ReproducibilityKey& now) const {
  std::string text;
  Compare("program version", program_version, now.program_version, &text);
  Compare("instruction set", instruction_set, now.instruction_set, &text);
  Compare("threads per rank", std::to_string(threads_per_rank),
          std::to_string(now.threads_per_rank), &text);
  Compare("micro-batch size", std::to_string(micro_batch_size),
          std::to_string(now.micro_batch_size), &text);
  Compare("micro-batches", std::to_string(micro_batches), std::to_string(now.micro_batches), &text);
  Compare("dtype", dtype, now.dtype, &text);
  Compare("moments", moments, now.moments, &text);
  Compare("accumulation", accumulation, now.accumulation, &text);
  if (!sequential_windows.empty() && !now.sequential_windows.empty()) {
    Compare("sequential windows", json(sequential_windows).dump(),
            json(now.sequential_windows).dump(), &text);
  }
  return text;
}

std::string Manifest::ToText() const {
  json root = MetaToJson(meta);
  root["format"] = kFormat;
  root["version"] = kVersion;
  json& list = root["shards"] = json::array();
  for (const ShardRecord& shard : shards) list.push_back(ShardToJson(shard));
  // The checksum takes the place of the opening brace.
  const std::string rest = Dump(root, 1).substr(2) + "\n";
  const std::string checksum = HexOf(Checksum(std::as_bytes(std::span(rest))));
  return kChecksumKey + checksum + kChecksumEnd + rest;
}

Manifest Manifest::FromText(const std::string& text, const std::string& source) {
  const std::string key = kChecksumKey;
  const size_t head = key.size() + 16 + std::string(kChecksumEnd).size();
  if (text.size() < head || !text.starts_with(key) ||
      text.substr(key.size() + 16, head - key.size() - 16) != kChecksumEnd) {
    Reject(source, "it does not begin with its checksum: it is damaged or no manifest");
  }
  const std::span<const char> rest = std::span(text).subspan(head);
  if (HexOf(Checksum(std::as_bytes(rest))) != text.substr(key.size(), 16)) {
    Reject(source, "its checksum does not match its text: it was damaged, cut off or edited");
  }
  const json root = ParseText(text, source);
  const Fields fields(root, source);
  if (fields.Text("format") != kFormat) Reject(source, "it is no manifest of a checkpoint");
  const int version = fields.Int("version");
  if (version < 1 || version > kVersion) {
    Reject(source, "it has version " + std::to_string(version) +
                       "; this program reads versions 1 to " + std::to_string(kVersion) +
                       ": use the program that wrote it");
  }
  Manifest manifest;
  manifest.meta = MetaFromJson(root, version, source);
  for (const json& shard : fields.List("shards")) {
    manifest.shards.push_back(ShardFromJson(shard, source));
  }
  CheckCoverage(manifest.shards, source);
  return manifest;
}

TensorPiece PieceInMemory(const std::string& tensor, const Shape& shape, int64_t begin,
                          std::span<const float> data) {
  return {tensor, shape, begin, static_cast<int64_t>(data.size()),
          [data](int64_t first, std::span<float> scratch) {
            return data.subspan(first, scratch.size());
          }};
}

void CheckCoverage(const std::vector<ShardRecord>& shards, const std::string& source) {
  PiecesByTensor tensors;
  std::set<std::string> files;
  for (const ShardRecord& shard : shards) {
    CheckShard(shard, source);
    if (!files.insert(shard.file).second) Reject(source, "shard " + shard.file + " is there twice");
    for (const PieceRecord& piece : shard.pieces) tensors[piece.tensor].push_back(&piece);
  }
  if (tensors.empty()) Reject(source, "it holds no tensors");
  for (const auto& [name, pieces] : tensors) CheckTensor(name, pieces, source);
  for (const char* prefix : kStatePrefixes) CheckState(tensors, prefix, source);
}

}  // namespace swinfleet
