// Data sets: where pictures and labels come from.
#ifndef SWINFLEET_CORE_DATA_DATASET_H_
#define SWINFLEET_CORE_DATA_DATASET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/config/job_config.h"

namespace swinfleet {

// What must be the same when a run goes on: a changed data set is refused.
struct DataIdentity {
  int64_t count = 0;
  int64_t channels = 0;
  // 0 where pictures differ in size.
  int64_t height = 0;
  int64_t width = 0;
  int64_t num_classes = 0;
  // XXH3 (64 bits) of the index: for idx files of the sizes, all labels and all pixels,
  // decompressed; for folders of paths, sizes and labels.
  uint64_t index_hash = 0;
  bool operator==(const DataIdentity&) const = default;
  std::string ToString() const;
};

// One decoded picture, 8 bits a channel.
struct Picture {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  // (height, width, channels)
  std::vector<uint8_t> pixels;
  int64_t label = 0;
};

// A split of a data set. Get may be called from several threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual const DataIdentity& identity() const = 0;
  // Decodes picture `index`, in [0, identity().count). Reuses the vector in `picture`. Throws Error
  // when the picture can't be had.
  virtual void Get(int64_t index, Picture* picture) const = 0;
  // The label of picture `index`; a data set that knows it without decoding the picture says it so.
  virtual int64_t Label(int64_t index) const;
};

// Throws Error, naming the first sample whose label is not in [0, num_classes), if there is one.
void CheckLabels(const Dataset& dataset, int64_t num_classes);

// Opens a split ("train", "t10k", ...) of the data set in `config`. Throws Error, naming the file,
// for a missing or truncated file, a wrong magic number, counts of pictures and labels that differ,
// and a format that is not supported.
//
// "idx": the files `<split>-images-idx3-ubyte` and `<split>-labels-idx1-ubyte`, each plain or
// gzipped with `.gz` appended, in the folder `config.path`. Pictures are (count, height, width) or
// (count, height, width, channels) of unsigned bytes, with up to 4 channels; also the latter are in
// a file of that name. The split is held decoded in memory.
std::unique_ptr<Dataset> OpenDataset(const DataConfig& config, const std::string& split);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_DATASET_H_
