#include "core/data/folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <system_error>

#include "core/checkpoint/file_ops.h"
#include "core/data/dataset.h"
#include "core/data/picture_file.h"
#include "kernels/error.h"

namespace swinfleet {

namespace fs = std::filesystem;

namespace {

// Whether a data set may lack something without this entry: a picture, or a folder, whose name has
// no ending. Others are passed over, like locks of editors, which are links that lead nowhere.
bool MayMatter(const std::string& name) {
  return ClassifyName(name) != PictureName::kOther || name.find('.') == std::string::npos;
}

// What an entry is, links followed. The listing of the folder says it of files and folders; to ask
// the file system for each of millions of pictures would take hours. Files are asked for first: of
// a link each question is a system call, and most lead to files.
fs::file_type TypeOf(const fs::directory_entry& entry) {
  std::error_code error;
  if (entry.is_regular_file(error)) return fs::file_type::regular;
  if (entry.is_directory(error)) return fs::file_type::directory;
  const fs::file_type type = entry.status(error).type();
  const std::string path = entry.path().string();
  if (type == fs::file_type::not_found && MayMatter(entry.path().filename().string())) {
    std::error_code no_link;
    const fs::path target = fs::read_symlink(entry.path(), no_link);
    if (no_link) throw Error(path + " was removed while its folder was read");
    throw Error("the link " + path + " leads nowhere: there is no " + target.string() +
                "; restore that, or remove the link");
  }
  if (type == fs::file_type::none) throw Error("cannot look at " + path + ": " + error.message());
  return type;
}

}  // namespace

std::string ListFolder(const fs::path& folder) {
  constexpr size_t kMaxNames = 20;
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) return "cannot be listed: " + error.message();
  if (names.empty()) return "is empty";
  std::sort(names.begin(), names.end());
  std::string text;
  for (size_t i = 0; i < names.size() && i < kMaxNames; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > kMaxNames) {
    text += " and " + std::to_string(names.size() - kMaxNames) + " more";
  }
  return "holds " + text;
}

void CheckDataFolder(const std::string& folder, const std::string& holds) {
  std::error_code error;
  if (folder.empty()) throw Error("data.path is empty; it must name the folder of " + holds);
  const fs::file_status status = fs::status(folder, error);
  if (fs::is_directory(status)) return;
  if (fs::exists(status)) throw Error("data.path " + folder + " is not a folder");
  if (error && error != std::errc::no_such_file_or_directory &&
      error != std::errc::not_a_directory) {
    throw Error("data.path " + folder + " cannot be read: " + error.message());
  }
  fs::path parent = fs::absolute(folder, error).lexically_normal();
  while (parent.has_relative_path() && !fs::is_directory(parent, error)) {
    parent = parent.parent_path();
  }
  throw Error("data.path " + folder + " does not exist; " + parent.string() + " " +
              ListFolder(parent));
}

void CheckSplitName(const std::string& split, const std::string& what) {
  if (!split.empty() && split != "." && split != ".." && split.find('/') == std::string::npos) {
    return;
  }
  throw Error("\"" + split + "\" is not the name of a split; it is " + what);
}

fs::path SplitFolder(const std::string& folder, const std::string& split) {
  CheckSplitName(split, "a folder in data.path, like train");
  CheckDataFolder(folder, "the data set, with a folder for each split");
  const fs::path path = fs::path(folder) / split;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return path;
  if (fs::exists(status)) {
    throw Error(path.string() + " is not a folder; the split " + split + " is a folder of classes");
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(path.string() + " cannot be read: " + error.message());
  }
  throw Error("there is no folder " + path.string() + " for the split " + split + "; data.path " +
              ListFolder(folder));
}

FolderEntries ReadFolder(const fs::path& folder) {
  FolderEntries entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const fs::file_type type = TypeOf(*it);
    if (type == fs::file_type::directory) {
      entries.folders.push_back(it->path().filename().string());
    } else if (type == fs::file_type::regular) {
      entries.files.push_back(it->path().filename().string());
    }
  }
  if (error) throw Error("cannot read the folder " + folder.string() + ": " + error.message());
  std::sort(entries.folders.begin(), entries.folders.end());
  std::sort(entries.files.begin(), entries.files.end());
  return entries;
}

uint64_t FileBytes(const fs::path& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) throw Error("cannot look at " + path.string() + ": " + error.message());
  return bytes;
}

std::vector<uint8_t> ReadFileBytes(const std::string& path) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30;
  // Asked before opening, because opening a pipe would wait for its other end.
  struct stat info;
  if (stat(path.c_str(), &info) != 0) throw FileError(errno, "open", path);
  if (!S_ISREG(info.st_mode)) throw Error(path + " is not a regular file");
  if (info.st_size > kMaxBytes) {
    throw BrokenPicture(path + " has " + std::to_string(info.st_size) +
                        " bytes, more than any picture (" + std::to_string(kMaxBytes) + ")");
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (file == nullptr) throw FileError(errno, "open", path);
  std::vector<uint8_t> bytes;
  try {
    bytes.resize(info.st_size);
  } catch (const std::bad_alloc&) {
    throw OutOfMemoryError("there is not enough memory to read the " +
                           std::to_string(info.st_size) + " bytes of " + path);
  }
  const size_t got = std::fread(bytes.data(), 1, bytes.size(), file.get());
  if (got < bytes.size() && std::ferror(file.get())) throw FileError(errno, "read", path);
  bytes.resize(got);
  return bytes;
}

}  // namespace swinfleet
