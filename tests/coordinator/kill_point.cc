#include "tests/coordinator/kill_point.h"

#include <glog/logging.h>
#include <signal.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cstring>

namespace swinfleet::coordinator {
namespace {

// Pages in the log that are brought into the database.
constexpr int kLogPages = 30;

KillPoint* kill_point = nullptr;
sqlite3_vfs* real_vfs = nullptr;

[[noreturn]] void Die() {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

// Does `write`, a change of a database's file, as the next one that counts.
template <typename Write>
int Counted(Write write) {
  const uint64_t number = ++kill_point->writes;
  const bool last = number == kill_point->at;
  if (last && !kill_point->after) Die();
  const int code = write();
  if (last) Die();
  return code;
}

bool IsWatched(const char* path) {
  return path != nullptr && strstr(path, "/jobs.sqlite") != nullptr;
}

// A file of the real VFS lies behind it.
struct File {
  sqlite3_file base;
  bool watched;
};

sqlite3_file* Real(sqlite3_file* file) {
  return reinterpret_cast<sqlite3_file*>(reinterpret_cast<File*>(file) + 1);
}

// Calls the same method of the real file.
template <auto method, typename... Arguments>
int Pass(sqlite3_file* file, Arguments... arguments) {
  return (Real(file)->pMethods->*method)(Real(file), arguments...);
}

int Write(sqlite3_file* file, const void* bytes, int size, sqlite3_int64 offset) {
  const auto write = [=] { return Pass<&sqlite3_io_methods::xWrite>(file, bytes, size, offset); };
  return reinterpret_cast<File*>(file)->watched ? Counted(write) : write();
}

int Truncate(sqlite3_file* file, sqlite3_int64 size) {
  const auto cut = [=] { return Pass<&sqlite3_io_methods::xTruncate>(file, size); };
  return reinterpret_cast<File*>(file)->watched ? Counted(cut) : cut();
}

void PassBarrier(sqlite3_file* file) { Real(file)->pMethods->xShmBarrier(Real(file)); }

// Version 2: without the memory maps of files, whose writes nobody would see.
constexpr sqlite3_io_methods kMethods = {
    2,
    &Pass<&sqlite3_io_methods::xClose>,
    &Pass<&sqlite3_io_methods::xRead>,
    &Write,
    &Truncate,
    &Pass<&sqlite3_io_methods::xSync>,
    &Pass<&sqlite3_io_methods::xFileSize>,
    &Pass<&sqlite3_io_methods::xLock>,
    &Pass<&sqlite3_io_methods::xUnlock>,
    &Pass<&sqlite3_io_methods::xCheckReservedLock>,
    &Pass<&sqlite3_io_methods::xFileControl>,
    &Pass<&sqlite3_io_methods::xSectorSize>,
    &Pass<&sqlite3_io_methods::xDeviceCharacteristics>,
    &Pass<&sqlite3_io_methods::xShmMap>,
    &Pass<&sqlite3_io_methods::xShmLock>,
    &PassBarrier,
    &Pass<&sqlite3_io_methods::xShmUnmap>,
    nullptr,
    nullptr,
};

int Open(sqlite3_vfs*, const char* path, sqlite3_file* file, int flags, int* out_flags) {
  File* own = reinterpret_cast<File*>(file);
  own->base.pMethods = nullptr;
  own->watched = IsWatched(path);
  const int code = real_vfs->xOpen(real_vfs, path, Real(file), flags, out_flags);
  if (Real(file)->pMethods != nullptr) own->base.pMethods = &kMethods;
  return code;
}

int Delete(sqlite3_vfs*, const char* path, int sync_folder) {
  const auto remove = [=] { return real_vfs->xDelete(real_vfs, path, sync_folder); };
  return IsWatched(path) ? Counted(remove) : remove();
}

int BringInOften(sqlite3* database, char**, const void*) {
  return sqlite3_wal_autocheckpoint(database, kLogPages);
}

}  // namespace

void WatchWrites(KillPoint* point) {
  kill_point = point;
  real_vfs = sqlite3_vfs_find(nullptr);
  CHECK(real_vfs != nullptr);
  static sqlite3_vfs vfs;
  vfs = *real_vfs;
  vfs.szOsFile = static_cast<int>(sizeof(File)) + real_vfs->szOsFile;
  vfs.pNext = nullptr;
  vfs.zName = "swinfleet-kill";
  vfs.xOpen = &Open;
  vfs.xDelete = &Delete;
  CHECK_EQ(sqlite3_vfs_register(&vfs, /*makeDflt=*/1), SQLITE_OK);
  // SQLite's own signature for functions of extensions.
  CHECK_EQ(sqlite3_auto_extension(reinterpret_cast<void (*)()>(&BringInOften)), SQLITE_OK);
}

}  // namespace swinfleet::coordinator
