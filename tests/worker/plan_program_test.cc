// swinfleet-plan and swinfleet-bench memory, as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/worker/child.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class PlanProgramTest : public testing::Test {
 protected:
  PlanProgramTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-plan-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~PlanProgramTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& text, const std::string& name = "job.yaml") {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  static std::string Program(const std::string& name) {
    return std::string(SWINFLEET_BIN_DIR) + "/swinfleet-" + name;
  }
  Child Plan(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), Program("plan"));
    return Child(std::move(arguments), folder_);
  }
  nlohmann::json PlanJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    Child plan = Plan(std::move(arguments));
    EXPECT_EQ(plan.Wait(), 0) << plan.Err();
    return nlohmann::json::parse(plan.Out());
  }

  std::string folder_;
};

constexpr char kTiny[] =
    "run_dir: /r\ndata: {path: /d}\nmodel: {preset: swinv2_tiny_window8_256}\n"
    "train: {micro_batch: 8, global_batch: 64, eval_batch: 8}\n";

// Needs no GPU.
TEST_F(PlanProgramTest, OfAGpuTensorsAreInItsMemory) {
  const std::string job = Write(kTiny);
  const auto on_cpu = PlanJson({job, "--ranks", "2"}).at("memory");
  const auto on_gpu = PlanJson({job, "--ranks", "2", "--device", "cuda"}).at("memory");
  EXPECT_EQ(on_cpu.at("gpu_bytes"), 0);
  EXPECT_TRUE(on_cpu.at("gpu_classes").empty());
  uint64_t sum = 0;
  for (const auto& bytes : on_gpu.at("gpu_classes")) sum += bytes.get<uint64_t>();
  EXPECT_EQ(on_gpu.at("gpu_bytes"), sum);
  const auto more_on_gpu = [&](const char* name) {
    EXPECT_FALSE(on_gpu.at("classes").contains(name));
    return on_gpu.at("gpu_classes").at(name).get<int64_t>() -
           on_cpu.at("classes").at(name).get<int64_t>();
  };
  EXPECT_EQ(more_on_gpu("optimizer"), 0);
  // What other ranks send is added from there: a part as large as the largest unit, up to 32 MiB.
  EXPECT_GT(more_on_gpu("gradients"), 8 << 20);
  EXPECT_LE(more_on_gpu("gradients"), 32 << 20);
  // The host has the norms of chunks.
  EXPECT_LT(on_gpu.at("classes").at("staging"), 1 << 20);
  EXPECT_LT(on_gpu.at("process_bytes"), on_cpu.at("process_bytes").get<uint64_t>() / 2);
}

TEST_F(PlanProgramTest, TheLimitIsTheGpus) {
  const std::string job = Write(kTiny);
  const std::vector<std::string> command = {job, "--ranks", "1", "--device", "cuda", "--memory"};
  const auto with = [&](const std::string& limit) {
    std::vector<std::string> arguments = command;
    arguments.push_back(limit);
    return arguments;
  };
  Child large = Plan(with("24GiB"));
  EXPECT_EQ(large.Wait(), 0) << large.Err();
  EXPECT_THAT(large.Out(), HasSubstr("of its GPU"));
  EXPECT_THAT(large.Out(), HasSubstr("a micro-batch of "));
  Child small = Plan(with("1GiB"));
  EXPECT_EQ(small.Wait(), 2);
  EXPECT_THAT(small.Err(), HasSubstr("of its GPU (on 1 rank), which is more than 1.0 GiB"));
}

TEST_F(PlanProgramTest, WhatIsNotForGpusIsAnError) {
  const std::string job = std::string(kTiny) + "memory: {budget: 4GiB}\n";
  Child plan = Plan({Write(job), "--ranks", "1", "--device", "cuda"});
  EXPECT_EQ(plan.Wait(), 2);
  EXPECT_THAT(plan.Err(), HasSubstr("can't be computed on GPUs: memory.budget"));
}

TEST_F(PlanProgramTest, StateOffloadedToTheHostIsBesideAGpu) {
  const std::string job = Write(std::string(kTiny) + "parallel: {offload: host}\n");
  const auto plan = PlanJson({job, "--ranks", "1"});
  EXPECT_EQ(plan.at("device"), "cuda");
  const uint64_t moments = 8 * 28'000'000;
  const auto& memory = plan.at("memory");
  EXPECT_GT(memory.at("classes").at("offloaded state"), moments);
  EXPECT_LT(memory.at("classes").at("offloaded state"), moments * 11 / 10);
  EXPECT_EQ(memory.at("gpu_classes").at("optimizer"), 64 << 20);
  EXPECT_EQ(memory.at("disk_state_bytes"), 0);
  Child on_cpu = Plan({job, "--device", "cpu"});
  EXPECT_EQ(on_cpu.Wait(), 2);
  EXPECT_THAT(on_cpu.Err(), HasSubstr("can't be computed on the CPU: parallel.offload: host"));
  Child neither = Plan(
      {Write(std::string(kTiny) + "parallel: {offload: host}\n" + "memory: {budget: 4GiB}\n")});
  EXPECT_EQ(neither.Wait(), 2);
  EXPECT_THAT(neither.Err(), HasSubstr("can't be computed on GPUs: memory.budget"));
}

TEST_F(PlanProgramTest, OperationsAreHeldAgainstAGpu) {
  const std::string job = Write(kTiny);
  const std::vector<std::string> command = {
      job, "--ranks", "1", "--device", "cuda", "--roofline", "h100", "--launch-us", "2.5"};
  const auto plan = PlanJson(command);
  const auto& roofline = plan.at("roofline");
  // Of one of the step's 8 micro-batches.
  EXPECT_DOUBLE_EQ(roofline.at("all").at("matrix_flops").get<double>() * 8,
                   plan.at("step").at("matrix_flops").get<double>());
  EXPECT_GE(roofline.at("all").at("launches"), roofline.at("all").at("calls"));
  EXPECT_GT(roofline.at("share_of_peak"), 0);
  EXPECT_LT(roofline.at("share_of_peak"), 1);
  Child text = Plan(command);
  EXPECT_EQ(text.Wait(), 0) << text.Err();
  EXPECT_THAT(text.Out(), HasSubstr("H100 SXM"));
  EXPECT_THAT(text.Out(), HasSubstr("window_attention_backward"));
}

TEST_F(PlanProgramTest, AStepOfARooflineWaitsForExchanges) {
  const auto plan = [&, job = Write(kTiny)](const std::string& gbit_per_s) {
    return PlanJson({job, "--ranks", "2", "--device", "cuda", "--roofline", "h100",
                     "--link-gbit-per-s", gbit_per_s, "--link-latency-us", "0.001"});
  };
  const auto fast = plan("1000000"), slow = plan("0.1");
  // Of a rank's 4 micro-batches, as long as the roofline says.
  const double computing = 4 * fast.at("roofline").at("all").at("seconds").get<double>();
  for (const auto& one : {fast, slow}) {
    const auto& exchanges = one.at("communication");
    EXPECT_NEAR(exchanges.at("compute_seconds"), computing, 1e-9 * computing);
    EXPECT_DOUBLE_EQ(exchanges.at("step_seconds").get<double>(),
                     exchanges.at("compute_seconds").get<double>() +
                         exchanges.at("exposed_communication_seconds").get<double>());
  }
  EXPECT_EQ(fast.at("roofline").at("step_bound"), fast.at("roofline").at("all").at("bound"));
  EXPECT_EQ(slow.at("roofline").at("step_bound"), "exchanges");
  // What somebody measured counts for more.
  const auto measured = PlanJson({Write(kTiny), "--ranks", "2", "--device", "cuda", "--roofline",
                                  "h100", "--step-seconds", "0.5"});
  EXPECT_NEAR(measured.at("communication").at("compute_seconds"), 2.0, 1e-9);
}

TEST_F(PlanProgramTest, Tf32IsPlannedForGpus) {
  const std::vector<std::string> on_gpu = {"--ranks", "1",          "--device",
                                           "cuda",    "--roofline", "h100"};
  std::string text = kTiny;
  const auto compute_seconds = [&] {
    std::vector<std::string> command = on_gpu;
    command.insert(command.begin(), Write(text));
    return PlanJson(command).at("roofline").at("all").at("compute_seconds").get<double>();
  };
  const double beside_tensor_cores = compute_seconds();
  text.replace(text.find("micro_batch"), 0, "matmul: tf32, ");
  EXPECT_LT(compute_seconds(), beside_tensor_cores / 3);
  Child on_cpu = Plan({Write(text), "--ranks", "1", "--device", "cpu"});
  EXPECT_EQ(on_cpu.Wait(), 2);
  EXPECT_THAT(on_cpu.Err(), HasSubstr("can't be computed on the CPU: train.matmul: tf32"));
  // It says enough to know where.
  EXPECT_EQ(PlanJson({Write(text), "--ranks", "1"}).at("device"), "cuda");
}

TEST_F(PlanProgramTest, ARooflineIsOfAGpuThatIsKnown) {
  const std::string job = Write(kTiny);
  Child on_cpu = Plan({job, "--roofline", "h100"});
  EXPECT_EQ(on_cpu.Wait(), 2);
  EXPECT_THAT(on_cpu.Err(), HasSubstr("--device cuda"));
  Child unknown = Plan({job, "--device", "cuda", "--roofline", "abacus"});
  EXPECT_EQ(unknown.Wait(), 2);
  EXPECT_THAT(unknown.Err(), HasSubstr("a100"));
}

TEST_F(PlanProgramTest, OffloadedStateIsOnDisk) {
  const std::string job = std::string(kTiny) + "parallel: {offload: disk, offload_dir: /scratch}\n";
  const auto plan = PlanJson({Write(job), "--ranks", "1"});
  // Three sets of AdamW's moments, and headers.
  const uint64_t moments = 8 * 28'000'000;
  EXPECT_GT(plan.at("memory").at("disk_state_bytes"), 3 * moments);
  EXPECT_LT(plan.at("memory").at("disk_state_bytes"), 3 * moments * 11 / 10);
  // Three checkpoints that are kept, of moments and weights, and the weights of another one.
  const uint64_t checkpoints = 3 * (moments + moments / 2) + moments / 2;
  EXPECT_GT(plan.at("memory").at("disk_checkpoint_bytes"), checkpoints);
  EXPECT_LT(plan.at("memory").at("disk_checkpoint_bytes"), checkpoints * 11 / 10);
  EXPECT_EQ(plan.at("step").at("disk_bytes_read"), plan.at("step").at("disk_bytes_written"));
  EXPECT_LT(plan.at("memory").at("classes").at("optimizer"), moments);
  Child text = Plan({Write(job), "--ranks", "1"});
  EXPECT_EQ(text.Wait(), 0) << text.Err();
  EXPECT_THAT(text.Out(), HasSubstr("its disk "));
  EXPECT_THAT(text.Out(), HasSubstr("of /scratch, and "));
  EXPECT_THAT(text.Out(), HasSubstr("(3 kept, one in the making); an update reads "));
  // Beside a GPU the buffers are there and on the host.
  const auto gpu = PlanJson({Write(job), "--ranks", "1", "--device", "cuda"});
  EXPECT_EQ(gpu.at("memory").at("disk_state_bytes"), plan.at("memory").at("disk_state_bytes"));
  EXPECT_EQ(gpu.at("memory").at("gpu_classes").at("optimizer"), 64 << 20);
  EXPECT_EQ(gpu.at("memory").at("classes").at("offloaded state"),
            plan.at("memory").at("classes").at("optimizer"));
}

TEST_F(PlanProgramTest, JsonHasTheWholePlan) {
  const auto plan = PlanJson({Write(kTiny), "--ranks", "4"});
  EXPECT_EQ(plan.at("architecture"), "swin_v2");
  EXPECT_EQ(plan.at("task"), "classification");
  EXPECT_EQ(plan.at("dtype"), "fp32");
  EXPECT_EQ(plan.at("accumulation"), "plain");
  EXPECT_EQ(plan.at("planned_ranks"), 4);
  EXPECT_EQ(plan.at("checkpointing"), nlohmann::json({"none", "none", "none", "none"}));
  EXPECT_EQ(plan.at("sequential_windows"), nlohmann::json({0, 0, 0, 0}));
  const auto& memory = plan.at("memory");
  size_t sum = 0;
  for (const auto& [name, bytes] : memory.at("classes").items()) sum += bytes.get<size_t>();
  EXPECT_EQ(memory.at("process_bytes"), sum);
  EXPECT_EQ(memory.at("classes").size(), 12u);
  EXPECT_EQ(memory.at("limit_bytes"), 0);
  EXPECT_TRUE(plan.at("ok"));
  EXPECT_TRUE(memory.at("fits"));
  const auto& step = plan.at("step");
  EXPECT_EQ(step.at("micro_batches"), 2);
  EXPECT_GT(step.at("matrix_flops").get<double>(), 5e11);
  EXPECT_GT(step.at("bytes_touched").get<double>(), 1e9);
  // 3/4 of 28 million gradients in float32.
  EXPECT_NEAR(step.at("bytes_sent").at("reduce_scatter").get<double>(), 28347154 * 3.0, 2e6);
  EXPECT_GE(plan.at("largest_micro_batch"), 0);
}

TEST_F(PlanProgramTest, LinksAreStatedInTheirUnits) {
  const std::string job = Write(kTiny);
  const auto plan = PlanJson({job, "--ranks", "4"});
  EXPECT_EQ(plan.at("links"), nlohmann::json({{"ranks_per_host", 1},
                                              {"link_gbit_per_s", 10.0},
                                              {"link_latency_us", 50.0},
                                              {"link_duplex", 0.55},
                                              {"host_gbyte_per_s", 5.0},
                                              {"host_latency_us", 2.0}}));
  const auto& communication = plan.at("communication");
  EXPECT_TRUE(communication.at("step_seconds").is_null());
  // 3/4 of 28 million gradients, and as many weights, in float32 over 0.55 of 1.25 GB/s.
  const double seconds = communication.at("communication_seconds");
  EXPECT_NEAR(seconds, 2 * 28347154 * 3.0 / 1.25e9 / 0.55, 0.01);
  EXPECT_NEAR(communication.at("host_bytes").at("sent").get<double>(), 2 * 28347154 * 3.0, 4e6);

  const auto slower =
      PlanJson({job, "--ranks", "4", "--ranks-per-host", "2", "--link-gbit-per-s", "1",
                "--link-latency-us", "100", "--link-duplex", "1", "--compute-gflops", "100"})
          .at("communication");
  const auto& rank = slower.at("rank_bytes");
  EXPECT_NEAR(rank.at("sent_within_host").get<double>(), 2 * 28347154 * 2.0, 4e6);
  EXPECT_NEAR(rank.at("sent_over_link").get<double>(), 2 * 28347154 * 1.0, 4e6);
  EXPECT_NEAR(slower.at("communication_seconds").get<double>(),
              2 * 28347154 * (2.0 / 5e9 + 2.0 / 0.125e9), 0.02);
  // By the rate of one micro-batch's step.
  const double compute = slower.at("compute_seconds");
  EXPECT_NEAR(compute, plan.at("step").at("matrix_flops").get<double>() / 1e11, 1e-6);
  const auto timed = PlanJson({job, "--ranks", "4", "--step-seconds", std::to_string(compute / 2)})
                         .at("communication");
  EXPECT_NEAR(timed.at("compute_seconds").get<double>(), compute, 1e-4);
  EXPECT_EQ(Plan({job, "--compute-gflops", "1", "--step-seconds", "1"}).Wait(), 2);
  EXPECT_EQ(Plan({job, "--link-gbit-per-s", "0"}).Wait(), 2);
}

TEST_F(PlanProgramTest, TextNamesWhatMatters) {
  Child plan = Plan({Write(std::string(kTiny) + "memory: {checkpointing: [block]}\n")});
  EXPECT_EQ(plan.Wait(), 0) << plan.Err();
  for (const char* part : {"swin_v2", "classification, 1000 classes", "fp32, accumulation plain",
                           "checkpointing block, sequential windows off", "activations",
                           "checkpoint copy", "process", "GFLOP", "reduce-scatter"}) {
    EXPECT_THAT(plan.Out(), HasSubstr(part));
  }
}

TEST_F(PlanProgramTest, TextTellsTheTimeOfAStep) {
  const std::string job = Write(std::string(kTiny) + "parallel: {overlap: false}\n");
  Child plan = Plan({job, "--ranks", "4", "--ranks-per-host", "2"});
  EXPECT_EQ(plan.Wait(), 0) << plan.Err();
  for (const char* part :
       {"in a host   2 ranks: 5 GB/s and 2 us; the rank sends ",
        "link        10 Gbit/s, 0.55 of it each way at once, 50 us\n            the rank sends ",
        "the busiest host sends ", "exchanges   take ",
        "step time   --compute-gflops, --step-seconds or --roofline"}) {
    EXPECT_THAT(plan.Out(), HasSubstr(part));
  }
  Child timed = Plan({job, "--ranks", "4", "--compute-gflops", "100"});
  EXPECT_EQ(timed.Wait(), 0) << timed.Err();
  EXPECT_THAT(timed.Out(), HasSubstr(" s (parallel.overlap is off)\n"));
  EXPECT_THAT(timed.Out(), Not(HasSubstr("in a host")));
}

TEST_F(PlanProgramTest, TextSaysWhichEvaluationAMicroBatchHasToFitBeside) {
  const std::string job = Write(kTiny);
  Child plan = Plan({job, "--memory", "200MiB"});
  EXPECT_EQ(plan.Wait(), 2);
  EXPECT_THAT(plan.Out(), HasSubstr("in 200.0 MiB: no micro-batch, with evaluations of 8 pictures "
                                    "(train.eval_batch)"));
  Child roomy = Plan({job, "--memory", "64GiB"});
  EXPECT_EQ(roomy.Wait(), 0) << roomy.Err();
  EXPECT_THAT(roomy.Out(), HasSubstr("in 64.0 GiB: a micro-batch of 64 at most"));
}

TEST_F(PlanProgramTest, CheckRefusesWhatDoesNotFitAndProposesWhatDoes) {
  const std::string job = Write(kTiny);
  EXPECT_EQ(Plan({job, "--check", "--memory", "20GiB", "--ranks", "1"}).Wait(), 0);
  Child check = Plan({job, "--check", "--memory", "1.5GiB", "--ranks", "1", "--json"});
  EXPECT_EQ(check.Wait(), 2);
  EXPECT_THAT(check.Err(), HasSubstr(job + ": a rank takes"));
  EXPECT_THAT(check.Err(), HasSubstr("more than 1.5 GiB"));
  EXPECT_THAT(check.Err(), HasSubstr("What would work: memory.checkpointing"));
  const auto said = nlohmann::json::parse(check.Out());
  EXPECT_FALSE(said.at("ok"));
  EXPECT_EQ(said.at("problems").size(), 1u);
  EXPECT_EQ(Plan({job, "--memory", "lots"}).Wait(), 2);
}

TEST_F(PlanProgramTest, WhatDoesNotFitIsPlannedButNeverSaidToRun) {
  const std::string job = Write(kTiny);
  Child text = Plan({job, "--memory", "1.5GiB", "--ranks", "1"});
  EXPECT_EQ(text.Wait(), 2);
  EXPECT_THAT(text.Out(), StartsWith(job + " does not fit\n"));
  EXPECT_THAT(text.Out(), Not(HasSubstr("can run")));
  EXPECT_THAT(text.Out(), HasSubstr(", which does not fit"));
  EXPECT_THAT(text.Err(), HasSubstr("What would work: memory.checkpointing"));
  Child json = Plan({job, "--memory", "1.5GiB", "--ranks", "1", "--json"});
  EXPECT_EQ(json.Wait(), 2);
  const auto plan = nlohmann::json::parse(json.Out());
  EXPECT_FALSE(plan.at("ok"));
  EXPECT_EQ(plan.at("problems").size(), 1u);
  EXPECT_FALSE(plan.at("memory").at("fits"));
  EXPECT_GT(plan.at("memory").at("process_bytes"), plan.at("memory").at("limit_bytes"));

  Child fits = Plan({job, "--memory", "20GiB", "--ranks", "1"});
  EXPECT_EQ(fits.Wait(), 0);
  EXPECT_THAT(fits.Out(), StartsWith(job + " can run\n"));
  Child help = Plan({"--help"});
  EXPECT_EQ(help.Wait(), 0);
  EXPECT_THAT(help.Out(), HasSubstr("Exit codes: 0 it can run"));
}

TEST_F(PlanProgramTest, BudgetChoosesOrRefuses) {
  const std::string job = Write(std::string(kTiny) + "memory: {budget: 1500MiB}\n");
  const auto plan = PlanJson({job, "--ranks", "1"});
  EXPECT_TRUE(plan.at("memory").at("fits"));
  EXPECT_NE(plan.at("checkpointing"), nlohmann::json({"none", "none", "none", "none"}));
  EXPECT_EQ(plan.at("memory").at("limit_bytes"), int64_t{1500} << 20);
  Child text = Plan({job, "--ranks", "1"});
  EXPECT_EQ(text.Wait(), 0);
  EXPECT_THAT(text.Out(), HasSubstr("chosen by   memory.budget 1.5 GiB: memory.checkpointing"));
  Child small = Plan({Write(std::string(kTiny) + "memory: {budget: 300MiB}\n"), "--check"});
  EXPECT_EQ(small.Wait(), 2);
  EXPECT_THAT(small.Err(), HasSubstr("memory.budget 300.0 MiB is below the least"));
}

TEST_F(PlanProgramTest, WithoutRanksTheJobMayHaveAsManyAsItNeeds) {
  const std::string job = Write(kTiny);
  // Gradients and moments of one rank alone are too much.
  EXPECT_EQ(Plan({job, "--check", "--memory", "1300MiB", "--ranks", "1"}).Wait(), 2);
  const auto plan = PlanJson({job, "--check", "--memory", "1300MiB"});
  EXPECT_EQ(plan.at("ranks"), 0);
  EXPECT_GT(plan.at("planned_ranks"), 1);
}

TEST_F(PlanProgramTest, TheGiantModelIsPlannedInLittleMemory) {
  const std::string job = Write(
      "run_dir: /r\ndata: {path: /d}\nmodel: {preset: swinv2_giant_window12to40_192to640}\n"
      "train: {micro_batch: 1, global_batch: 64, eval_batch: 1, dtype: bf16}\n"
      "memory: {budget: 60GiB}\n");
  const auto plan = PlanJson({job, "--ranks", "64"});
  EXPECT_GT(plan.at("parameters"), int64_t{2'900'000'000});
  EXPECT_TRUE(plan.at("memory").at("fits"));
#if !defined(__SANITIZE_ADDRESS__)
  rusage usage;
  ASSERT_EQ(getrusage(RUSAGE_CHILDREN, &usage), 0);
  EXPECT_LT(usage.ru_maxrss, 150 << 10);
#endif
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_F(PlanProgramTest, BenchMemoryMeasuresWhatWasPlanned) {
  const std::string rows = Write(
      "# MODEL BATCH DTYPE CHECKPOINTING SEQUENTIAL\n"
      "swinv2_tiny_window8_256 1 fp32 block 16  # all of it\n",
      "rows");
  Child bench({Program("bench"), "memory", "--rows", rows, "--threads", "2"}, folder_);
  // It fails when a row is more than 5% + 150 MB off.
  EXPECT_EQ(bench.Wait(110), 0) << bench.Err();
  EXPECT_THAT(bench.Out(), HasSubstr("| swinv2_tiny_window8_256 | 1 | fp32 | block | 16 |"));
  Child planned({Program("bench"), "memory", "--rows", rows, "--plan-only"}, folder_);
  EXPECT_EQ(planned.Wait(), 0) << planned.Err();
  EXPECT_THAT(planned.Out(), HasSubstr("| gradients | optimizer |"));
}
#endif

TEST_F(PlanProgramTest, BenchMemoryRefusesBadRows) {
  for (const char* line :
       {"swinv2_tiny_window8_256 8 fp32 none", "nosuch 8 fp32 none 0",
        "swinv2_tiny_window8_256 8 fp8 none 0", "swinv2_tiny_window8_256 0 fp32 none 0",
        "swinv2_tiny_window8_256 8 fp32 all 0"}) {
    Child bench({Program("bench"), "memory", "--rows", Write(line, "rows")}, folder_);
    EXPECT_EQ(bench.Wait(), 2) << line;
    EXPECT_THAT(bench.Err(), Not(HasSubstr("Check failed")));
  }
  Child none({Program("bench"), "memory", "--rows", folder_ + "/none"}, folder_);
  EXPECT_EQ(none.Wait(), 2);
}

// The cells of the table's row that begins with `head`.
std::vector<std::string> Cells(const std::string& table, const std::string& head) {
  const size_t begin = table.find(head);
  if (begin == std::string::npos) return {};
  std::istringstream row(table.substr(begin, table.find('\n', begin) - begin));
  std::vector<std::string> cells;
  for (std::string cell; std::getline(row, cell, '|');) cells.push_back(cell);
  return cells;
}

TEST_F(PlanProgramTest, BenchPlansTheLargeModelsInEveryWay) {
  Child bench({Program("bench"), "memory", "--plan-only"}, folder_);
  // The first row is enough.
  const std::string row = "| swinv2_huge_window12_192 | 1 | fp32 |";
  ASSERT_TRUE(bench.WaitForOut(row)) << bench.Err();
  const auto head = Cells(bench.Out(), "| model |"), huge = Cells(bench.Out(), row);
  ASSERT_EQ(huge.size(), head.size());
  const auto at = [&](const std::string& way) {
    const auto cell = std::ranges::find(head, " " + way + " ");
    return cell == head.end() ? 0 : std::stod(huge[cell - head.begin()]);
  };
  // Each saves something, or too little for this column's digits.
  for (const char* way : {"none", "selective", "block"}) {
    EXPECT_GT(at(std::string(way) + ", sequential"), 18) << way;
    EXPECT_LE(at(std::string(way) + ", sequential"), at(way)) << way;
  }
}

TEST_F(PlanProgramTest, BenchAccumulationComparesTheForms) {
  Child bench(
      {Program("bench"), "accumulation", "--batch", "1", "--micro-batches", "2", "--threads", "1"},
      folder_);
  EXPECT_EQ(bench.Wait(110), 0) << bench.Err();
  const auto plain = Cells(bench.Out(), "| fp32 | plain |");
  const auto split = Cells(bench.Out(), "| fp32 | split |");
  const auto low = Cells(bench.Out(), "| fp32 | low_precision |");
  for (const auto& form : {plain, split, low}) {
    ASSERT_EQ(form.size(), 14u) << bench.Out();
    double classes = 0;
    for (int i = 3; i < 8; ++i) classes += std::stod(form[i]);
    EXPECT_NEAR(classes, std::stod(form[8]), 0.4);
#if !defined(__SANITIZE_ADDRESS__)
    // What else a step allocates is small.
    EXPECT_GT(std::stod(form[9]), 0.98 * std::stod(form[8])) << bench.Out();
    EXPECT_LT(std::stod(form[9]), std::stod(form[8]) + 60) << bench.Out();
#endif
  }
  // Weights, and AdamW's moments, of 28 million parameters.
  EXPECT_NEAR(std::stod(plain[3]), 28.35e6 * 4 / (1 << 20), 2);
  EXPECT_NEAR(std::stod(plain[5]), 28.35e6 * 8 / (1 << 20), 4);
  // Two micro-batches on one rank: plain waits with two sums. All of a rank's own: none is sent.
  EXPECT_GT(std::stod(plain[4]), 1.4 * std::stod(low[4]));
  EXPECT_EQ(std::stod(plain[10]), 0);
  EXPECT_LT(std::stod(plain[12]), 1e-6);
  EXPECT_EQ(plain[12], split[12]);
  EXPECT_GT(std::stod(low[12]), 1e-4);
  EXPECT_LT(std::stod(low[12]), 1e-2);
}

TEST_F(PlanProgramTest, BenchRefusesWhatCanNotBePretrained) {
  const auto refused = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {Program("bench"), "step", "--steps", "1"});
    Child bench(options, folder_);
    EXPECT_EQ(bench.Wait(), 2);
    return bench.Err();
  };
  EXPECT_THAT(refused({"--pretrain", "beit"}), HasSubstr("simmim mae greenmim"));
  EXPECT_THAT(refused({"--pretrain", "mae"}), HasSubstr("pretrain.method mae"));
  EXPECT_THAT(refused({"--pretrain", "simmim", "--mask-ratio", "1"}),
              HasSubstr("pretrain.mask_ratio"));
}

// A job that trains in moments.
constexpr char kSmallJob[] =
    "run_dir: /nowhere\ndata:\n  path: /nowhere\n"
    "model:\n  image_size: 16\n  in_chans: 1\n  num_classes: 4\n  patch_size: 2\n"
    "  embed_dim: 8\n  depths: [1, 1]\n  num_heads: [2, 4]\n  window_size: 4\n"
    "  drop_path_rate: 0\n"
    "memory:\n  checkpointing: [block, none]\n"
    "train:\n  epochs: 2\n  global_batch: 16\n  micro_batch: 4\n";

TEST_F(PlanProgramTest, BenchProfilesAStepOfAJobFile) {
  const std::string job = Write(kSmallJob), trace_file = folder_ + "/trace.json";
  Child bench({Program("bench"), "step", "--job", job, "--steps", "2", "--profile", "--trace",
               trace_file, "--json"},
              folder_);
  ASSERT_EQ(bench.Wait(110), 0) << bench.Err();
  EXPECT_THAT(bench.Out(), HasSubstr(job + ", batch 4, fp32, checkpointing [block, none]"));
  EXPECT_THAT(bench.Out(), HasSubstr("| linear_forward "));
  EXPECT_THAT(bench.Out(), HasSubstr("| stage 0 blocks mlp, backward "));
  EXPECT_THAT(bench.Out(), HasSubstr("\nfixed cost of a step, outside of operations: "));
  EXPECT_THAT(bench.Out(), HasSubstr("\nfixed cost of a call, on one element: "));

  const std::string& out = bench.Out();
  const auto figures = nlohmann::json::parse(out.substr(out.rfind("\n{") + 1));
  const auto& profile = figures.at("profile");
  double flops = 0;
  for (const auto& row : profile.at("operations")) flops += row.at("matrix_flops").get<double>();
  EXPECT_DOUBLE_EQ(flops, 1e9 * figures.at("gemm_gflop").get<double>());
  double of_modules = 0;
  for (const auto& row : profile.at("modules")) of_modules += row.at("matrix_flops").get<double>();
  EXPECT_DOUBLE_EQ(of_modules, flops);

  const auto trace = nlohmann::json::parse(ReadAll(trace_file));
  int64_t calls = 0;
  bool again = false;
  for (const auto& event : trace.at("traceEvents")) {
    EXPECT_EQ(event.at("ph"), "X");
    EXPECT_GE(event.at("dur").get<double>(), 0);
    again = again || event.at("name") == "again";
    if (event.at("cat") != "op") continue;
    ++calls;
    const auto& args = event.at("args");
    EXPECT_GT(args.at("bytes").get<double>(), 0) << event;
    EXPECT_FALSE(args.at("tensors").empty()) << event;
    EXPECT_FALSE(args.at("pass").get<std::string>().empty()) << event;
  }
  EXPECT_EQ(calls, profile.at("calls"));
  EXPECT_TRUE(again) << "no block was computed again";
}

TEST_F(PlanProgramTest, BenchRefusesAJobFileThatItCanNotUse) {
  const auto refused = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {Program("bench"), "step", "--steps", "1", "--job"});
    Child bench(options, folder_);
    EXPECT_EQ(bench.Wait(), 2);
    return bench.Err();
  };
  EXPECT_THAT(refused({folder_ + "/none.yaml"}), HasSubstr("none.yaml"));
  const std::string job = Write(kSmallJob);
  EXPECT_THAT(refused({job, "--dtype", "bf16"}), HasSubstr("--dtype excludes --job"));
  EXPECT_THAT(refused({job, "--trace", folder_ + "/none/trace.json"}),
              HasSubstr("can't write the trace"));
}

}  // namespace
}  // namespace swinfleet
