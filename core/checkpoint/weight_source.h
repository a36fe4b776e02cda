// Where weights come from: a safetensors file, or a checkpoint of a run.
#ifndef SWINFLEET_CORE_CHECKPOINT_WEIGHT_SOURCE_H_
#define SWINFLEET_CORE_CHECKPOINT_WEIGHT_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/file_ops.h"
#include "kernels/tensor.h"

namespace swinfleet {

// Keys of what exported files and checkpoints say of themselves.
inline constexpr char kModelMetadata[] = "model_config";
inline constexpr char kStepMetadata[] = "step";
// How pictures were prepared, as JSON.
inline constexpr char kPreprocessingMetadata[] = "data_config";

// One tensor of a source.
struct WeightTensor {
  std::string name;
  // As safetensors name it.
  std::string dtype = "F32";
  Shape shape;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // The file or folder.
  virtual const std::string& path() const = 0;
  virtual const std::vector<WeightTensor>& tensors() const = 0;
  // Elements [begin, begin + out.size()) of a flattened tensor. Throws Error.
  virtual void Read(size_t tensor, int64_t begin, std::span<float> out) const = 0;
  // The part of verifying the stored bytes that falls to worker `first` of `stride`; nothing where
  // a file has no checksums. Throws Error.
  virtual void Verify(int first, int stride) const = 0;
  // Null unless the source is a checkpoint.
  virtual const CheckpointReader* checkpoint() const = 0;

  // What the source says of itself under a key; empty: nothing.
  const std::string& Metadata(const std::string& key) const;

 protected:
  std::map<std::string, std::string> metadata_;
};

// Of a run's folder the newest good checkpoint, which is verified; any other path as it is. Lines
// about checkpoints that were passed over go to `notes`. Throws Error for a folder that is neither
// a checkpoint nor a run, and for a run without a good checkpoint.
std::string ResolveWeights(const std::string& path, std::vector<std::string>* notes = nullptr);

// Opens what ResolveWeights gives. A checkpoint's tensors are its parameters, under their names in
// the model; its checksums are looked at by Verify. Throws Error, saying what is wrong with it; of
// a PyTorch pickle, how to convert it.
std::unique_ptr<WeightSource> OpenWeights(const std::string& path,
                                          FileOps& ops = FileOps::System());

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_WEIGHT_SOURCE_H_
