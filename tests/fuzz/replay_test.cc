// The fuzz target that this program is linked with, on the committed inputs: a corpus that comes to
// as much of the code as was reached, and whatever has once been found.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"

namespace swinfleet {
namespace {

TEST(FuzzReplay, CommittedInputsAreHandled) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(SWINFLEET_FUZZ_CORPUS)) {
    paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  ASSERT_GT(paths.size(), 10u) << SWINFLEET_FUZZ_CORPUS;
  for (const std::string& path : paths) {
    SCOPED_TRACE(path);
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    // Where it dies, its name is the last line.
    printf("%s\n", path.c_str());
    fflush(stdout);
    EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()),
              0);
  }
}

}  // namespace
}  // namespace swinfleet
