#include "core/checkpoint/weight_source.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/safetensors.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr char kParameterPrefix[] = "param/";
// Lines about checkpoints that were passed over.
constexpr size_t kMaxNotes = 10;

class FileSource : public WeightSource {
 public:
  FileSource(const std::string& path, FileOps& ops) : file_(path, ops) {
    for (const StoredTensor& tensor : file_.tensors()) {
      tensors_.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    metadata_ = file_.metadata();
  }
  const std::string& path() const override { return file_.path(); }
  const std::vector<WeightTensor>& tensors() const override { return tensors_; }
  void Read(size_t tensor, int64_t begin, std::span<float> out) const override {
    file_.ReadAsF32(file_.tensors().at(tensor), begin, out);
  }
  void Verify(int, int) const override {}
  const CheckpointReader* checkpoint() const override { return nullptr; }

 private:
  SafetensorsFile file_;
  std::vector<WeightTensor> tensors_;
};

class CheckpointSource : public WeightSource {
 public:
  CheckpointSource(const std::string& dir, FileOps& ops)
      : reader_(CheckpointReader::OpenManifest(dir, ops)) {
    const std::string prefix = kParameterPrefix;
    for (const auto& [name, shape] : reader_->tensors()) {
      if (name.starts_with(prefix)) tensors_.push_back({name.substr(prefix.size()), "F32", shape});
    }
    metadata_ = {{kModelMetadata, reader_->meta().model},
                 {kStepMetadata, std::to_string(reader_->meta().step)}};
  }
  const std::string& path() const override { return reader_->dir(); }
  const std::vector<WeightTensor>& tensors() const override { return tensors_; }
  void Read(size_t tensor, int64_t begin, std::span<float> out) const override {
    reader_->Read(kParameterPrefix + tensors_.at(tensor).name, begin, out);
  }
  void Verify(int first, int stride) const override { reader_->VerifyShards(first, stride); }
  const CheckpointReader* checkpoint() const override { return reader_.get(); }

 private:
  std::unique_ptr<CheckpointReader> reader_;
  std::vector<WeightTensor> tensors_;
};

// For a command line that people copy.
std::string ShellQuoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// torch.save writes a zip archive, and before version 1.6 a bare pickle.
void RefusePickle(const std::string& path, FileOps& ops) {
  const InputFile file(path, ops);
  std::array<std::byte, 4> head = {};
  if (file.size() < head.size()) return;
  file.ReadAt(0, head);
  const bool zip = head[0] == std::byte{'P'} && head[1] == std::byte{'K'} &&
                   head[2] == std::byte{3} && head[3] == std::byte{4};
  const bool pickle = head[0] == std::byte{0x80} && head[1] <= std::byte{5};
  // A safetensors file may begin with these bytes too, the header's length, whose fourth byte is at
  // most 5.
  if (!zip && (!pickle || head[3] <= std::byte{5})) return;
  throw Error(path +
              " is a PyTorch pickle, which can run code and is not read; convert it with torch, "
              "safetensors and a script in Swinfleet's sources, which takes the tensors alone: "
              "python3 deploy/pickle_to_safetensors.py " +
              ShellQuoted(path) + " weights.safetensors");
}

}  // namespace

const std::string& WeightSource::Metadata(const std::string& key) const {
  static const std::string kNothing;
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? kNothing : found->second;
}

std::string ResolveWeights(const std::string& path, std::vector<std::string>* notes) {
  std::error_code code;
  if (!fs::is_directory(path, code) || fs::exists(path + "/manifest.json", code)) return path;
  if (!fs::is_directory(CheckpointsFolder(path), code)) {
    throw Error(path +
                " holds neither manifest.json nor a folder checkpoints; name a checkpoint, "
                "a run folder or a safetensors file");
  }
  const ResumeChoice choice = FindNewestGood(path, NextAttempt(path), "");
  const std::vector<std::string> lines = choice.LogLines(kMaxNotes);
  if (choice.reader == nullptr) {
    std::string text = "the run in " + path + " has no good checkpoint";
    for (const std::string& line : lines) text += "\n" + line;
    throw Error(text);
  }
  if (notes != nullptr) notes->insert(notes->end(), lines.begin(), lines.end());
  return choice.reader->dir();
}

std::unique_ptr<WeightSource> OpenWeights(const std::string& path, FileOps& ops) {
  const std::string resolved = ResolveWeights(path);
  std::error_code code;
  if (fs::is_directory(resolved, code)) return std::make_unique<CheckpointSource>(resolved, ops);
  RefusePickle(resolved, ops);
  return std::make_unique<FileSource>(resolved, ops);
}

}  // namespace swinfleet
