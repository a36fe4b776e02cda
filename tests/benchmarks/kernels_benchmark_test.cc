// kernels_benchmark as its users meet it: it has every operation, and each of them runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/op_entries.h"
#include "tests/worker/child.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class KernelsBenchmarkTest : public testing::Test {
 protected:
  KernelsBenchmarkTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-benchmark-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~KernelsBenchmarkTest() override { fs::remove_all(folder_); }

  Child Run(std::vector<std::string> options) {
    options.insert(options.begin(), std::string(SWINFLEET_BIN_DIR) + "/kernels_benchmark");
    return Child(std::move(options), folder_);
  }

  std::string folder_;
};

// Of the smaller stage, once, in the caches.
TEST_F(KernelsBenchmarkTest, EveryOperationRuns) {
  Child run = Run({"--threads", "2", "--cold-mib", "0", "--benchmark_filter=/(stage2|model)/",
                   "--benchmark_min_time=0.0001", "--benchmark_format=json"});
  ASSERT_EQ(run.Wait(110), 0) << run.Err();
  const auto result = nlohmann::json::parse(run.Out());
  EXPECT_EQ(result.at("context").at("threads"), "2");
  std::set<std::string> operations, in_bf16;
  for (const auto& one : result.at("benchmarks")) {
    const auto name = one.at("name").get<std::string>();
    const std::string operation = name.substr(0, name.find('/'));
    operations.insert(operation);
    if (name.find("/bf16") != std::string::npos) in_bf16.insert(operation);
    EXPECT_GT(one.at("GB/s").get<double>(), 0) << name;
    EXPECT_GT(one.at("limit").get<double>(), 0) << name;
    const bool product =
        operation.starts_with("linear") || operation.starts_with("window_attention") ||
        operation.starts_with("position_table") || operation.starts_with("patch_embedding");
    EXPECT_EQ(one.at("GFLOP/s").get<double>() > 0, product) << name;
  }
  EXPECT_EQ(operations, std::set<std::string>(kOpNames.begin(), kOpNames.end()));
  // The others are in float32 always.
  EXPECT_EQ(in_bf16.size(), kOps - 6);
}

TEST_F(KernelsBenchmarkTest, UnknownOptionsAreRefused) {
  Child run = Run({"--thread", "2"});
  EXPECT_EQ(run.Wait(), 2);
  EXPECT_THAT(run.Err(), HasSubstr("--thread"));
}

}  // namespace
}  // namespace swinfleet
