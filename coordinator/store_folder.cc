#include "coordinator/store_folder.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace swinfleet::coordinator {
namespace {

struct KnownFilesystem {
  uint32_t type;
  const char* name;
};

// linux/magic.h, statfs(2), and for those outside the kernel their own sources.
constexpr KnownFilesystem kNetworkFilesystems[] = {
    {0x6969, "NFS"},
    {0x517b, "SMB"},
    {0xff534d42, "CIFS"},
    {0xfe534d42, "SMB2"},
    {0x0bd00bd0, "Lustre"},
    {0x47504653, "GPFS"},
    {0x19830326, "BeeGFS"},
    {0x65735546, "FUSE"},
    {0x00c36400, "Ceph"},
    {0x5346414f, "AFS"},
    {0x6b414653, "AFS"},
    {0x73757245, "Coda"},
    {0x01021997, "9p"},
    {0x7461636f, "OCFS2"},
    {0x01161970, "GFS2"},
    {0x20030528, "OrangeFS"},
    {0x564c, "NCP"},
    {0xaad7aaea, "PanFS"},
    {0x786f4256, "VirtualBox shared folder"},
    {0xbacbacbc, "VMware shared folder"},
};

grpc::Status Bad(const std::string& text) { return {grpc::StatusCode::FAILED_PRECONDITION, text}; }

std::string ReadOwner(int lock) {
  char text[256];
  const ssize_t size = pread(lock, text, sizeof(text), 0);
  std::string owner(text, size > 0 ? static_cast<size_t>(size) : 0);
  while (!owner.empty() && owner.back() == '\n') owner.pop_back();
  return owner;
}

}  // namespace

int64_t SystemFilesystemType(const std::string& path) {
  struct statfs info;
  if (statfs(path.c_str(), &info) != 0) return -1;
  return static_cast<int64_t>(info.f_type);
}

std::string NetworkFilesystemName(int64_t type) {
  for (const KnownFilesystem& known : kNetworkFilesystems) {
    // f_type is signed on some machines; its lower half is the number.
    if (static_cast<uint32_t>(type) == known.type) return known.name;
  }
  return "";
}

grpc::Status StoreFolder::Open(const std::string& path, const FilesystemType& filesystem_type,
                               std::unique_ptr<StoreFolder>* out) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return Bad("--store " + path + ": " + error.message());
  const std::filesystem::path parent = absolute.lexically_normal().parent_path();
  std::filesystem::create_directories(parent, error);
  if (error) return Bad("can't make the folder " + parent.string() + ": " + error.message());
  if (mkdir(absolute.c_str(), 0700) != 0 && errno != EEXIST) {
    return Bad("can't make the store " + absolute.string() + ": " + strerror(errno));
  }
  const int64_t type = filesystem_type(absolute.string());
  if (type == -1)
    return Bad("can't examine the store " + absolute.string() + ": " + strerror(errno));
  if (const std::string name = NetworkFilesystemName(type); !name.empty()) {
    return Bad("the store " + absolute.string() + " is on a network filesystem (" + name +
               "), where neither locks nor fsync can be relied on; choose a folder on a local "
               "disk with --store");
  }
  std::unique_ptr<StoreFolder> folder(new StoreFolder(absolute.string()));
  if (grpc::Status status = folder->Lock(); !status.ok()) return status;
  *out = std::move(folder);
  return grpc::Status::OK;
}

grpc::Status StoreFolder::Lock() {
  const std::string file = path_ + "/lock";
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return Bad("can't write into the store: " + file + ": " + strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Bad("can't lock " + file + ": " + strerror(errno));
    const std::string owner = ReadOwner(lock_);
    return {grpc::StatusCode::ALREADY_EXISTS,
            "another coordinator uses the store " + path_ +
                (owner.empty() ? "" : " (" + owner + ")") +
                "; stop it, or choose another folder with --store"};
  }
  // For people only. That it can't be written on a full disk is no reason not to start.
  const std::string owner = "process " + std::to_string(getpid()) + "\n";
  if (ftruncate(lock_, 0) != 0 || pwrite(lock_, owner.data(), owner.size(), 0) < 0) {
    return grpc::Status::OK;
  }
  return grpc::Status::OK;
}

StoreFolder::~StoreFolder() {
  if (lock_ >= 0) close(lock_);
}

grpc::Status StoreFolder::Sync() const {
  for (const std::string& path : {path_, std::filesystem::path(path_).parent_path().string()}) {
    const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return Bad("can't open " + path + ": " + strerror(errno));
    const int result = fsync(folder);
    const int error = errno;
    close(folder);
    // Some filesystems have nothing to do for a folder and say so with EINVAL.
    if (result != 0 && error != EINVAL) return Bad("fsync of " + path + ": " + strerror(error));
  }
  return grpc::Status::OK;
}

std::string DefaultStoreFolder() {
  if (const char* state = getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') {
    return std::string(state) + "/swinfleet";
  }
  const char* home = getenv("HOME");
  if (home == nullptr || home[0] == '\0') {
    const passwd* user = getpwuid(getuid());
    home = user == nullptr ? "/" : user->pw_dir;
  }
  return std::string(home) + "/.local/state/swinfleet";
}

}  // namespace swinfleet::coordinator
