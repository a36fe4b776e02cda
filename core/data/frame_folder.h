// Clips in folders of numbered frames.
#ifndef SWINFLEET_CORE_DATA_FRAME_FOLDER_H_
#define SWINFLEET_CORE_DATA_FRAME_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// Opens `<folder>/<split>/<class>/<clip>/<frame>`. Labels are the places of the class folders in
// their sorted names; clips are sorted by name, and have the frames that ReadClip gives. The index
// hash covers the clips' paths, labels and numbers of frames, the first frame's name and its size
// in bytes.
// Throws Error, naming the path, for a missing or unreadable folder, a split without classes, a
// class without clips, and as ReadClip.
std::unique_ptr<Dataset> OpenFrameFolder(const std::string& folder, const std::string& split);

// The names of a clip's frames: the pictures in its folder (see ClassifyName), in the order of the
// numbers in which their names end ("img_00001.jpg"); the numbers have no gaps. Other files are
// passed over. Throws Error, naming the path, for a folder that can't be read or has no frames, and
// for frames that have no number, the same one, or whose numbers have gaps.
std::vector<std::string> ReadClip(const std::filesystem::path& clip);

// Which of a sample's `total` frames make up a clip, as mmaction's SampleFrames with one clip:
// every `interval`-th from a start; in training the start is random among those whose clip lies
// within the sample, in evaluation it is the middle one. In a sample with fewer than frames *
// interval frames the clip starts at 0 and the sample is repeated. total, interval > 0.
void ClipFrames(int64_t total, int64_t interval, bool training, CounterRng* rng,
                std::span<int64_t> frames);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_FRAME_FOLDER_H_
