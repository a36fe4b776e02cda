#include "proto/roots.h"

#include <algorithm>
#include <filesystem>
#include <tuple>

namespace swinfleet {

std::vector<ConfinedPath> PathsOfJob(const std::string& run_dir, const std::string& offload_dir,
                                     const std::string& data_path, const std::string& init_from) {
  std::vector<ConfinedPath> paths = {{"run_dir", run_dir, true, false},
                                     {"parallel.offload_dir", offload_dir, true, false},
                                     {"data.path", data_path, false, true},
                                     {"model.init_from", init_from, true, true}};
  std::erase_if(paths, [](const ConfinedPath& path) { return path.path.empty(); });
  return paths;
}

std::string NormalPath(const std::string& path) {
  std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  if (!normal.is_absolute()) return "";
  if (!normal.has_filename() && normal != normal.root_path()) normal = normal.parent_path();
  return normal.string();
}

bool IsWithin(const std::string& path, const std::string& folder) {
  if (path == folder || folder == "/") return true;
  return path.size() > folder.size() && path.compare(0, folder.size(), folder) == 0 &&
         path[folder.size()] == '/';
}

std::string OutsideRoots(const ConfinedPath& path, const PathRoots& roots) {
  std::vector<std::string> folders;
  std::string options;
  for (const auto& [wanted, list, option] :
       {std::tuple{path.in_run, &roots.run, "--run-root"},
        std::tuple{path.in_data, &roots.data, "--data-root"}}) {
    if (!wanted) continue;
    if (list->empty()) return "";
    folders.insert(folders.end(), list->begin(), list->end());
    options += (options.empty() ? "" : ", ") + std::string(option);
  }
  const std::string normal = NormalPath(path.path);
  std::string allowed;
  for (const std::string& folder : folders) {
    if (!normal.empty() && IsWithin(normal, folder)) return "";
    allowed += (allowed.empty() ? "" : " or ") + folder;
  }
  return path.key + " is " + path.path + ", but it has to lie in " + allowed +
         ", to which this coordinator confines jobs (" + options + ")";
}

}  // namespace swinfleet
