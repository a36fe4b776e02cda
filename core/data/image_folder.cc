#include "core/data/image_folder.h"

#include <glog/logging.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "core/data/folder.h"
#include "core/data/picture_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// One folder with pictures: its path in the split, and the names of its pictures in all_names.
struct Folder {
  std::string path;
  int64_t label;
  int64_t first;
};

class ImageFolder : public Dataset {
 public:
  explicit ImageFolder(const fs::path& root) : root_(root) {
    classes_ = ReadClasses(root, "<class>/<picture>.jpg");
    IndexHash hash;
    name_ends_.push_back(0);
    for (size_t label = 0; label < classes_.size(); ++label) {
      hash.Add(classes_[label]);
      const int64_t before = Count();
      AddClass(static_cast<int64_t>(label), &hash);
      if (Count() > before) continue;
      const fs::path folder = root / classes_[label];
      throw Error("the class " + folder.string() + " has no pictures (.jpg, .jpeg, .png, .webp); " +
                  "it " + ListFolder(folder) + ". Remove the folder or fill it");
    }
    names_.shrink_to_fit();
    name_ends_.shrink_to_fit();
    folders_.shrink_to_fit();
    identity_.count = Count();
    identity_.channels = 3;
    identity_.num_classes = static_cast<int64_t>(classes_.size());
    identity_.index_hash = hash.Digest();
  }

  const DataIdentity& identity() const override { return identity_; }

  void Get(int64_t index, Picture* picture) const override {
    DecodePicture((root_ / Name(index)).string(), picture);
    picture->label = Label(index);
  }

  int64_t Label(int64_t index) const override { return FolderOf(index).label; }

  std::string Name(int64_t index) const override {
    const size_t begin = name_ends_[index];
    return FolderOf(index).path + "/" + names_.substr(begin, name_ends_[index + 1] - begin);
  }

  size_t HeldBytes() const override {
    size_t bytes = names_.capacity() + name_ends_.capacity() * sizeof(uint64_t) +
                   folders_.capacity() * sizeof(Folder);
    for (const Folder& folder : folders_) bytes += folder.path.capacity();
    return bytes;
  }
  DecodingMemory Decoding() const override { return largest_.Decoding(); }

  std::span<const std::string> ClassNames() const override { return classes_; }

 private:
  int64_t Count() const { return static_cast<int64_t>(name_ends_.size()) - 1; }

  const Folder& FolderOf(int64_t index) const {
    CHECK(index >= 0 && index < Count()) << index << " of " << Count();
    const auto after =
        std::upper_bound(folders_.begin(), folders_.end(), index,
                         [](int64_t i, const Folder& folder) { return i < folder.first; });
    return *(after - 1);
  }

  // A folder's path in the split, and the names of its files.
  using Listing = std::pair<std::string, std::vector<std::string>>;

  // Adds a folder and all folders in it. Each is read once: that may take long.
  void FindFolders(const std::string& path, int depth, std::vector<Listing>* found) const {
    constexpr int kMaxDepth = 32;
    if (depth > kMaxDepth) {
      throw Error((root_ / path).string() + " lies " + std::to_string(depth) +
                  " folders deep; does a link lead back to a folder above it?");
    }
    FolderEntries entries = ReadFolder(root_ / path);
    found->emplace_back(path, std::move(entries.files));
    for (const std::string& name : entries.folders) {
      FindFolders(path + "/" + name, depth + 1, found);
    }
  }

  void AddClass(int64_t label, IndexHash* hash) {
    std::vector<Listing> found;
    FindFolders(classes_[label], 1, &found);
    std::sort(found.begin(), found.end());
    for (const auto& [path, files] : found) {
      const int64_t first = Count();
      for (const std::string& name : files) AddFile(path, name, hash);
      if (Count() > first) folders_.push_back({path, label, first});
    }
  }

  void AddFile(const std::string& path, const std::string& name, IndexHash* hash) {
    const PictureName kind = ClassifyName(name);
    if (kind == PictureName::kOther) return;
    const fs::path file = root_ / path / name;
    if (kind == PictureName::kUnreadable) {
      throw Error(file.string() + " is of a format that is not read; convert it to PNG, JPEG or " +
                  "WebP, or remove it");
    }
    const uint64_t bytes = FileBytes(file);
    hash->Add(path);
    hash->Add(name);
    hash->Add(bytes);
    largest_.Add(file.string(), bytes);
    names_ += name;
    name_ends_.push_back(names_.size());
  }

  fs::path root_;
  std::vector<std::string> classes_;
  std::vector<Folder> folders_;
  // All pictures' names, one after the other: millions of them are cheaper this way.
  std::string names_;
  std::vector<uint64_t> name_ends_;
  LargestPictures largest_;
  DataIdentity identity_;
};

}  // namespace

IndexHash::IndexHash() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw Error("no memory to hash the data set's index");
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

IndexHash::~IndexHash() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void IndexHash::Add(const std::string& text) {
  // The length first, so that no two lists of texts look alike.
  Add(text.size());
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), text.data(), text.size());
}

void IndexHash::Add(uint64_t number) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), &number, sizeof(number));
}

uint64_t IndexHash::Digest() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_));
}

std::vector<std::string> ReadClasses(const fs::path& split_folder, const std::string& example) {
  std::vector<std::string> classes = ReadFolder(split_folder).folders;
  if (classes.empty()) {
    throw Error("the split " + split_folder.string() +
                " has no class folders: pictures belong in " + example + "; it " +
                ListFolder(split_folder));
  }
  return classes;
}

std::unique_ptr<Dataset> OpenImageFolder(const std::string& folder, const std::string& split) {
  return std::make_unique<ImageFolder>(SplitFolder(folder, split));
}

}  // namespace swinfleet
