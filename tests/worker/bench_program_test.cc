// swinfleet-bench inference, data and ranks, as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/child.h"
#include "tests/worker/png_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class BenchProgramTest : public testing::Test {
 protected:
  BenchProgramTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-bench-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~BenchProgramTest() override { fs::remove_all(folder_); }

  Child Bench(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), std::string(SWINFLEET_BIN_DIR) + "/swinfleet-bench");
    return Child(std::move(arguments), folder_);
  }
  // The object on the last line.
  nlohmann::json BenchJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    Child bench = Bench(std::move(arguments));
    EXPECT_EQ(bench.Wait(110), 0) << bench.Err();
    const std::string out = bench.Out();
    return nlohmann::json::parse(out.substr(out.rfind('\n', out.size() - 2) + 1));
  }
  std::string Refused(std::vector<std::string> arguments) {
    Child bench = Bench(std::move(arguments));
    EXPECT_EQ(bench.Wait(), 2);
    return bench.Err();
  }

  std::string folder_;
};

TEST_F(BenchProgramTest, InferenceIsTimed) {
  const auto line = BenchJson({"inference", "--batch", "2", "--runs", "2", "--threads", "2"});
  const double seconds = line.at("run_s");
  EXPECT_GT(seconds, 0);
  EXPECT_GE(line.at("run_s_median"), seconds);
  EXPECT_NEAR(line.at("images_per_s").get<double>() * seconds, 2, 1e-9);
#if !defined(__SANITIZE_ADDRESS__)
  // The weights are there, of 28 million parameters, but no gradients and no moments.
  EXPECT_GT(line.at("peak_mib"), 108);
  EXPECT_LT(line.at("peak_mib"), 3 * 108);
#endif
}

TEST_F(BenchProgramTest, InferenceRefusesCheckpointing) {
  EXPECT_THAT(Refused({"inference", "--checkpointing", "block"}), HasSubstr("--checkpointing"));
}

TEST_F(BenchProgramTest, DataIsTimed) {
  for (const char* name : {"a", "b"}) {
    const fs::path folder = fs::path(folder_) / "train" / name;
    fs::create_directories(folder);
    std::ofstream(folder / "1.png", std::ios::binary) << Png(std::string(40 * 30, name[0]), 40);
  }
  const auto line = BenchJson({"data", "--data", folder_, "--image-size", "32", "--batch", "2",
                               "--threads", "2", "--batches", "3"});
  EXPECT_GT(line.at("images_per_s"), 0);
  EXPECT_NEAR(line.at("images_per_s").get<double>(), 2 * line.at("images_per_s_core").get<double>(),
              1e-6);
  EXPECT_THAT(Refused({"data", "--data", folder_, "--split", "none"}), HasSubstr("none"));
}

TEST_F(BenchProgramTest, StagesAreTimed) {
  Child bench = Bench({"ranks", "--batch", "1", "--micro-batches", "1", "--steps", "1", "--threads",
                       "2", "--stages", "3", "--reductions", "library"});
  EXPECT_EQ(bench.Wait(110), 0) << bench.Err();
  EXPECT_THAT(bench.Out(), HasSubstr("\n| 3 | split | library | "));
  EXPECT_THAT(Refused({"ranks", "--stages", "4"}), HasSubstr("--stages"));
}

TEST_F(BenchProgramTest, UpdatesOfOffloadedStateAreTimed) {
  const auto line =
      BenchJson({"offload", "--dir", folder_, "--gb", "0.05", "--updates", "1", "--threads", "2"});
  EXPECT_NEAR(line.at("bytes").get<double>(), 0.05e9, 0.002e9);
  for (const char* seconds :
       {"read_s", "write_s", "read_and_write_s", "update_s", "wait_s", "arithmetic_s"}) {
    EXPECT_GT(line.at(seconds), 0) << seconds;
  }
  EXPECT_GE(line.at("update_s"), line.at("wait_s"));
  EXPECT_FALSE(fs::exists(folder_ + "/swinfleet-bench-offload")) << "nothing is left";
  std::ofstream(folder_ + "/file") << "no folder";
  EXPECT_THAT(Refused({"offload", "--dir", folder_ + "/file"}), HasSubstr("can't be used"));
}

}  // namespace
}  // namespace swinfleet
