// The folders that paths of jobs are confined to. The coordinator looks at the text of a path,
// workers at where it really leads.
#ifndef SWINFLEET_PROTO_ROOTS_H_
#define SWINFLEET_PROTO_ROOTS_H_

#include <string>
#include <vector>

namespace swinfleet {

// Absolute paths in normal form. An empty list confines nothing.
struct PathRoots {
  // Of what jobs write: run_dir, parallel.offload_dir.
  std::vector<std::string> run;
  // Of what they read: data.path. What they start from (model.init_from) may be in either.
  std::vector<std::string> data;
  bool empty() const { return run.empty() && data.empty(); }
};

// A path of a job, and which roots it may lie in.
struct ConfinedPath {
  // "data.path"
  std::string key;
  std::string path;
  bool in_run = false;
  bool in_data = false;
};

// The paths of a job that are set.
std::vector<ConfinedPath> PathsOfJob(const std::string& run_dir, const std::string& offload_dir,
                                     const std::string& data_path, const std::string& init_from);

// Takes "." and ".." out of an absolute path by its text alone, and the slash at its end. Empty if
// the path is not absolute.
std::string NormalPath(const std::string& path);

// `path` is `folder` or lies in it; both in normal form.
bool IsWithin(const std::string& path, const std::string& folder);

// Why the path may not be used, by its text alone; empty: it may.
std::string OutsideRoots(const ConfinedPath& path, const PathRoots& roots);

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_ROOTS_H_
