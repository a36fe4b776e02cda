#include "core/checkpoint/safetensors.h"

#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace swinfleet {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr uint64_t kLengthBytes = 8;
// The limit of the reference implementation.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr char kMetadataKey[] = "__metadata__";
// Elements converted at a time.
constexpr size_t kConvertChunk = size_t{1} << 16;

[[noreturn]] void Reject(const std::string& file, const std::string& what) {
  throw Error("cannot read " + file + " as safetensors: " + what);
}

// Parses the header with bounded depth, and refuses a key that occurs twice in one object: which of
// the two would count is anybody's guess.
json ParseJson(std::string_view text, const std::string& file) {
  std::set<std::string> outer;
  std::set<std::string> inner;
  const auto guard = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 3) Reject(file, "its header is nested too deeply");
    if (event != json::parse_event_t::key) return true;
    const std::string& key = value.get_ref<const std::string&>();
    if (depth == 1) inner.clear();
    if (!(depth == 1 ? outer : inner).insert(key).second) {
      Reject(file, "its header has the key \"" + key + "\" twice");
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), guard);
  } catch (const json::exception& error) {
    Reject(file, std::string("its header is not valid JSON (") + error.what() +
                     "); the file is damaged or of another format");
  }
}

Shape ParseShape(const json& value, const std::string& name, const std::string& file) {
  if (!value.is_array()) Reject(file, "tensor \"" + name + "\" has no list \"shape\"");
  if (value.size() > static_cast<size_t>(Shape::kMaxRank)) {
    Reject(file, "tensor \"" + name + "\" has " + std::to_string(value.size()) +
                     " dimensions; at most " + std::to_string(Shape::kMaxRank) + " are supported");
  }
  Shape shape;
  uint64_t elements = 1;
  for (const json& dim : value) {
    // Elements, and bytes at 8 an element, must not overflow.
    constexpr uint64_t kLimit = uint64_t{1} << 58;
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > kLimit ||
        (dim.get<uint64_t>() != 0 && elements > kLimit / dim.get<uint64_t>())) {
      Reject(file, "tensor \"" + name + "\" has the impossible shape " + value.dump());
    }
    elements *= dim.get<uint64_t>();
    shape.Append(dim.get<int64_t>());
  }
  return shape;
}

StoredTensor ParseTensor(const std::string& name, const json& value, uint64_t data_bytes,
                         const std::string& file) {
  if (!value.is_object()) Reject(file, "the entry of tensor \"" + name + "\" is not an object");
  for (const auto& [key, unused] : value.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      Reject(file, "tensor \"" + name + "\" has the unknown key \"" + key + "\"");
    }
  }
  StoredTensor tensor;
  tensor.name = name;
  const auto dtype = value.find("dtype");
  if (dtype == value.end() || !dtype->is_string()) {
    Reject(file, "tensor \"" + name + "\" has no text \"dtype\"");
  }
  tensor.dtype = dtype->get<std::string>();
  const uint64_t size = StoredElementSize(tensor.dtype);
  if (size == 0) {
    Reject(file, "tensor \"" + name + "\" has the unknown dtype \"" + tensor.dtype + "\"");
  }
  const auto shape = value.find("shape");
  tensor.shape = ParseShape(shape == value.end() ? json() : *shape, name, file);
  const auto offsets = value.find("data_offsets");
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    Reject(file, "tensor \"" + name + "\" has no pair \"data_offsets\"");
  }
  tensor.begin = (*offsets)[0].get<uint64_t>();
  tensor.end = (*offsets)[1].get<uint64_t>();
  if (tensor.begin > tensor.end) {
    Reject(file, "tensor \"" + name + "\" ends before it begins: " + offsets->dump());
  }
  const uint64_t bytes = static_cast<uint64_t>(tensor.shape.NumElements()) * size;
  if (tensor.end - tensor.begin != bytes) {
    Reject(file, "tensor \"" + name + "\" of shape " + tensor.shape.ToString() + " and dtype " +
                     tensor.dtype + " needs " + std::to_string(bytes) +
                     " bytes, but its range has " + std::to_string(tensor.end - tensor.begin));
  }
  if (tensor.end > data_bytes) {
    Reject(file, "it is truncated: tensor \"" + name + "\" ends at byte " +
                     std::to_string(tensor.end) + " of the data, of which there are " +
                     std::to_string(data_bytes));
  }
  return tensor;
}

// Tensors in the order of their bytes tile the data exactly.
void CheckTiling(const std::vector<StoredTensor>& tensors, uint64_t data_bytes,
                 const std::string& file) {
  uint64_t end = 0;
  const StoredTensor* previous = nullptr;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin < end) {
      Reject(file, "tensors \"" + previous->name + "\" and \"" + tensor.name + "\" overlap");
    }
    if (tensor.begin > end) {
      Reject(file, "there are " + std::to_string(tensor.begin - end) +
                       " unused bytes before tensor \"" + tensor.name + "\"");
    }
    end = tensor.end;
    previous = &tensor;
  }
  if (end != data_bytes) {
    Reject(file, "it has " + std::to_string(data_bytes - end) +
                     " bytes after its last tensor: it is too long or its header is damaged");
  }
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half >> 15) << 31;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 1023;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float BFloatToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// Reads elements stored as Stored and converts each.
template <typename Stored, typename Convert>
void ReadConverted(const InputFile& file, uint64_t offset, std::span<float> out,
                   const Convert& convert) {
  std::vector<Stored> buffer(std::min(out.size(), kConvertChunk));
  while (!out.empty()) {
    const std::span<Stored> part(buffer.data(), std::min(out.size(), buffer.size()));
    file.ReadAt(offset, std::as_writable_bytes(part));
    std::transform(part.begin(), part.end(), out.begin(), convert);
    offset += part.size_bytes();
    out = out.subspan(part.size());
  }
}

}  // namespace

uint64_t StoredElementSize(std::string_view dtype) {
  static const std::map<std::string_view, uint64_t> sizes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4},     {"I32", 4},
      {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"I16", 2},     {"U16", 2},
      {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

SafetensorsHeader ParseSafetensorsHeader(std::string_view text, uint64_t data_bytes,
                                         const std::string& file) {
  if (text.empty() || text[0] != '{') {
    Reject(file, "its header does not begin with '{'; the file is damaged or of another format");
  }
  const json root = ParseJson(text, file);
  SafetensorsHeader header;
  for (const auto& [name, value] : root.items()) {
    if (name != kMetadataKey) {
      header.tensors.push_back(ParseTensor(name, value, data_bytes, file));
      continue;
    }
    if (!value.is_object()) Reject(file, "\"__metadata__\" is not an object");
    for (const auto& [key, entry] : value.items()) {
      if (!entry.is_string()) Reject(file, "the metadata \"" + key + "\" is not a text");
      header.metadata[key] = entry.get<std::string>();
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  CheckTiling(header.tensors, data_bytes, file);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path, FileOps& ops) : file_(path, ops) {
  if (file_.size() < kLengthBytes) {
    Reject(path, "it has only " + std::to_string(file_.size()) + " bytes");
  }
  uint64_t length = 0;
  file_.ReadAt(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kMaxHeaderBytes) {
    Reject(path, "its header would have " + std::to_string(length) + " bytes, more than the " +
                     std::to_string(kMaxHeaderBytes) +
                     " allowed; the file is damaged or of another format");
  }
  if (length > file_.size() - kLengthBytes) {
    Reject(path, "it is truncated: its header has " + std::to_string(length) + " bytes, but only " +
                     std::to_string(file_.size() - kLengthBytes) + " bytes follow");
  }
  std::string text(length, '\0');
  file_.ReadAt(kLengthBytes, std::as_writable_bytes(std::span(text)));
  const uint64_t start = kLengthBytes + length;
  header_ = ParseSafetensorsHeader(text, file_.size() - start, path);
  for (size_t i = 0; i < header_.tensors.size(); ++i) {
    header_.tensors[i].begin += start;
    header_.tensors[i].end += start;
    by_name_[header_.tensors[i].name] = i;
  }
}

const StoredTensor* SafetensorsFile::Find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
}

const StoredTensor& SafetensorsFile::Get(const std::string& name) const {
  const StoredTensor* tensor = Find(name);
  if (tensor == nullptr) throw Error(path() + " has no tensor \"" + name + "\"");
  return *tensor;
}

std::vector<float> SafetensorsFile::ReadF32(const std::string& name) const {
  const StoredTensor& tensor = Get(name);
  if (tensor.dtype != "F32") {
    throw Error(path() + ": tensor \"" + name + "\" is " + tensor.dtype + ", not F32");
  }
  std::vector<float> values(tensor.shape.NumElements());
  file_.ReadAt(tensor.begin, std::as_writable_bytes(std::span(values)));
  return values;
}

std::vector<int64_t> SafetensorsFile::ReadI64(const std::string& name) const {
  const StoredTensor& tensor = Get(name);
  if (tensor.dtype != "I64") {
    throw Error(path() + ": tensor \"" + name + "\" is " + tensor.dtype + ", not I64");
  }
  std::vector<int64_t> values(tensor.shape.NumElements());
  file_.ReadAt(tensor.begin, std::as_writable_bytes(std::span(values)));
  return values;
}

void SafetensorsFile::ReadAsF32(const StoredTensor& tensor, int64_t begin,
                                std::span<float> out) const {
  const int64_t count = static_cast<int64_t>(out.size());
  CHECK(begin >= 0 && begin <= tensor.shape.NumElements() - count)
      << tensor.name << " " << tensor.shape << ": elements " << begin << "+" << count;
  const uint64_t offset = tensor.begin + begin * StoredElementSize(tensor.dtype);
  if (ReadStoredAsF32(file_, offset, tensor.dtype, out)) return;
  throw Error(path() + ": tensor \"" + tensor.name + "\" is " + tensor.dtype +
              ", which is no floating-point type that can be read as F32");
}

bool ReadStoredAsF32(const InputFile& file, uint64_t offset, std::string_view dtype,
                     std::span<float> out) {
  if (dtype == "F32") {
    file.ReadAt(offset, std::as_writable_bytes(out));
  } else if (dtype == "BF16") {
    ReadConverted<uint16_t>(file, offset, out, BFloatToFloat);
  } else if (dtype == "F16") {
    ReadConverted<uint16_t>(file, offset, out, HalfToFloat);
  } else if (dtype == "F64") {
    ReadConverted<double>(file, offset, out, [](double v) { return static_cast<float>(v); });
  } else {
    return false;
  }
  return true;
}

std::string SafetensorsHeaderBytes(const std::vector<StoredTensor>& tensors,
                                   const std::map<std::string, std::string>& metadata,
                                   uint64_t alignment) {
  CHECK_EQ(alignment % 8, 0u);
  json header = json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  for (const StoredTensor& tensor : tensors) {
    CHECK_NE(StoredElementSize(tensor.dtype), 0U) << tensor.name << " " << tensor.dtype;
    CHECK_NE(tensor.name, kMetadataKey);
    CHECK(!header.contains(tensor.name)) << tensor.name << " is there twice";
    std::vector<int64_t> dims;
    for (int i = 0; i < tensor.shape.rank(); ++i) dims.push_back(tensor.shape[i]);
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", dims}, {"data_offsets", {tensor.begin, tensor.end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {
    throw Error(std::string("cannot write a safetensors header: a name or the metadata is not "
                            "valid UTF-8: ") +
                error.what());
  }
  text.append((alignment - (kLengthBytes + text.size()) % alignment) % alignment, ' ');
  const uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kLengthBytes);
  return bytes + text;
}

SafetensorsLayout LayOutSafetensors(const std::vector<TensorSpec>& specs,
                                    const std::map<std::string, std::string>& metadata) {
  SafetensorsLayout layout;
  for (const TensorSpec& spec : specs) {
    layout.tensors.push_back({spec.name, spec.dtype, spec.shape, 0, 0});
  }
  std::sort(layout.tensors.begin(), layout.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              const uint64_t wide_a = StoredElementSize(a.dtype);
              const uint64_t wide_b = StoredElementSize(b.dtype);
              return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
            });
  uint64_t offset = 0;
  for (StoredTensor& tensor : layout.tensors) {
    tensor.begin = offset;
    offset += tensor.shape.NumElements() * StoredElementSize(tensor.dtype);
    tensor.end = offset;
  }
  layout.header = SafetensorsHeaderBytes(layout.tensors, metadata, 8);
  for (StoredTensor& tensor : layout.tensors) {
    tensor.begin += layout.header.size();
    tensor.end += layout.header.size();
  }
  layout.file_size = layout.header.size() + offset;
  return layout;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& specs,
                                     const std::map<std::string, std::string>& metadata,
                                     FileOps& ops)
    : path_(path), ops_(ops), layout_(LayOutSafetensors(specs, metadata)) {
  std::error_code unused;
  if (std::filesystem::is_directory(path, unused)) {
    throw Error("cannot write " + path + ": it is a folder; name a file in it");
  }
  for (size_t i = 0; i < layout_.tensors.size(); ++i) by_name_[layout_.tensors[i].name] = i;
  // Two programs that write the same file do not meet in one temporary file.
  file_ = std::make_unique<OutputFile>(path + ".tmp-" + std::to_string(getpid()), ops);
  file_->WriteAt(0, std::as_bytes(std::span(layout_.header)));
}

const StoredTensor& SafetensorsWriter::Expect(const std::string& name,
                                              std::string_view dtype) const {
  const auto found = by_name_.find(name);
  CHECK(found != by_name_.end()) << name << " was not announced for " << path_;
  const StoredTensor& tensor = layout_.tensors[found->second];
  CHECK(dtype.empty() || tensor.dtype == dtype) << name << " is " << tensor.dtype;
  return tensor;
}

void SafetensorsWriter::Write(const std::string& name, int64_t begin,
                              std::span<const float> values) {
  Expect(name, "F32");
  WriteBytes(name, begin * sizeof(float), std::as_bytes(values));
}

void SafetensorsWriter::Write(const std::string& name, int64_t begin,
                              std::span<const int64_t> values) {
  Expect(name, "I64");
  WriteBytes(name, begin * sizeof(int64_t), std::as_bytes(values));
}

void SafetensorsWriter::WriteBytes(const std::string& name, uint64_t offset,
                                   std::span<const std::byte> bytes) {
  const StoredTensor& tensor = Expect(name, "");
  const uint64_t size = tensor.end - tensor.begin;
  CHECK(offset <= size && bytes.size() <= size - offset)
      << name << ": bytes " << offset << "+" << bytes.size() << " of " << size;
  file_->WriteAt(tensor.begin + offset, bytes);
  written_ += bytes.size();
}

void SafetensorsWriter::Finish() {
  CHECK(file_ != nullptr) << path_ << " is finished";
  CHECK_EQ(written_ + layout_.header.size(), layout_.file_size)
      << path_ << ": not every element was written exactly once";
  file_->Sync();
  const std::string temporary = file_->path();
  file_->Close();
  file_.reset();
  try {
    RenameFile(temporary, path_, ops_);
  } catch (const FileError&) {
    ops_.Unlink(temporary);
    throw;
  }
  SyncFolder(FolderOf(path_), ops_);
}

}  // namespace swinfleet
