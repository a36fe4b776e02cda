// The safetensors format (https://github.com/huggingface/safetensors): eight bytes of header
// length, a JSON header, then the tensors' bytes, little-endian, without holes.
#ifndef SWINFLEET_CORE_CHECKPOINT_SAFETENSORS_H_
#define SWINFLEET_CORE_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/checkpoint/file_ops.h"
#include "kernels/tensor.h"

namespace swinfleet {

// Bytes of an element of a safetensors dtype ("F32", "BF16", "I64", ...), 0 for an unknown one.
uint64_t StoredElementSize(std::string_view dtype);

// One tensor of a file.
struct StoredTensor {
  std::string name;
  std::string dtype;
  Shape shape;
  // Bytes [begin, end) of the file.
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsHeader {
  // In the order of their bytes.
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// Reads the JSON header of a file that has `data_bytes` bytes after its header. Checks everything:
// keys, dtypes, shapes against byte ranges, overlaps, holes, bytes missing or left over. `file` is
// for messages. Throws Error.
SafetensorsHeader ParseSafetensorsHeader(std::string_view json, uint64_t data_bytes,
                                         const std::string& file);

// An open, checked file. Reading is thread-safe.
class SafetensorsFile {
 public:
  // Throws Error, naming the file and what is wrong with it.
  explicit SafetensorsFile(const std::string& path, FileOps& ops = FileOps::System());

  const std::string& path() const { return file_.path(); }
  // In the order of their bytes.
  const std::vector<StoredTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  // Null if there is no tensor of that name.
  const StoredTensor* Find(const std::string& name) const;
  // Throws Error if there is no tensor of that name.
  const StoredTensor& Get(const std::string& name) const;

  // A whole F32 or I64 tensor. Throws Error for another dtype.
  std::vector<float> ReadF32(const std::string& name) const;
  std::vector<int64_t> ReadI64(const std::string& name) const;
  // Elements [begin, begin + out.size()) of a flattened F32, F16, BF16 or F64 tensor, as float32.
  void ReadAsF32(const StoredTensor& tensor, int64_t begin, std::span<float> out) const;

 private:
  InputFile file_;
  SafetensorsHeader header_;
  std::map<std::string, size_t> by_name_;
};

// Reads out.size() elements stored from byte `offset` on in F32, F16, BF16 or F64, as float32.
// False for another dtype. Throws Error when the file can't be read or ends before.
bool ReadStoredAsF32(const InputFile& file, uint64_t offset, std::string_view dtype,
                     std::span<float> out);

// A tensor to be written.
struct TensorSpec {
  std::string name;
  std::string dtype = "F32";
  Shape shape;
};

// Length and JSON of a file with these tensors, whose offsets are from the end of the header and
// tile the data. Padded with spaces to a multiple of `alignment`, itself a multiple of 8. Throws
// Error for a name or metadata that is not UTF-8. Names are unique and dtypes known (CHECK).
std::string SafetensorsHeaderBytes(const std::vector<StoredTensor>& tensors,
                                   const std::map<std::string, std::string>& metadata,
                                   uint64_t alignment);

// What a file with these tensors looks like: the same bytes whatever the order of `specs`. Wide
// dtypes come first, then names in order.
struct SafetensorsLayout {
  // Length and JSON, padded with spaces to a multiple of 8.
  std::string header;
  // In the order of their bytes, offsets from the start of the file.
  std::vector<StoredTensor> tensors;
  uint64_t file_size = 0;
};

// Throws Error for a name or metadata that is not UTF-8. Names are unique and dtypes known (CHECK).
SafetensorsLayout LayOutSafetensors(const std::vector<TensorSpec>& specs,
                                    const std::map<std::string, std::string>& metadata);

// Writes a file piece by piece under a temporary name beside `path`; Finish makes it durable and
// renames it. Without Finish, or when it throws, nothing is left and an older file at `path` stays.
class SafetensorsWriter {
 public:
  // Throws Error.
  SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& specs,
                    const std::map<std::string, std::string>& metadata,
                    FileOps& ops = FileOps::System());

  // Elements [begin, begin + values.size()) of the flattened tensor of that name and dtype (F32 or
  // I64). Every element has to be written exactly once before Finish, in any order. Throws
  // FileError.
  void Write(const std::string& name, int64_t begin, std::span<const float> values);
  void Write(const std::string& name, int64_t begin, std::span<const int64_t> values);
  // The same for raw bytes of any dtype; `offset` in bytes from the start of the tensor.
  void WriteBytes(const std::string& name, uint64_t offset, std::span<const std::byte> bytes);

  // fsync, rename, fsync of the folder. Throws FileError.
  void Finish();

 private:
  const StoredTensor& Expect(const std::string& name, std::string_view dtype) const;

  std::string path_;
  FileOps& ops_;
  SafetensorsLayout layout_;
  std::map<std::string, size_t> by_name_;
  uint64_t written_ = 0;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_SAFETENSORS_H_
