// Pictures in folders, a folder a class.
#ifndef SWINFLEET_CORE_DATA_IMAGE_FOLDER_H_
#define SWINFLEET_CORE_DATA_IMAGE_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/data/dataset.h"

namespace swinfleet {

// Opens `<folder>/<split>/<class>/**/<picture>`, in the order and with the labels of torchvision's
// ImageFolder: labels are the places of the class folders in their sorted names; in a class,
// folders are gone through in the sorted order of their paths, links followed, and files in sorted
// order. Names of 4 endings are pictures (see ClassifyName), all else is passed over; where
// torchvision would take a format that is not read here, the error says so. Pictures are decoded
// when they are asked for, into 3 channels; the identity's size is 0x0. Throws Error, naming the
// path, for a missing or unreadable folder, a split without classes, a class without pictures, and
// folders more than 32 deep (a link that leads back).
std::unique_ptr<Dataset> OpenImageFolder(const std::string& folder, const std::string& split);

// The class folders of a split, sorted. Throws Error if there are none. `example` says what was
// expected.
std::vector<std::string> ReadClasses(const std::filesystem::path& split_folder,
                                     const std::string& example);

// Hashes what an index is made of, entry by entry.
class IndexHash {
 public:
  IndexHash();
  ~IndexHash();
  IndexHash(const IndexHash&) = delete;
  IndexHash& operator=(const IndexHash&) = delete;
  void Add(const std::string& text);
  void Add(uint64_t number);
  uint64_t Digest() const;

 private:
  void* state_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_IMAGE_FOLDER_H_
