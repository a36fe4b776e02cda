// What tests under mpirun save and find again.
#ifndef SWINFLEET_TESTS_DISTRIBUTED_SHARED_FOLDER_H_
#define SWINFLEET_TESTS_DISTRIBUTED_SHARED_FOLDER_H_

#include <glog/logging.h>
#include <stdlib.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/distributed/offload_test_util.h"

namespace swinfleet {

// The same folder on all ranks, removed by rank 0.
class SharedFolder {
 public:
  SharedFolder() {
    std::string name;
    if (TestWorld().rank() == 0) {
      name = (std::filesystem::temp_directory_path() / "shared_XXXXXX").string();
      CHECK(mkdtemp(name.data()) != nullptr);
    }
    path_ = TestWorld().AllGatherText(name, "folder")[0];
  }
  ~SharedFolder() {
    TestWorld().Barrier("folder no longer used");
    if (TestWorld().rank() == 0) std::filesystem::remove_all(path_);
  }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// A checkpoint of all ranks' parts. Collective.
inline void SaveTogether(FakeTraining& training, const std::string& dir) {
  Communicator& world = TestWorld();
  std::string lines;
  for (const ShardRecord& record : SavePart(training, dir, world.rank(), world.size())) {
    lines += record.ToJson() + "\n";
  }
  const auto texts = world.AllGatherText(lines, "shards");
  if (world.rank() == 0) {
    std::vector<ShardRecord> records;
    for (const std::string& text : texts) {
      std::istringstream in(text);
      for (std::string line; std::getline(in, line);) {
        records.push_back(ShardRecord::FromJson(line, "a rank"));
      }
    }
    CommitManifest(dir, CheckpointMeta{}, records);
  }
  world.Barrier("committed");
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_DISTRIBUTED_SHARED_FOLDER_H_
