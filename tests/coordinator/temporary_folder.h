// A fresh folder for one test, removed after it.
#ifndef SWINFLEET_TESTS_COORDINATOR_TEMPORARY_FOLDER_H_
#define SWINFLEET_TESTS_COORDINATOR_TEMPORARY_FOLDER_H_

#include <glog/logging.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace swinfleet::coordinator {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    path_ = (std::filesystem::temp_directory_path() / "swinfleet-test-XXXXXX").string();
    PCHECK(mkdtemp(path_.data()) != nullptr) << path_;
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_TEMPORARY_FOLDER_H_
