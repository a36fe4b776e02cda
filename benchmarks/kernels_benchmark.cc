// Every operation at the shapes of a training step, beside its limit: kernels_benchmark --help.
//
// Names are OPERATION/SITE/DTYPE. The tensors that a step finds in memory are cold here too: calls
// go through copies of them that are larger than the caches together. Those of the MLP's chunks,
// which the step has just written, are warm: the same in every call. So is what 4096 copies do not
// make large enough, and what an operation touches of tensors that it does not need as a whole.
// Each is labelled so.
#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "benchmarks/op_cases.h"
#include "kernels/accelerator.h"
#include "kernels/error.h"
#include "kernels/machine_limits.h"
#include "kernels/op_entries.h"
#include "kernels/placement.h"

namespace swinfleet::benchmarks {
namespace {

constexpr size_t kMostCopies = 4096;
// On a GPU, so that waiting for them takes little of their time.
constexpr int kCallsAtOnce = 16;

struct Flags {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  size_t cold_mib = 256;
};

Flags& GlobalFlags() {
  static Flags flags;
  return flags;
}

// Opened when the first benchmark asks for it; null: the CPU computes.
Accelerator* TheGpu() {
  static const std::unique_ptr<Accelerator> gpu = [] {
    if (TheDevice() == Device::kCpu) return std::unique_ptr<Accelerator>();
    const CudaBackend& backend = OpenCudaBackend();
    return backend.Open(backend.Gpus().front());
  }();
  return gpu.get();
}

// Measured when the first benchmark asks for them.
const MachineLimits& LimitsOf(DType dtype) {
  static std::map<DType, MachineLimits> known;
  const auto found = known.find(dtype);
  if (found != known.end()) return found->second;
  return known[dtype] = MeasureMachineLimits(dtype, GlobalFlags().threads, TheGpu());
}

// What a call of the operation takes.
struct Needs {
  WorkCount work;
  size_t workspace = 0;
  size_t tensors = 0;
};

template <typename Args>
Needs NeedsOf(const OpEntry<Args>& entry, const Site& site, DType dtype) {
  Needs needs;
  Tensors tensors(nullptr, dtype);
  Args args;
  SetUp(site, tensors, &args);
  Arena workspace = Arena::DryRun("workspace");
  const OpTable& dry = TheDevice() == Device::kCuda ? CudaDryRunOps() : DryRunOps();
  Context context = {
      .ops = &dry, .workspace = &workspace, .threads = GlobalFlags().threads, .count = &needs.work};
  (dry.*entry.function)(args, context);
  needs.workspace = workspace.high_water();
  needs.tensors = tensors.bytes();
  return needs;
}

// The arguments of a call, with tensors in `memory`; with a GPU by way of `host`.
template <typename Args>
Args ArgsIn(char* memory, char* host, const Site& site, const Needs& needs, DType dtype) {
  Args args;
  Tensors filled(TheGpu() == nullptr ? memory : host, dtype);
  SetUp(site, filled, &args);
  if (TheGpu() == nullptr) return args;
  TheGpu()->CopyIn(host, memory, needs.tensors);
  Tensors on_gpu(memory, host, dtype);
  SetUp(site, on_gpu, &args);
  return args;
}

template <typename Args>
void Run(benchmark::State& state, const OpEntry<Args>& entry, const Site& site, DType dtype) {
  const MachineLimits& limits = LimitsOf(dtype);
  const Needs needs = NeedsOf(entry, site, dtype);
  const size_t cold_bytes = GlobalFlags().cold_mib << 20;
  const size_t copies =
      site.warm ? 1 : std::clamp<size_t>(cold_bytes / needs.tensors, 1, kMostCopies);
  const size_t touched = std::min(needs.tensors, static_cast<size_t>(needs.work.bytes));
  const bool cold = !site.warm && cold_bytes > 0 && copies * touched > cold_bytes / 3;
  Arena memory = ReserveArena("tensors", copies * needs.tensors, TheGpu());
  Arena host = Arena::OnHost("tensors of the host", TheGpu() == nullptr ? 0 : needs.tensors);
  std::vector<Args> calls(copies);
  for (Args& args : calls) {
    args = ArgsIn<Args>(static_cast<char*>(memory.AllocateBytes(needs.tensors)),
                        static_cast<char*>(host.AllocateBytes(0)), site, needs, dtype);
  }
  Arena workspace = ReserveArena("workspace", needs.workspace, TheGpu());
  Context context = ContextOn(TheGpu(), GlobalFlags().threads, &workspace);
  const int calls_at_once = TheGpu() == nullptr ? 1 : kCallsAtOnce;
  size_t next = 0;
  const auto call = [&] {
    for (int i = 0; i < calls_at_once; ++i) {
      (context.ops->*entry.function)(calls[next++ % copies], context);
    }
    if (TheGpu() != nullptr) TheGpu()->Wait();
  };
  call();
  double seconds = 0;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(taken.count() / calls_at_once);
    seconds += taken.count() / calls_at_once;
  }
  const double per_second = static_cast<double>(state.iterations()) / seconds;
  state.counters["GFLOP/s"] = needs.work.matrix_flops * per_second / 1e9;
  state.counters["GB/s"] = needs.work.bytes * per_second / 1e9;
  state.counters["limit"] =
      limits.SecondsOf(needs.work.matrix_flops, needs.work.bytes) * per_second;
  state.SetLabel(cold ? "cold" : "warm");
}

template <typename Args>
void Register(const OpEntry<Args>& entry) {
  for (const Site& site : SitesOf(static_cast<const Args*>(nullptr))) {
    for (const auto& [dtype, name] :
         {std::pair(DType::kF32, "fp32"), std::pair(DType::kBF16, "bf16")}) {
      Tensors tensors(nullptr, dtype);
      Args args;
      SetUp(site, tensors, &args);
      // In float32 whatever the dtype of the step.
      if (dtype != DType::kF32 && !tensors.uses_dtype()) continue;
      benchmark::RegisterBenchmark((std::string(entry.name) + "/" + site.name + "/" + name).c_str(),
                                   [&entry, &site, dtype = dtype](benchmark::State& state) {
                                     Run(state, entry, site, dtype);
                                   })
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Every operation at the shapes of a step of SwinV2-T, batch 8, beside its limit.");
  Flags& flags = GlobalFlags();
  app.add_option("--threads", flags.threads, "threads of the kernels")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--cold-mib", flags.cold_mib, "memory that cold tensors go through; 0: one copy")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--device",
         [](const std::string& device) {
           TheDevice() = device == "cuda" ? Device::kCuda : Device::kCpu;
         },
         "what computes: cpu, or cuda for the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.footer("Google Benchmark's own options work too: --benchmark_filter=REGEX, ...");
  app.allow_extras();
  CLI11_PARSE(app, argc, argv);
  std::vector<std::string> rest = app.remaining();
  std::vector<char*> arguments = {argv[0]};
  for (std::string& argument : rest) arguments.push_back(argument.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  std::apply([](const auto&... entry) { (Register(entry), ...); }, kOpEntries);
  benchmark::AddCustomContext("threads", std::to_string(flags.threads));
  benchmark::AddCustomContext("instruction_set", CpuInstructionSet());
  try {
    if (TheGpu() != nullptr) benchmark::AddCustomContext("gpu", TheGpu()->name());
  } catch (const Error& error) {
    std::fprintf(stderr, "kernels_benchmark: %s\n", error.what());
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace swinfleet::benchmarks

int main(int argc, char** argv) { return swinfleet::benchmarks::Main(argc, argv); }
