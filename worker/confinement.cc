#include "worker/confinement.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/checkpoint/file_ops.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

bool Exists(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
    throw FileError(errno, "look at", path);
  }
  return false;
}

std::vector<std::string> ResolveAll(const std::vector<std::string>& paths) {
  std::vector<std::string> resolved;
  for (const std::string& path : paths) resolved.push_back(ResolvePath(path));
  return resolved;
}

}  // namespace

std::string ResolvePath(const std::string& path) {
  std::filesystem::path existing = path;
  std::filesystem::path rest;
  while (existing.has_relative_path() && !Exists(existing.string())) {
    rest = rest.empty() ? existing.filename() : existing.filename() / rest;
    existing = existing.parent_path();
  }
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(existing.c_str(), nullptr),
                                                         &std::free);
  if (real == nullptr) {
    if (errno == ENOENT || errno == ELOOP) {
      throw Error(existing.string() + " is a symbolic link that leads nowhere; remove it");
    }
    throw FileError(errno, "resolve", existing.string());
  }
  return rest.empty() ? real.get() : (std::filesystem::path(real.get()) / rest).string();
}

void CheckConfined(const JobConfig& config, const std::string& resume_from,
                   const PathRoots& roots) {
  const PathRoots real{ResolveAll(roots.run), ResolveAll(roots.data)};
  std::vector<ConfinedPath> paths =
      PathsOfJob(config.run_dir, config.parallel.offload_dir, config.data.path, config.init_from);
  if (!resume_from.empty()) paths.push_back({"the checkpoint", resume_from, true, false});
  for (const char* folder : {"checkpoints", "metrics", "tensorboard", "flight", "traces"}) {
    paths.push_back(
        {std::string("run_dir's ") + folder, config.run_dir + "/" + folder, true, false});
  }
  for (const ConfinedPath& path : paths) {
    ConfinedPath resolved = path;
    resolved.path = ResolvePath(path.path);
    const std::string fault = OutsideRoots(resolved, real);
    if (fault.empty()) continue;
    throw Error(fault + (resolved.path == path.path
                             ? ""
                             : "; " + path.path + " leads there by a symbolic link"));
  }
}

}  // namespace swinfleet
