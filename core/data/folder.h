// What lies in folders, with errors that say what is there instead.
#ifndef SWINFLEET_CORE_DATA_FOLDER_H_
#define SWINFLEET_CORE_DATA_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace swinfleet {

// "holds a, b and 3 more": the names in a folder, for messages.
std::string ListFolder(const std::filesystem::path& folder);

// Throws Error unless data.path is a folder: it is empty, does not exist (then the error lists what
// its deepest parent that does holds), is something else, or can't be looked at. `holds` says what
// belongs into it, for the message about an empty one.
void CheckDataFolder(const std::string& folder, const std::string& holds);

// Throws Error unless `split` is one name, without slashes.
void CheckSplitName(const std::string& split, const std::string& what);

// The folder data.path/split. Throws Error when one of them is not a folder.
std::filesystem::path SplitFolder(const std::string& folder, const std::string& split);

// Names of the folders and of the regular files in a folder, links followed, each sorted by bytes.
// What is neither is passed over.
struct FolderEntries {
  std::vector<std::string> folders;
  std::vector<std::string> files;
};
// Throws Error, naming it, when the folder can't be read, when a link leads nowhere whose name is a
// picture's or has no ending, and when what an entry is can't be told: a data set that lacks a
// picture or a folder is not a smaller data set.
FolderEntries ReadFolder(const std::filesystem::path& folder);

// Bytes of a file. Throws Error when it can't be looked at.
uint64_t FileBytes(const std::filesystem::path& path);

// All bytes of a picture's file. Throws an error that names it: BrokenPicture when it is larger
// than 1 GiB, OutOfMemoryError when there is no memory for it, FileError when it can't be read,
// Error when it is no regular file.
std::vector<uint8_t> ReadFileBytes(const std::string& path);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_FOLDER_H_
