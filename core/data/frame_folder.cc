#include "core/data/frame_folder.h"

#include <glog/logging.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <utility>
#include <vector>

#include "core/data/folder.h"
#include "core/data/image_folder.h"
#include "core/data/picture_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// The number in which a name ends, before its extension; -1 if there is none.
int64_t NumberOf(const std::string& name) {
  const size_t end = name.rfind('.');
  size_t begin = end;
  while (begin > 0 && std::isdigit(static_cast<unsigned char>(name[begin - 1]))) --begin;
  constexpr size_t kMaxDigits = 18;
  if (begin == end || end - begin > kMaxDigits) return -1;
  return std::stoll(name.substr(begin, end - begin));
}

class FrameFolder : public Dataset {
 public:
  explicit FrameFolder(const fs::path& root) : root_(root) {
    classes_ = ReadClasses(root, "<class>/<clip>/<frame>.jpg");
    IndexHash hash;
    for (size_t label = 0; label < classes_.size(); ++label) {
      const fs::path folder = root / classes_[label];
      const std::vector<std::string> clips = ReadFolder(folder).folders;
      if (clips.empty()) {
        throw Error("the class " + folder.string() +
                    " has no clips, which are folders of frames; it " + ListFolder(folder));
      }
      hash.Add(classes_[label]);
      for (const std::string& clip : clips) {
        AddClip(classes_[label] + "/" + clip, static_cast<int64_t>(label), &hash);
      }
    }
    clips_.shrink_to_fit();
    identity_.count = static_cast<int64_t>(clips_.size());
    identity_.channels = 3;
    identity_.num_classes = static_cast<int64_t>(classes_.size());
    identity_.index_hash = hash.Digest();
  }

  const DataIdentity& identity() const override { return identity_; }

  void Get(int64_t index, Picture* picture) const override { GetFrame(index, 0, picture); }

  int64_t Frames(int64_t index) const override {
    return static_cast<int64_t>(ClipOf(index).ends.size());
  }

  void GetFrame(int64_t index, int64_t frame, Picture* picture) const override {
    const Clip& clip = ClipOf(index);
    CHECK(frame >= 0 && frame < Frames(index)) << frame << " of " << Frames(index);
    const size_t begin = frame == 0 ? 0 : clip.ends[frame - 1];
    const std::string name = clip.names.substr(begin, clip.ends[frame] - begin);
    DecodePicture((root_ / clip.path / name).string(), picture);
    picture->label = clip.label;
  }

  int64_t Label(int64_t index) const override { return ClipOf(index).label; }
  std::string Name(int64_t index) const override { return ClipOf(index).path; }
  size_t HeldBytes() const override {
    size_t bytes = clips_.capacity() * sizeof(Clip);
    for (const Clip& clip : clips_) {
      bytes +=
          clip.path.capacity() + clip.names.capacity() + clip.ends.capacity() * sizeof(uint32_t);
    }
    return bytes;
  }
  DecodingMemory Decoding() const override { return largest_.Decoding(); }
  std::span<const std::string> ClassNames() const override { return classes_; }

 private:
  struct Clip {
    std::string path;
    int64_t label;
    // The frames' names, one after the other, and where each ends.
    std::string names;
    std::vector<uint32_t> ends;
  };

  const Clip& ClipOf(int64_t index) const {
    CHECK(index >= 0 && index < static_cast<int64_t>(clips_.size()))
        << index << " of " << clips_.size();
    return clips_[index];
  }

  void AddClip(const std::string& path, int64_t label, IndexHash* hash) {
    const std::vector<std::string> frames = ReadClip(root_ / path);
    Clip clip{path, label, {}, {}};
    for (const std::string& name : frames) {
      clip.names += name;
      clip.ends.push_back(static_cast<uint32_t>(clip.names.size()));
    }
    clip.names.shrink_to_fit();
    clip.ends.shrink_to_fit();
    const std::string first = (root_ / path / frames[0]).string();
    const uint64_t bytes = FileBytes(first);
    hash->Add(path);
    hash->Add(frames.size());
    hash->Add(frames[0]);
    hash->Add(bytes);
    // One frame stands for its clip, whose frames have one size.
    largest_.Add(first, bytes);
    clips_.push_back(std::move(clip));
  }

  fs::path root_;
  std::vector<std::string> classes_;
  std::vector<Clip> clips_;
  LargestPictures largest_;
  DataIdentity identity_;
};

}  // namespace

std::unique_ptr<Dataset> OpenFrameFolder(const std::string& folder, const std::string& split) {
  return std::make_unique<FrameFolder>(SplitFolder(folder, split));
}

std::vector<std::string> ReadClip(const fs::path& clip) {
  std::vector<std::pair<int64_t, std::string>> frames;
  for (const std::string& name : ReadFolder(clip).files) {
    if (ClassifyName(name) == PictureName::kOther) continue;
    const std::string file = (clip / name).string();
    if (ClassifyName(name) == PictureName::kUnreadable) {
      throw Error(file + " is of a format that is not read; convert it to JPEG, PNG or WebP");
    }
    const int64_t number = NumberOf(name);
    if (number < 0) throw Error(file + " has no number; frames are named like img_00001.jpg");
    frames.emplace_back(number, name);
  }
  if (frames.empty()) {
    throw Error("the clip " + clip.string() +
                " has no frames (.jpg, .jpeg, .png, .webp) directly in it; it " + ListFolder(clip));
  }
  std::sort(frames.begin(), frames.end());
  std::vector<std::string> names;
  for (size_t i = 0; i < frames.size(); ++i) {
    const int64_t step = i == 0 ? 1 : frames[i].first - frames[i - 1].first;
    if (step != 1) {
      throw Error("the clip " + clip.string() + " has " +
                  (step == 0 ? "two frames of one number" : "no frame between") + ": " +
                  names.back() + " and " + frames[i].second);
    }
    names.push_back(std::move(frames[i].second));
  }
  return names;
}

void ClipFrames(int64_t total, int64_t interval, bool training, CounterRng* rng,
                std::span<int64_t> frames) {
  CHECK_GT(total, 0);
  CHECK_GT(interval, 0);
  // Starts whose clip, counted with the frames passed over after its last one, lies within.
  const int64_t starts = total - static_cast<int64_t>(frames.size()) * interval + 1;
  int64_t start = 0;
  if (starts > 0) start = training ? static_cast<int64_t>(rng->Below(starts)) : starts / 2;
  for (size_t i = 0; i < frames.size(); ++i) {
    frames[i] = (start + static_cast<int64_t>(i) * interval) % total;
  }
}

}  // namespace swinfleet
