// What swinfleet-bench's commands share: training steps on random pictures.
#ifndef SWINFLEET_WORKER_BENCH_BENCH_H_
#define SWINFLEET_WORKER_BENCH_BENCH_H_

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/loader.h"
#include "kernels/profile.h"
#include "worker/memory_plan.h"

namespace swinfleet::bench {

// What is trained, as the command line and files of rows name it.
struct Setting {
  // A preset's name.
  std::string model = "swinv2_tiny_window8_256";
  int64_t batch = 8;
  // "fp32", "bf16" or "fp16".
  std::string dtype = "fp32";
  // "fp32" or "tf32".
  std::string matmul = "fp32";
  // "none", "selective" or "block".
  std::string checkpointing = "none";
  // Windows in a group of sequential attention; 0: all at once.
  int64_t sequential = 0;
  int threads = 1;
  bool allow_emulation = false;
  // "simmim", "mae" or "greenmim", for models as `model` names them; empty: classification.
  std::string pretrain;
  double mask_ratio = 0.75;
  // None: the preset's, of the published recipe.
  std::optional<double> drop_path_rate;
};

// Adds the options of a setting to a command.
void AddSettingOptions(CLI::App* command, Setting* setting);

// A job file can't be named together with the options that describe a job.
void ExcludeJobOptions(CLI::App* command, CLI::Option* job_file);

// A job that trains it. Throws Error for unknown names, and for a model that can't be built.
JobConfig MakeJob(const Setting& setting);
// The job of a file, for so many ranks; 0: for any number. Throws Error with all that is wrong.
JobConfig LoadJob(const std::string& path, int64_t ranks = 0);
// Throws Error, naming the file, unless it can still be written.
void CheckTrace(const std::string& path, const std::ofstream& trace);

struct StepFigures {
  // Of the steps after the first. On the CPU a step's time is that at the mean of their work, which
  // differs where drop path leaves out pictures: so none is the best by what it left out.
  double best_seconds = 0;
  double median_seconds = 0;
  // Of the step in `profile`.
  double profiled_seconds = 0;
  // Of the steps' mean; on a GPU of one that drops nothing.
  double matrix_flops = 0;
  // The process's largest resident size, and what was planned for it.
  size_t peak_bytes = 0;
  size_t planned_bytes = 0;
  // Of a GPU's memory.
  size_t gpu_bytes = 0;
};

// Whole steps as a job takes them, in this process: forward, loss, backward, norm, clipping,
// update. Throws Error for a dtype that the processor would emulate, unless the job allows it. With
// a profile as many steps again are recorded after them, and the record of the one that is fastest
// for its work is kept, finished. With drop path on the CPU all steps are taken once more, for how
// much work each is. On the GPU if there is one.
StepFigures TimeSteps(const JobConfig& job, int steps, Profile* profile = nullptr,
                      Accelerator* gpu = nullptr);
// What a rank's steps take by themselves: no evaluation, no checkpoints, no loader.
MemoryPlan PlanSteps(const JobConfig& job, int rank = 0, int ranks = 1,
                     Device device = Device::kCpu);

double SecondsOf(const std::function<void()>& work);

// `count` pictures (and masks) that are noise, drawn from stream `stream`.
Batch RandomBatch(const JobConfig& job, int64_t count, uint64_t stream);

// Each adds a command to `app`; its callback runs it.
void AddStepCommand(CLI::App* app);
void AddInferenceCommand(CLI::App* app);
void AddDataCommand(CLI::App* app);
void AddMemoryCommands(CLI::App* app, const std::string& program);
void AddAccumulationCommand(CLI::App* app);
void AddRanksCommand(CLI::App* app);
void AddCollectivesCommand(CLI::App* app);
void AddOffloadCommand(CLI::App* app);

}  // namespace swinfleet::bench

#endif  // SWINFLEET_WORKER_BENCH_BENCH_H_
