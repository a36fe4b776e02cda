// Data sets: where pictures, clips and labels come from.
#ifndef SWINFLEET_CORE_DATA_DATASET_H_
#define SWINFLEET_CORE_DATA_DATASET_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "kernels/error.h"

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

// A picture is there, but can't be decoded; the message names its file.
class BrokenPicture : public Error {
 public:
  using Error::Error;
};

// There is no memory for a picture; the message names its file and its size. That is no fault of
// the picture's: it depends on the host and on what else runs there, so that no other picture may
// stand for it.
class OutOfMemoryError : public Error {
 public:
  using Error::Error;
};

// About how much memory threads take that get samples, where that is known. Of pictures in files:
// for those largest in bytes; others may have more pixels, which are not known before they are
// decoded.
struct DecodingMemory {
  // Bytes of the largest picture, decoded: each thread keeps one.
  size_t picture = 0;
  // Bytes that are taken beside it, but only while a picture is decoded; of several pictures,
  // descending.
  std::vector<size_t> passing;

  // Of so many threads, which decode different pictures, the worst of those known.
  size_t Bytes(int64_t threads) const;
};

// A split of a data set. A sample is a picture, or a clip of several. All functions may be called
// from several threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual const DataIdentity& identity() const = 0;
  // Decodes sample `index`, in [0, identity().count); of a clip the first frame. Reuses the vector
  // in `picture`. Throws BrokenPicture when the picture can't be decoded, OutOfMemoryError when
  // there is no memory for it, Error when it can't be read.
  virtual void Get(int64_t index, Picture* picture) const = 0;
  // Frames of a clip; 1 of a picture.
  virtual int64_t Frames(int64_t index) const;
  // As Get, of frame `frame`, in [0, Frames(index)).
  virtual void GetFrame(int64_t index, int64_t frame, Picture* picture) const;
  // The label of sample `index`; a data set that knows it without decoding the picture says it so.
  virtual int64_t Label(int64_t index) const;
  // What a user knows the sample by: the file's (clip's) path in the split, or "sample 7".
  virtual std::string Name(int64_t index) const;
  // Bytes that the split keeps in memory as long as it is open: pictures or their names.
  virtual size_t HeldBytes() const { return 0; }
  // What threads take to get its samples; nothing where that is not known.
  virtual DecodingMemory Decoding() const { return {}; }
  // Names of the classes by label; empty where the format has none.
  virtual std::span<const std::string> ClassNames() const { return {}; }
};

// Throws Error, naming the first sample whose label is not in [0, num_classes), if there is one.
void CheckLabels(const Dataset& dataset, int64_t num_classes);

// Throws Error, naming the first difference, if both splits name their classes and not alike:
// labels are places in the sorted names, so a class that one of them lacks would shift the others.
void CheckSameClasses(const Dataset& train, const Dataset& eval);

// Opens a split ("train", "t10k", ...) of the data set in `config`. Throws Error, naming the file
// or folder, for what is missing, truncated or can't be read, a wrong magic number, counts of
// pictures and labels that differ, a class without pictures, and a format that is not supported.
//
// "idx": the files `<split>-images-idx3-ubyte` and `<split>-labels-idx1-ubyte`, each plain or
// gzipped with `.gz` appended, in the folder `config.path`. Pictures are (count, height, width) or
// (count, height, width, channels) of unsigned bytes, with up to 4 channels; also the latter are in
// a file of that name. The split is held decoded in memory.
//
// "imagefolder": `<path>/<split>/<class>/**/<picture>`; see core/data/image_folder.h.
// "frames": `<path>/<split>/<class>/<clip>/<frame>`; see core/data/frame_folder.h.
std::unique_ptr<Dataset> OpenDataset(const DataConfig& config, const std::string& split);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_DATASET_H_
