// swinfleet-bench memory: what training takes, measured beside what is planned, as a table.
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "kernels/error.h"
#include "worker/bench/bench.h"
#include "worker/exit_codes.h"
#include "worker/memory_budget.h"

namespace swinfleet::bench {
namespace {

// A plan may be off by this share of what was measured, and this much more.
constexpr double kShareOff = 0.05;
constexpr double kBytesOff = 150e6;

struct MemoryCommand {
  std::string program;
  std::string rows_file;
  int steps = 2;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool plan_only = false;
};

double MiB(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
double GiB(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

// ---- Rows ----

// Windows of about 1024 tokens together, which is where groups stop to save much.
struct MeasuredModel {
  const char* name;
  int64_t batch;
  int64_t group;
};
constexpr MeasuredModel kMeasured[] = {{"swinv2_tiny_window8_256", 8, 16},
                                       {"swinv2_base_window8_256", 4, 16},
                                       {"swinv2_large_window12_192", 2, 8}};

std::vector<Setting> BuiltInRows() {
  std::vector<Setting> rows;
  for (const MeasuredModel& model : kMeasured) {
    for (const char* dtype : {"fp32", "bf16"}) {
      for (const int64_t group : {int64_t{0}, model.group}) {
        for (const char* checkpointing : {"none", "selective", "block"}) {
          Setting& row = rows.emplace_back();
          row.model = model.name;
          row.batch = model.batch;
          row.dtype = dtype;
          row.checkpointing = checkpointing;
          row.sequential = group;
        }
      }
    }
  }
  return rows;
}

// Lines of MODEL BATCH DTYPE CHECKPOINTING SEQUENTIAL; "#" begins a comment.
std::vector<Setting> ReadRows(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error("can't read " + path + ": " + std::strerror(errno));
  std::vector<Setting> rows;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    std::istringstream text(line.substr(0, line.find('#')));
    Setting row;
    std::string rest;
    if (!(text >> row.model)) continue;
    if (!(text >> row.batch >> row.dtype >> row.checkpointing >> row.sequential) || text >> rest ||
        row.batch < 1 || row.sequential < 0) {
      throw Error(path + ", line " + std::to_string(number) +
                  ": write MODEL BATCH DTYPE CHECKPOINTING SEQUENTIAL, as"
                  " \"swinv2_tiny_window8_256 8 bf16 block 16\"");
    }
    // Unknown names are found before the first row is run.
    MakeJob(row);
    rows.push_back(row);
  }
  return rows;
}

// ---- Measured ----

std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// Runs the row in a process of its own, whose largest size is the row's. Throws Error when it
// fails.
nlohmann::json Measure(const MemoryCommand& command, const Setting& row) {
  const std::string line =
      Quoted(command.program) + " memory-row --model " + Quoted(row.model) + " --batch " +
      std::to_string(row.batch) + " --dtype " + row.dtype + " --checkpointing " +
      row.checkpointing + " --sequential " + std::to_string(row.sequential) + " --threads " +
      std::to_string(row.threads) + " --steps " + std::to_string(command.steps) +
      (row.allow_emulation ? " --allow-emulation" : "");
  FILE* pipe = popen(line.c_str(), "r");
  if (pipe == nullptr) throw Error("can't run " + line + ": " + std::strerror(errno));
  std::string output;
  char buffer[4096];
  while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, size);
  const int status = pclose(pipe);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != kExitSuccess) {
    throw Error(line + " ended with status " + std::to_string(status));
  }
  return nlohmann::json::parse(output);
}

void PrintMeasuredHead(const MemoryCommand& command) {
  std::printf("MiB; %d threads, %s; the best of %d steps after the first.\n\n", command.threads,
              CpuInstructionSet(), command.steps - 1);
  std::printf(
      "| model | batch | dtype | checkpointing | sequential | activations | workspace | planned | "
      "measured | off | step, s |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
}

// Whether the plan is as good as it has to be.
bool PrintMeasured(const Setting& row, const nlohmann::json& figures) {
  const MemoryPlan plan = PlanSteps(MakeJob(row));
  const auto peak = figures.at("peak_bytes").get<size_t>();
  const auto planned = figures.at("planned_bytes").get<size_t>();
  const double off = static_cast<double>(planned) - static_cast<double>(peak);
  const bool good = std::abs(off) <= kShareOff * static_cast<double>(peak) + kBytesOff;
  std::printf("| %s | %" PRId64
              " | %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %+.1f%%%s | %.2f |\n",
              row.model.c_str(), row.batch, row.dtype.c_str(), row.checkpointing.c_str(),
              row.sequential == 0 ? "off" : std::to_string(row.sequential).c_str(),
              MiB(plan.memory.activations.high_water()), MiB(plan.memory.workspace.high_water()),
              MiB(planned), MiB(peak), 100 * off / static_cast<double>(peak),
              good ? "" : " (too far)", figures.at("step_s").get<double>());
  std::fflush(stdout);
  return good;
}

void RunMeasured(const MemoryCommand& command, std::vector<Setting> rows) {
  PrintMeasuredHead(command);
  int failed = 0;
  for (Setting& row : rows) {
    row.threads = command.threads;
    // What is measured is memory; the time of emulated numbers is theirs.
    row.allow_emulation = true;
    if (!PrintMeasured(row, Measure(command, row))) ++failed;
  }
  if (failed > 0) {
    throw Error(std::to_string(failed) + " rows are planned worse than within 5% + 150 MB");
  }
}

// ---- Planned ----

constexpr const char* kPlanned[] = {"swinv2_huge_window12_192",
                                    "swinv2_huge_window12to40_192to640",
                                    "swinv2_huge_window12to32_192to1024",
                                    "swinv2_huge_window12to32_192to1536",
                                    "swinv2_giant_window12_192",
                                    "swinv2_giant_window12to40_192to640",
                                    "swinv2_giant_window12to32_192to1024",
                                    "swinv2_giant_window12to32_192to1536"};

// A whole worker's process, on the busiest of `ranks` ranks, with a micro-batch a rank.
size_t PlannedBytes(const Setting& setting, int ranks) {
  JobConfig job = MakeJob(setting);
  job.train.global_batch = job.train.micro_batch * ranks;
  return PlanMemory(job, BusiestRank(job, ranks), ranks).PredictedProcessBytes();
}

// Groups of one window: sequential attention as the paper describes it.
void PrintPlannedRow(const char* model, int ranks, const char* dtype, int threads) {
  Setting setting;
  setting.model = model;
  setting.batch = 1;
  setting.dtype = dtype;
  setting.threads = threads;
  const auto cell = [&](const char* checkpointing, int64_t sequential) {
    setting.checkpointing = checkpointing;
    setting.sequential = sequential;
    return GiB(PlannedBytes(setting, ranks));
  };
  std::printf("| %s | %d | %s | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", model, ranks, dtype,
              cell("none", 0), cell("none", 1), cell("selective", 0), cell("selective", 1),
              cell("block", 0), cell("block", 1));
  std::fflush(stdout);
}

void RunPlanned(const MemoryCommand& command) {
  std::printf(
      "GiB a rank: the whole process, with a micro-batch of 1, ZeRO stage 1, AdamW, asynchronous"
      " checkpoints, %d threads. Sequential: one window at a time.\n\n"
      "| model | ranks | dtype | none | none, sequential | selective | selective, sequential | "
      "block | block, sequential |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      command.threads);
  for (const char* model : kPlanned) {
    for (const int ranks : {1, 64}) {
      for (const char* dtype : {"fp32", "bf16"}) {
        PrintPlannedRow(model, ranks, dtype, command.threads);
      }
    }
  }
}

// The classes of each row's plan.
void RunPlannedRows(const MemoryCommand& command, std::vector<Setting> rows) {
  std::printf("MiB, planned for training steps alone; %d threads.\n\n", command.threads);
  std::printf("| model | batch | dtype | checkpointing | sequential |");
  const MemoryPlan empty;
  for (const auto& [name, bytes] : empty.Classes()) std::printf(" %s |", name.c_str());
  std::printf(" process |\n|%s\n",
              [&] {
                std::string line;
                for (size_t i = 0; i < empty.Classes().size() + 6; ++i) line += " --- |";
                return line;
              }()
                  .c_str());
  for (Setting& row : rows) {
    row.threads = command.threads;
    const MemoryPlan plan = PlanSteps(MakeJob(row));
    std::printf("| %s | %" PRId64 " | %s | %s | %s |", row.model.c_str(), row.batch,
                row.dtype.c_str(), row.checkpointing.c_str(),
                row.sequential == 0 ? "off" : std::to_string(row.sequential).c_str());
    for (const auto& [name, bytes] : plan.Classes()) std::printf(" %.0f |", MiB(bytes));
    std::printf(" %.0f |\n", MiB(plan.PredictedProcessBytes()));
  }
}

void RunMemory(const MemoryCommand& command) {
  if (command.rows_file.empty()) {
    return command.plan_only ? RunPlanned(command) : RunMeasured(command, BuiltInRows());
  }
  const std::vector<Setting> rows = ReadRows(command.rows_file);
  return command.plan_only ? RunPlannedRows(command, rows) : RunMeasured(command, rows);
}

struct RowCommand {
  Setting setting;
  int steps = 2;
};

void RunRow(const RowCommand& command) {
  const StepFigures figures = TimeSteps(MakeJob(command.setting), command.steps);
  std::cout << nlohmann::json{{"peak_bytes", figures.peak_bytes},
                              {"planned_bytes", figures.planned_bytes},
                              {"step_s", figures.best_seconds}}
                   .dump()
            << std::endl;
}

}  // namespace

void AddMemoryCommands(CLI::App* app, const std::string& program) {
  const auto command = std::make_shared<MemoryCommand>();
  command->program = program;
  CLI::App* memory = app->add_subcommand(
      "memory", "what training takes beside what is planned, as a Markdown table");
  memory->add_option("--rows", command->rows_file,
                     "a file of lines MODEL BATCH DTYPE CHECKPOINTING SEQUENTIAL, in place of the "
                     "rows of docs/memory.md");
  memory->add_option("--steps", command->steps, "steps of a row")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  memory->add_option("--threads", command->threads, "threads of the kernels")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  memory->add_flag("--plan-only", command->plan_only,
                   "plan, without running: the huge and giant models, or the rows of the file");
  memory->callback([command] { RunMemory(*command); });

  const auto row = std::make_shared<RowCommand>();
  // Not for people: what `memory` runs.
  CLI::App* memory_row = app->add_subcommand("memory-row", "one row, as JSON")->group("");
  AddSettingOptions(memory_row, &row->setting);
  memory_row->add_option("--steps", row->steps, "steps")->check(CLI::Range(1, 1000));
  memory_row->callback([row] { RunRow(*row); });
}

}  // namespace swinfleet::bench
