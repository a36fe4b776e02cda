// swinfleet-bench inference, data, ranks and collectives, as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
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
  EXPECT_THAT(bench.Out(), HasSubstr("\n| 3 | split | library | on | "));
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

// A job that trains in moments.
constexpr char kSmallJob[] =
    "run_dir: /nowhere\ndata:\n  path: /nowhere\n"
    "model:\n  image_size: 16\n  in_chans: 1\n  num_classes: 4\n  patch_size: 2\n"
    "  embed_dim: 8\n  depths: [1, 1]\n  num_heads: [2, 4]\n  window_size: 4\n"
    "train:\n  epochs: 2\n  global_batch: 16\n  micro_batch: 4\n";

TEST_F(BenchProgramTest, AStepIsHeldAgainstTheMachine) {
  const std::string job = folder_ + "/job.yaml";
  std::ofstream(job) << kSmallJob;
  const auto pair = BenchJson({"step", "--job", job, "--steps", "3", "--threads", "2"});
  EXPECT_EQ(pair.at("batch"), 4);
  EXPECT_GE(pair.at("step_s_median"), pair.at("step_s"));
  EXPECT_GT(pair.at("gemm_share"), 0);
  EXPECT_LT(pair.at("gemm_share"), 1);
  // More than light takes across a chip, less than any queue of threads that have a core each.
  EXPECT_GT(pair.at("handover_ns"), 1);
  EXPECT_LT(pair.at("handover_ns"), 1e8);
}

TEST_F(BenchProgramTest, AJobsRowIsAsTheJobIs) {
  const std::string job = folder_ + "/job.yaml";
  std::ofstream(job) << kSmallJob << "parallel: {zero_stage: 2, overlap: false}\n";
  const auto row = BenchJson({"ranks", "--job", job, "--steps", "2"}).at("rows").at(0);
  EXPECT_EQ(row.at("zero_stage"), 2);
  EXPECT_EQ(row.at("accumulation"), "split");
  EXPECT_EQ(row.at("overlap"), false);
  EXPECT_GT(row.at("step_s"), 0);
  EXPECT_NEAR(row.at("images_per_s").get<double>() * row.at("step_s").get<double>(), 16, 1e-9);
  EXPECT_GT(row.at("peak_mib"), 0);
  EXPECT_THAT(Refused({"ranks", "--job", job, "--stages", "1"}), HasSubstr("--stages"));
  EXPECT_THAT(Refused({"ranks", "--trace", folder_ + "/trace.json"}), HasSubstr("--trace"));
}

// Of rank 0 of two: what computes, and on a row of its own what is exchanged.
// Among three ranks shards are uneven in the order of their sums.
TEST_F(BenchProgramTest, CollectivesAreCheckedAndTimed) {
  for (const int ranks : {2, 3}) {
    Child bench(
        {"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n",
         std::to_string(ranks), std::string(SWINFLEET_BIN_DIR) + "/swinfleet-bench", "collectives",
         "--smallest-mib", "0.01", "--largest-mib", "0.05", "--repeats", "2", "--json"},
        folder_);
    ASSERT_EQ(bench.Wait(110), 0) << bench.Err();
    const std::string out = bench.Out();
    const auto line = nlohmann::json::parse(out.substr(out.rfind('\n', out.size() - 2) + 1));
    EXPECT_EQ(line.at("ranks"), ranks);
    // Three collectives, two of them with both sums, in two sizes.
    ASSERT_EQ(line.at("rows").size(), 10u);
    for (const auto& row : line.at("rows")) {
      const double bytes = row.at("bytes"), best = row.at("best_s");
      EXPECT_GE(row.at("median_s"), best);
      EXPECT_NEAR(row.at("algorithm_bytes_per_s"), bytes / best, 1);
      const double ways = row.at("operation") == "all-reduce" ? 2 : 1;
      EXPECT_NEAR(row.at("bus_bytes_per_s"), bytes / best * ways * (ranks - 1) / ranks, 1);
    }
  }
}

TEST_F(BenchProgramTest, CollectivesAreBetweenRanks) {
  EXPECT_THAT(Refused({"collectives"}), HasSubstr("mpirun"));
}

TEST_F(BenchProgramTest, ATraceShowsTheThreadThatExchanges) {
  const std::string job = folder_ + "/job.yaml", file = folder_ + "/trace.json";
  std::ofstream(job) << kSmallJob << "parallel: {zero_stage: 3}\n";
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  Child bench({"mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none",
               std::string(SWINFLEET_BIN_DIR) + "/swinfleet-bench", "ranks", "--job", job,
               "--steps", "2", "--trace", file},
              folder_);
  ASSERT_EQ(bench.Wait(110), 0) << bench.Err();
  std::ifstream stream(file);
  const auto trace = nlohmann::json::parse(stream);
  std::map<int, std::string> rows;
  std::map<std::string, int> operations;
  for (const auto& event : trace.at("traceEvents")) {
    const int row = event.at("tid");
    if (event.at("ph") == "M") rows[row] = event.at("args").at("name");
    if (event.at("ph") != "X" || event.at("cat") != "collective") continue;
    EXPECT_EQ(row, 2);
    EXPECT_GE(event.at("dur").get<double>(), 0);
    ++operations[event.at("args").at("operation")];
  }
  EXPECT_EQ(rows, (std::map<int, std::string>{{1, "computing"}, {2, "communication"}}));
  // Five units, each reduced in both rounds, and gathered forward and backward.
  EXPECT_EQ(operations["reduce-scatter"], 10);
  EXPECT_GT(operations["all-gather"], 10);
  EXPECT_EQ(operations["all-reduce"], 1);
}

}  // namespace
}  // namespace swinfleet
