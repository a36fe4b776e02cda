#include "kernels/machine_limits.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// Each of `repeats` runs after one that warms up, the fastest first.
template <typename Work>
std::vector<double> SecondsOfRuns(int repeats, const Work& work) {
  std::vector<double> runs;
  for (int i = 0; i <= repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (i > 0) runs.push_back(seconds.count());
  }
  std::ranges::sort(runs);
  return runs;
}

template <typename Work>
double BestSeconds(int repeats, const Work& work) {
  return SecondsOfRuns(repeats, work).front();
}

// What is measured.
struct Machine {
  int threads = 1;
  Accelerator* gpu = nullptr;
  bool tf32 = false;

  Arena Reserve(const char* name, size_t bytes) const { return ReserveArena(name, bytes, gpu); }
  // Calls of operations return before they are done.
  void Wait() const {
    if (gpu != nullptr) gpu->Wait();
  }
};

// Of y = x weight^T, all (n, n); `calls` in each of `repeats` runs.
double ProductSeconds(const Machine& machine, DType dtype, int64_t n, int repeats, int calls) {
  Arena tensors = machine.Reserve("products", 3 * (n * n * SizeOf(dtype) + Arena::kAlignment));
  const auto square = [&] { return tensors.Allocate({n, n}, dtype); };
  const LinearForwardArgs product = {.x = square(), .weight = square(), .bias = {}, .y = square()};
  Arena dry = Arena::DryRun("workspace");
  Context counting = {.ops = machine.gpu == nullptr ? &DryRunOps() : &CudaDryRunOps(),
                      .workspace = &dry,
                      .threads = machine.threads};
  counting.ops->linear_forward(product, counting);
  Arena workspace = machine.Reserve("workspace", dry.high_water());
  Context context = ContextOn(machine.gpu, machine.threads, &workspace);
  context.tf32 = machine.tf32;
  context.ops->fill({product.x, 0.5f}, context);
  context.ops->fill({product.weight, 0.25f}, context);
  machine.Wait();
  return BestSeconds(repeats,
                     [&] {
                       for (int i = 0; i < calls; ++i)
                         context.ops->linear_forward(product, context);
                       machine.Wait();
                     }) /
         calls;
}

double FlopsOfProduct(int64_t n) { return 2.0 * static_cast<double>(n * n * n); }

double Peak(const Machine& machine, DType dtype) {
  double best = 0;
  for (const int64_t n : {1024, 2048, 4096}) {
    const int repeats = n == 4096 ? 2 : n == 2048 ? 8 : 16;
    best = std::max(best, FlopsOfProduct(n) / ProductSeconds(machine, dtype, n, repeats, 1));
  }
  return best;
}

double GpuPeak(const Machine& machine, DType dtype) {
  constexpr int64_t kMost = 8192;
  constexpr double kLongEnough = 5e-3;
  double best = 0, seconds = 0;
  for (int64_t n = 256; n <= kMost && seconds < kLongEnough; n *= 2) {
    seconds = ProductSeconds(machine, dtype, n, 3, 4);
    best = std::max(best, FlopsOfProduct(n) / seconds);
  }
  return best;
}

// Of y += x, over arrays that double until it takes long enough.
double GpuBandwidth(const Machine& machine) {
  constexpr int64_t kMost = int64_t{1} << 28;
  constexpr double kLongEnough = 1e-3;
  constexpr int kCalls = 8;
  double best = 0, seconds = 0;
  for (int64_t n = int64_t{1} << 18; n <= kMost && seconds < kLongEnough; n *= 4) {
    Arena arrays = machine.Reserve("arrays", 2 * n * sizeof(float));
    Arena workspace = machine.Reserve("workspace", 0);
    Context context = ContextOn(machine.gpu, machine.threads, &workspace);
    const AddArgs add = {.x = arrays.Allocate({n}), .y = arrays.Allocate({n})};
    context.ops->fill({add.x, 1}, context);
    context.ops->fill({add.y, 1}, context);
    seconds = BestSeconds(4,
                          [&] {
                            for (int i = 0; i < kCalls; ++i) context.ops->add(add, context);
                            machine.Wait();
                          }) /
              kCalls;
    best = std::max(best, 3.0 * sizeof(float) * static_cast<double>(n) / seconds);
  }
  return best;
}

double Bandwidth(int threads) {
  constexpr int64_t kElements = int64_t{32} << 20;
  // In pages like those of the step's tensors.
  Arena arrays = Arena::OnHost("arrays", 2 * kElements * sizeof(float));
  const TensorView from = arrays.Allocate({kElements}), to = arrays.Allocate({kElements});
  // What they hold does not matter. What a shared machine leaves of its memory's bandwidth changes
  // while it is measured: the upper quartile is what there is to be had.
  constexpr int kRuns = 32;
  const std::vector<double> runs = SecondsOfRuns(kRuns, [&] {
    ParallelFor(threads, kElements, 1024, [&](int64_t begin, int64_t end, int) {
      const float* x = from.f32();
      float* y = to.f32();
      for (int64_t i = begin; i < end; ++i) y[i] += x[i];
    });
  });
  return 3.0 * sizeof(float) * kElements / runs[kRuns / 4];
}

double AddCallSeconds(const Machine& machine, int calls) {
  Arena elements = machine.Reserve("elements", 2 * Arena::kAlignment);
  Arena workspace = machine.Reserve("workspace", 0);
  Context context = ContextOn(machine.gpu, machine.threads, &workspace);
  const AddArgs add = {.x = elements.Allocate({1}), .y = elements.Allocate({1})};
  context.ops->fill({add.x, 1}, context);
  context.ops->fill({add.y, 0}, context);
  return BestSeconds(5,
                     [&] {
                       for (int i = 0; i < calls; ++i) context.ops->add(add, context);
                       machine.Wait();
                     }) /
         calls;
}

// The first and the last thread give each other a number, over and over. Two that have one
// processor between them take turns in long slices: the time is limited, not only the rounds.
double HandoverSeconds(int threads) {
  constexpr int64_t kRounds = 20000, kOver = -1;
  constexpr std::chrono::milliseconds kLongest{50};
  // A cache fetches lines in pairs.
  struct alignas(128) Line {
    std::atomic<int64_t> turn = 0;
  } line;
  double seconds = 0;
#pragma omp parallel num_threads(threads)
  if (omp_get_num_threads() == threads) {
    if (omp_get_thread_num() == 0) {
      const auto begin = std::chrono::steady_clock::now();
      int64_t round = 0;
      std::chrono::duration<double> taken{};
      for (; round < kRounds && taken < kLongest; ++round) {
        line.turn = 2 * round + 1;
        while (line.turn != 2 * round + 2) {
        }
        taken = std::chrono::steady_clock::now() - begin;
      }
      line.turn = kOver;
      seconds = taken.count() / static_cast<double>(2 * round);
    } else if (omp_get_thread_num() == threads - 1) {
      for (int64_t turn = 0; turn != kOver; turn = line.turn) {
        if (turn % 2 == 1) line.turn = turn + 1;
      }
    }
  }
  return seconds;
}

}  // namespace

MachineLimits MeasureMachineLimits(DType dtype, int threads, Accelerator* gpu, bool tf32) {
  constexpr int kCalls = 1000;
  const Machine machine = {threads, gpu, tf32};
  return {.flops = gpu == nullptr ? Peak(machine, dtype) : GpuPeak(machine, dtype),
          .bandwidth = gpu == nullptr ? Bandwidth(threads) : GpuBandwidth(machine),
          .linear_call_seconds = ProductSeconds(machine, dtype, 1, 5, kCalls),
          .add_call_seconds = AddCallSeconds(machine, kCalls),
          .handover_seconds = gpu == nullptr && threads > 1 ? HandoverSeconds(threads) : 0};
}

}  // namespace swinfleet
