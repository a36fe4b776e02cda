// swinfleet-plan: whether a job can run, what it consists of and what it takes, without running it.
// Data paths are not looked at: only the workers can see them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <bit>
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/names.h"
#include "core/nn/model.h"
#include "kernels/error.h"
#include "worker/communication_plan.h"
#include "worker/compute_device.h"
#include "worker/config_from_proto.h"
#include "worker/exit_codes.h"
#include "worker/job_file.h"
#include "worker/logging.h"
#include "worker/memory_budget.h"
#include "worker/memory_plan.h"
#include "worker/model_json.h"
#include "worker/program.h"
#include "worker/roofline.h"

namespace swinfleet {
namespace {

// What lies between ranks, and how fast one computes, in the units of the command line.
struct LinkArguments {
  int ranks_per_host = 1;
  double link_gbit_per_s = 10;
  double link_latency_us = 50;
  double link_duplex = Links().link_duplex;
  double host_gbyte_per_s = 5;
  double host_latency_us = 2;
  // One of both, or neither: 0.
  double compute_gflops = 0;
  double step_seconds = 0;

  Links Stated() const {
    return {.ranks_per_host = ranks_per_host,
            .host_bytes_per_second = 1e9 * host_gbyte_per_s,
            .host_latency_seconds = 1e-6 * host_latency_us,
            .link_bytes_per_second = 1e9 / 8 * link_gbit_per_s,
            .link_latency_seconds = 1e-6 * link_latency_us,
            .link_duplex = link_duplex};
  }
};

struct Arguments {
  std::string job_file;
  std::string memory;
  int64_t ranks = 0;
  bool check = false;
  bool json = false;
  // "cpu", "cuda", or nothing, which is what the job can be computed on (the CPU, if it can).
  std::string device;
  // One of KnownGpus(), or nothing.
  std::string roofline;
  double launch_us = 3;
  LinkArguments links;
};

// The job, as it would run.
struct Planned {
  JobConfig config;
  std::unique_ptr<Model> model;
  Device device = Device::kCpu;
  // 0: whatever the fleet has.
  int64_t ranks = 0;
  // The number that the plan is for.
  int planned_ranks = 1;
  // Of one rank; 0: none was given.
  size_t limit = 0;
  // What memory.budget led to, for people.
  std::string choice;
  MemoryPlan plan;
  // Not made by --check.
  CommunicationPlan communication;
  // With --roofline.
  const GpuLimits* gpu = nullptr;
  Roofline roofline;
  // The bound that the largest micro-batch keeps, and that; not looked for by --check.
  size_t micro_batch_limit = 0;
  int64_t largest_micro_batch = 0;

  const ParameterTable& table() const { return model->parameters(); }
  bool Fits() const { return limit == 0 || plan.LimitedBytes() <= limit; }
};

// Parameters of a unit, without what lies between them for alignment.
int64_t ElementsOf(const ParameterTable& table, const Unit& unit) {
  int64_t elements = 0;
  for (const int parameter : unit.parameters) elements += table.parameters()[parameter].size();
  return elements;
}

int PrintProblems(const Arguments& arguments, const std::vector<std::string>& problems) {
  std::cerr << JoinLines(problems) << std::endl;
  if (arguments.json) {
    std::cout << nlohmann::json{{"ok", false}, {"problems", problems}}.dump() << std::endl;
  }
  return kExitUsage;
}

// What the model is trained for.
std::string TaskName(const PretrainConfig& pretrain) {
  return pretrain.on() ? NameIn(PretrainMethodNames(), pretrain.method) : "classification";
}

// ---- The plan ----

// The bound on a rank's memory: the tighter one of the job's and the command line's.
size_t LimitOf(const Arguments& arguments, const JobConfig& config) {
  int64_t limit = 0;
  if (!arguments.memory.empty() && !ParseBytes(arguments.memory, &limit)) {
    throw CLI::ValidationError("--memory", "write a size above 0 such as 24GiB or 800MiB");
  }
  if (config.memory.budget > 0 && (limit == 0 || config.memory.budget < limit)) {
    limit = config.memory.budget;
  }
  return static_cast<size_t>(limit);
}

// Of a rank, by --compute-gflops or by a step of one micro-batch, which may be a roofline's; 0: not
// known.
double FlopsPerSecond(const LinkArguments& links, const Planned& job) {
  if (links.compute_gflops > 0) return 1e9 * links.compute_gflops;
  const double seconds = links.step_seconds > 0 ? links.step_seconds : job.roofline.all.seconds;
  if (seconds == 0) return 0;
  return job.plan.step.matrix_flops / static_cast<double>(job.plan.leaves) / seconds;
}

// What keeps a step from being faster, of one that has a roofline.
std::string StepBound(const Planned& job) {
  const CommunicationPlan& plan = job.communication;
  if (plan.time.has_value() && plan.communication_seconds > plan.time->compute_seconds) {
    return "exchanges";
  }
  return NameOf(job.roofline.all.bound());
}

// What it is planned for. Throws Error when it can't be computed there.
Device DeviceOf(const Arguments& arguments, const JobConfig& config) {
  const std::string not_cpu = WhyNotOnCpu(config);
  if (arguments.device == "cuda" || (arguments.device.empty() && !not_cpu.empty())) {
    const std::string problem = WhyNotOnGpu(config);
    if (!problem.empty()) throw Error("this job can't be computed on GPUs: " + problem);
    return Device::kCuda;
  }
  if (!not_cpu.empty()) throw Error("this job can't be computed on the CPU: " + not_cpu);
  return Device::kCpu;
}

// Plans the job, for the ranks it is to have: for one when nobody says how many, or for as many as
// it takes to fit. Throws Error when its budget is too small.
void PlanJob(const Arguments& arguments, Planned* job) {
  JobConfig& config = job->config;
  job->device = DeviceOf(arguments, config);
  const bool gpu = job->device == Device::kCuda;
  const PlanOptions options = {.device = job->device, .data = {}};
  if (!gpu && !arguments.roofline.empty()) throw Error("--roofline needs --device cuda");
  job->ranks = config.parallel.ranks > 0 ? config.parallel.ranks : arguments.ranks;
  job->limit = LimitOf(arguments, config);
  if (config.memory.budget > 0) config.memory.budget = static_cast<int64_t>(job->limit);
  if (job->ranks > 0) {
    job->planned_ranks = static_cast<int>(job->ranks);
  } else if (job->limit > 0) {
    const int64_t most = std::min<int64_t>(config.train.micro_batches(), kMostRanks);
    job->planned_ranks =
        FewestRanks(config, job->limit, options)
            .value_or(static_cast<int>(std::bit_floor(static_cast<uint64_t>(most))));
  }
  job->micro_batch_limit = job->limit > 0 || gpu ? job->limit : MachineBytes();
  if (!arguments.check && job->micro_batch_limit > 0) {
    job->largest_micro_batch =
        LargestMicroBatch(config, job->planned_ranks, job->micro_batch_limit, options);
  }
  job->choice = ResolveBudget(&config, job->planned_ranks);
  const int rank = BusiestRank(config, job->planned_ranks);
  job->plan = PlanMemory(config, rank, job->planned_ranks, options);
  const auto known = std::ranges::find(KnownGpus(), arguments.roofline, &GpuLimits::name);
  if (!arguments.check && known != KnownGpus().end()) {
    job->gpu = &*known;
    job->roofline =
        RooflineOf(config, rank, job->planned_ranks, *known, 1e-6 * arguments.launch_us);
  }
  if (!arguments.check) {
    job->communication =
        PlanCommunication(config, rank, job->planned_ranks, arguments.links.Stated(),
                          FlopsPerSecond(arguments.links, *job), job->device);
  }
  // Builds the table of parameters; no memory is reserved for them.
  job->model = MakeModel(config.model, config.pretrain, config.memory);
}

std::string WhyNot(const Planned& job) {
  const bool gpu = job.plan.memory.device == Device::kCuda;
  std::string text = "a rank takes " + BytesText(job.plan.LimitedBytes()) +
                     (gpu ? " of its GPU" : "") + " (on " + std::to_string(job.planned_ranks) +
                     (job.planned_ranks == 1 ? " rank" : " ranks") + "), which is more than " +
                     BytesText(job.limit);
  // The changes that are known are for the host's memory.
  if (gpu) return text;
  std::string works;
  for (const std::string& change : WhatWouldFit(job.config, job.planned_ranks, job.limit)) {
    works += (works.empty() ? ". What would work: " : "; or ") + change;
  }
  return text + (works.empty() ? ", and none of the changes that were tried would help" : works);
}

// ---- JSON ----

nlohmann::json DescribeMemory(const Planned& job) {
  nlohmann::json classes, gpu_classes = nlohmann::json::object();
  for (const auto& [name, bytes] : job.plan.Classes()) classes[name] = bytes;
  for (const auto& [name, bytes] : job.plan.GpuClasses()) gpu_classes[name] = bytes;
  return {{"classes", classes},
          {"gpu_classes", gpu_classes},
          {"gpu_bytes", job.plan.memory.DeviceHighWater()},
          {"disk_state_bytes", job.plan.disk.state},
          {"disk_checkpoint_bytes", job.plan.disk.Checkpoints(job.config.checkpoint.keep_last)},
          {"process_bytes", job.plan.PredictedProcessBytes()},
          {"limit_bytes", job.limit},
          {"fits", job.Fits()}};
}

nlohmann::json DescribeStep(const MemoryPlan& plan) {
  const Traffic& sent = plan.traffic;
  return {{"micro_batches", plan.leaves},
          {"matrix_flops", plan.step.matrix_flops},
          {"bytes_touched", plan.step.bytes},
          {"operations", plan.step.calls},
          {"bytes_sent",
           {{"reduce_scatter", sent.reduce_scatter},
            {"all_gather", sent.all_gather},
            {"all_reduce", sent.all_reduce},
            {"small", sent.small}}},
          {"disk_bytes_read", plan.disk.update},
          {"disk_bytes_written", plan.disk.update}};
}

nlohmann::json DescribeLinks(const LinkArguments& links) {
  return {{"ranks_per_host", links.ranks_per_host},     {"link_gbit_per_s", links.link_gbit_per_s},
          {"link_latency_us", links.link_latency_us},   {"link_duplex", links.link_duplex},
          {"host_gbyte_per_s", links.host_gbyte_per_s}, {"host_latency_us", links.host_latency_us}};
}

nlohmann::json DescribeCommunication(const CommunicationPlan& plan) {
  const LinkTraffic& traffic = plan.traffic;
  const auto or_null = [&](double PlannedTime::*field) {
    return plan.time.has_value() ? nlohmann::json((*plan.time).*field) : nlohmann::json();
  };
  return {{"rank_bytes",
           {{"sent_within_host", traffic.sent_within_host},
            {"received_within_host", traffic.received_within_host},
            {"sent_over_link", traffic.sent_over_link},
            {"received_over_link", traffic.received_over_link}}},
          {"host_bytes", {{"sent", traffic.host_sent}, {"received", traffic.host_received}}},
          {"communication_seconds", plan.communication_seconds},
          {"step_seconds", or_null(&PlannedTime::step_seconds)},
          {"compute_seconds", or_null(&PlannedTime::compute_seconds)},
          {"exposed_communication_seconds", or_null(&PlannedTime::exposed_seconds)}};
}

nlohmann::json DescribeRow(const RooflineRow& row) {
  return {{"name", row.name},
          {"calls", row.calls},
          {"launches", row.launches},
          {"matrix_flops", row.matrix_flops},
          {"bytes", row.bytes},
          {"seconds", row.seconds},
          {"compute_seconds", row.compute_seconds},
          {"bound", NameOf(row.bound())}};
}

nlohmann::json DescribeRoofline(const Planned& job) {
  const GpuLimits& gpu = *job.gpu;
  const Roofline& roofline = job.roofline;
  nlohmann::json operations = nlohmann::json::array();
  for (const RooflineRow& row : roofline.operations) operations.push_back(DescribeRow(row));
  return {{"gpu", gpu.full_name},
          {"half_flops", gpu.half_flops},
          {"float_flops", gpu.float_flops},
          {"bandwidth", gpu.bandwidth},
          {"operations", operations},
          {"all", DescribeRow(roofline.all)},
          {"share_of_peak", roofline.ShareOfPeak()},
          {"step_bound", StepBound(job)}};
}

nlohmann::json Describe(const Arguments& arguments, const Planned& job,
                        const std::vector<std::string>& problems) {
  const JobConfig& config = job.config;
  nlohmann::json plan;
  plan["ok"] = job.Fits();
  plan["device"] = job.device == Device::kCuda ? "cuda" : "cpu";
  plan["problems"] = problems;
  plan["name"] = config.name;
  plan["run_dir"] = config.run_dir;
  plan["model"] = nlohmann::json::parse(ModelConfigToJson(config.model));
  plan["architecture"] = ArchitectureName(config.model.arch);
  plan["task"] = TaskName(config.pretrain);
  plan["parameters"] = job.table().TotalElements();
  plan["tensors"] = job.table().parameters().size();
  plan["epochs"] = config.train.epochs;
  plan["global_batch"] = config.train.global_batch;
  plan["micro_batch"] = config.train.micro_batch;
  plan["micro_batches"] = config.train.micro_batches();
  plan["dtype"] = NameIn(DTypeNames(), config.train.dtype);
  plan["matmul"] = NameIn(MatmulNames(), config.train.matmul);
  plan["accumulation"] = NameIn(AccumulationNames(), config.train.accumulation);
  plan["zero_stage"] = config.parallel.zero_stage;
  // 0: whatever the fleet has.
  plan["ranks"] = job.ranks;
  plan["planned_ranks"] = job.planned_ranks;
  nlohmann::json checkpointing = nlohmann::json::array(), groups = nlohmann::json::array();
  for (int stage = 0; stage < config.model.num_stages(); ++stage) {
    checkpointing.push_back(CheckpointingName(config.memory.StageCheckpointing(stage)));
    groups.push_back(config.memory.StageSequentialWindows(stage));
  }
  plan["checkpointing"] = checkpointing;
  plan["sequential_windows"] = groups;
  plan["memory"] = DescribeMemory(job);
  plan["step"] = DescribeStep(job.plan);
  if (!arguments.check) {
    plan["links"] = DescribeLinks(arguments.links);
    plan["communication"] = DescribeCommunication(job.communication);
    plan["largest_micro_batch"] = job.largest_micro_batch;
    plan["largest_micro_batch_limit_bytes"] = job.micro_batch_limit;
  }
  if (job.gpu != nullptr) plan["roofline"] = DescribeRoofline(job);
  nlohmann::json units = nlohmann::json::array();
  for (const Unit& unit : job.table().units()) {
    units.push_back({{"name", unit.name},
                     {"tensors", unit.parameters.size()},
                     {"parameters", ElementsOf(job.table(), unit)}});
  }
  plan["units"] = units;
  return plan;
}

// ---- Text ----

// "28,288,354".
std::string Grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

void PrintModel(const Planned& job) {
  const ModelConfig& model = job.config.model;
  const PretrainConfig& pretrain = job.config.pretrain;
  std::cout << "model       " << ArchitectureName(model.arch) << ", "
            << (model.is_video() ? "clips of " + std::to_string(model.frames) + " frames of "
                                 : "pictures of ")
            << model.image_h << "x" << model.image_w << "x" << model.in_chans << "\n"
            << "task        " << TaskName(pretrain);
  if (pretrain.on()) {
    std::cout << ", mask ratio " << pretrain.mask_ratio << "\n";
  } else {
    std::cout << ", " << model.num_classes << " classes\n";
  }
  std::cout << "parameters  " << Grouped(job.table().TotalElements()) << " in "
            << job.table().parameters().size() << " tensors and " << job.table().units().size()
            << " units\n";
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    std::cout << "stage " << stage << "     ";
    if (model.is_video()) std::cout << model.StageD(stage) << "x";
    const std::array<int64_t, 3> window = model.Window(stage, false).size;
    std::cout << model.StageH(stage) << "x" << model.StageW(stage) << " tokens, "
              << model.StageDim(stage) << " channels, " << model.depths[stage] << " blocks, "
              << model.num_heads[stage] << " heads, window ";
    if (model.is_video()) std::cout << window[0] << "x";
    std::cout << window[1] << "x" << window[2] << "\n";
  }
}

void PrintTraining(const Planned& job) {
  const JobConfig& config = job.config;
  const TrainConfig& train = config.train;
  std::cout << "training    " << train.epochs << " epochs, steps of " << train.global_batch
            << " pictures in " << train.micro_batches() << " micro-batches of " << train.micro_batch
            << "\n"
            << "steps       an epoch has 1 for each " << train.global_batch
            << " pictures of the data set, whose size the workers know\n"
            << "numbers     " << NameIn(DTypeNames(), train.dtype)
            << (train.matmul == Matmul::kTf32 ? ", products in tf32" : "") << ", accumulation "
            << NameIn(AccumulationNames(), train.accumulation) << "\n"
            << "memory      checkpointing " << CheckpointingText(config.memory)
            << ", sequential windows " << SequentialText(config.memory) << "\n"
            << "ranks       "
            << (job.ranks > 0
                    ? std::to_string(job.ranks)
                    : "all of the fleet, at most " + std::to_string(train.micro_batches()))
            << ", ZeRO stage " << config.parallel.zero_stage << "\n";
}

void PrintMemory(const Planned& job) {
  const char* verdict = job.limit == 0 ? "" : job.Fits() ? ", which fits" : ", which does not fit";
  const auto print = [](const char* name, size_t bytes, const char* remark) {
    std::printf("  %-16s %12s%s\n", name, BytesText(bytes).c_str(), remark);
  };
  std::cout << "a rank of " << job.planned_ranks << ", the busiest one, takes\n";
  const auto gpu_classes = job.plan.GpuClasses();
  for (const auto& [name, bytes] : gpu_classes) print(name.c_str(), bytes, "");
  if (!gpu_classes.empty()) {
    print("of its GPU", job.plan.memory.DeviceHighWater(), verdict);
    verdict = "";
  }
  for (const auto& [name, bytes] : job.plan.Classes()) print(name.c_str(), bytes, "");
  print("process", job.plan.PredictedProcessBytes(), verdict);
  std::fflush(stdout);
}

void PrintCommunication(const LinkArguments& links, const Planned& job) {
  const CommunicationPlan& plan = job.communication;
  const LinkTraffic& traffic = plan.traffic;
  const auto text = [](double bytes) { return BytesText(static_cast<size_t>(bytes)); };
  if (links.ranks_per_host > 1) {
    std::printf("in a host   %d ranks: %g GB/s and %g us; the rank sends %s, receives %s\n",
                links.ranks_per_host, links.host_gbyte_per_s, links.host_latency_us,
                text(traffic.sent_within_host).c_str(), text(traffic.received_within_host).c_str());
  }
  std::printf("link        %g Gbit/s, %g of it each way at once, %g us\n", links.link_gbit_per_s,
              links.link_duplex, links.link_latency_us);
  std::printf("            the rank sends %s, receives %s\n", text(traffic.sent_over_link).c_str(),
              text(traffic.received_over_link).c_str());
  std::printf("            the busiest host sends %s, receives %s\n",
              text(traffic.host_sent).c_str(), text(traffic.host_received).c_str());
  std::printf("exchanges   take %.3f s, one after the other\n", plan.communication_seconds);
  if (!plan.time.has_value()) {
    std::printf(
        "step time   --compute-gflops, --step-seconds or --roofline says what it can be told "
        "from\n");
    return;
  }
  std::printf("step time   %.3f s: computing %.3f s, waiting for exchanges %.3f s%s\n",
              plan.time->step_seconds, plan.time->compute_seconds, plan.time->exposed_seconds,
              job.config.parallel.overlap ? "" : " (parallel.overlap is off)");
}

void PrintStep(const Planned& job) {
  const MemoryPlan& plan = job.plan;
  std::printf("its step    %" PRId64 " micro-batches, %.1f GFLOP of matrix products, %s touched\n",
              plan.leaves, plan.step.matrix_flops / 1e9,
              BytesText(static_cast<size_t>(plan.step.bytes)).c_str());
  std::printf("it sends    reduce-scatter %s, all-gather %s, all-reduce %s, small things %s\n",
              BytesText(plan.traffic.reduce_scatter).c_str(),
              BytesText(plan.traffic.all_gather).c_str(),
              BytesText(plan.traffic.all_reduce).c_str(), BytesText(plan.traffic.small).c_str());
  if (plan.disk.state > 0) {
    std::printf("its disk    %s of %s, and %s more if checkpoints come there too (%" PRId64
                " kept, one in the making); an update reads %s and writes as much\n",
                BytesText(plan.disk.state).c_str(), job.config.parallel.offload_dir.c_str(),
                BytesText(plan.disk.Checkpoints(job.config.checkpoint.keep_last)).c_str(),
                job.config.checkpoint.keep_last, BytesText(plan.disk.update).c_str());
  }
  std::fflush(stdout);
  if (job.micro_batch_limit == 0) return;
  const std::string eval_batch = std::to_string(job.config.train.eval_batch);
  const std::string largest =
      job.largest_micro_batch > 0
          ? "a micro-batch of " + std::to_string(job.largest_micro_batch) + " at most"
          : "no micro-batch, with evaluations of " + eval_batch + " pictures (train.eval_batch)";
  std::printf("fits        in %s: %s\n", BytesText(job.micro_batch_limit).c_str(), largest.c_str());
  std::fflush(stdout);
}

void PrintRooflineRow(const RooflineRow& row) {
  std::printf("  %-26s %7" PRId64 " %8" PRId64 " %11.2f %9.3f %9.3f  %s\n", row.name.c_str(),
              row.calls, row.launches, row.matrix_flops / 1e9, row.bytes / 1e9, 1e3 * row.seconds,
              NameOf(row.bound()));
}

void PrintRoofline(const Arguments& arguments, const Planned& job) {
  std::printf(
      "roofline    of one micro-batch on %s: %g TFLOP/s of 16-bit products, %g of float32, %g "
      "GB/s, %g us a launch; without exchanges\n"
      "  %-26s %7s %8s %11s %9s %9s  %s\n",
      job.gpu->full_name.c_str(), job.gpu->half_flops / 1e12, job.gpu->float_flops / 1e12,
      job.gpu->bandwidth / 1e9, arguments.launch_us, "operation", "calls", "launches", "GFLOP",
      "GB", "ms", "held back by");
  for (const RooflineRow& row : job.roofline.operations) PrintRooflineRow(row);
  PrintRooflineRow(job.roofline.all);
  std::printf("  at most %.0f%% of the products' peak; a step is held back by %s\n",
              100 * job.roofline.ShareOfPeak(), StepBound(job).c_str());
  std::fflush(stdout);
}

void PrintUnits(const ParameterTable& table) {
  std::cout << "units\n";
  for (const Unit& unit : table.units()) {
    std::printf("  %-28s %3zu tensors %14s parameters\n", unit.name.c_str(), unit.parameters.size(),
                Grouped(ElementsOf(table, unit)).c_str());
  }
  std::fflush(stdout);
}

void PrintPlan(const Arguments& arguments, const Planned& job) {
  const JobConfig& config = job.config;
  std::cout << arguments.job_file << (job.Fits() ? " can run\n" : " does not fit\n")
            << "job         " << (config.name.empty() ? "(no name)" : config.name)
            << ", run folder " << config.run_dir << "\n";
  PrintModel(job);
  PrintTraining(job);
  if (!job.choice.empty()) std::cout << "chosen by   " << job.choice << "\n";
  std::cout << std::flush;
  PrintMemory(job);
  if (arguments.check) return;
  PrintStep(job);
  if (job.planned_ranks > 1) PrintCommunication(arguments.links, job);
  if (job.gpu != nullptr) PrintRoofline(arguments, job);
  PrintUnits(job.table());
}

void AddRooflineOptions(CLI::App* app, Arguments* arguments) {
  std::vector<std::string> names;
  for (const GpuLimits& gpu : KnownGpus()) names.push_back(gpu.name);
  CLI::Option* roofline =
      app->add_option(
             "--roofline", arguments->roofline,
             "With --device cuda: each operation of a step against the limits of such a\n"
             "GPU, by its maker's figures; and a step's time from these, where nothing else\n"
             "says how fast a rank computes")
          ->check(CLI::IsMember(names));
  app->add_option("--launch-us", arguments->launch_us,
                  "What the start of a kernel takes on it where nothing hides it")
      ->check(CLI::NonNegativeNumber)
      ->needs(roofline)
      ->capture_default_str();
}

void AddLinkOptions(CLI::App* app, LinkArguments* links) {
  const auto add = [app](const char* name, double* value, const char* what) {
    return app->add_option(name, *value, what)->check(CLI::PositiveNumber);
  };
  app->add_option("--ranks-per-host", links->ranks_per_host, "Neighbouring ranks that share a host")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  add("--link-gbit-per-s", &links->link_gbit_per_s,
      "What messages get of a host's link, each way, for all of its ranks together")
      ->capture_default_str();
  add("--link-latency-us", &links->link_latency_us, "Of a message between hosts")
      ->capture_default_str();
  app->add_option(
         "--link-duplex", links->link_duplex,
         "What each way of a link gets while both are used, of what one alone gets: 1 for\n"
         "full duplex, 0.5 where they take turns")
      ->check(CLI::Range(0.5, 1.0))
      ->capture_default_str();
  add("--host-gbyte-per-s", &links->host_gbyte_per_s, "Between ranks of a host, of each, each way")
      ->capture_default_str();
  add("--host-latency-us", &links->host_latency_us, "Of a message within a host")
      ->capture_default_str();
  add("--compute-gflops", &links->compute_gflops,
      "What a rank reaches over a whole step: its matrix products by the step's time");
  add("--step-seconds", &links->step_seconds,
      "In its place, of a step of one micro-batch on one rank, as `swinfleet bench step --job`\n"
      "measures it")
      ->excludes("--compute-gflops");
}

int Plan(const Arguments& arguments) {
  Planned job;
  JobSpec spec;
  const std::vector<std::string> problems =
      LoadJobFile(arguments.job_file, "", arguments.ranks, &spec, &job.config);
  if (!problems.empty()) return PrintProblems(arguments, problems);
  try {
    PlanJob(arguments, &job);
  } catch (const Error& error) {
    return PrintProblems(arguments, {arguments.job_file + ": " + error.what()});
  }
  std::vector<std::string> unfit;
  if (!job.Fits()) unfit.push_back(arguments.job_file + ": " + WhyNot(job));
  if (arguments.check && !unfit.empty()) return PrintProblems(arguments, unfit);
  if (arguments.json) {
    std::cout << Describe(arguments, job, unfit).dump() << std::endl;
  } else {
    PrintPlan(arguments, job);
  }
  if (unfit.empty()) return kExitSuccess;
  // The plan says what takes how much: that is what was asked for.
  std::cerr << JoinLines(unfit) << std::endl;
  return kExitUsage;
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  swinfleet::Arguments arguments;
  CLI::App app(
      "Says whether a job can run, what it consists of, and what memory, work and traffic it "
      "takes.\n"
      "Exit codes: 0 it can run, as far as can be told without its data; 2 it can't, or takes\n"
      "more than its memory.budget or --memory allow: why, and what would work, is on stderr.\n"
      "What is only too large for --memory is planned all the same, unless --check is given.");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  app.add_option("job", arguments.job_file, "The job's YAML file")->required();
  app.add_flag("--check", arguments.check,
               "Only check the job, and say in short what it is; nothing of the plan for one that\n"
               "can't run");
  app.add_option("--ranks", arguments.ranks, "Ranks that it is to run on")
      ->check(CLI::Range(1, 65536));
  app.add_option("--memory", arguments.memory, "Memory that a rank may take, as 24GiB");
  app.add_option(
         "--device", arguments.device,
         "What ranks are to compute on: the CPU, if nothing is said, but for jobs that need\n"
         "GPUs. With cuda --memory is of a rank's GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_flag("--json", arguments.json, "JSON on stdout");
  swinfleet::AddRooflineOptions(&app, &arguments);
  swinfleet::AddLinkOptions(&app, &arguments.links);
  return swinfleet::RunProgram(&app, argc, argv, [&] { return swinfleet::Plan(arguments); });
}
