#include "kernels/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

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

// Of y = x weight^T, all (n, n); `calls` in each of `repeats` runs.
double ProductSeconds(DType dtype, int threads, int64_t n, int repeats, int calls) {
  Arena tensors = Arena::OnHost("products", 3 * (n * n * SizeOf(dtype) + Arena::kAlignment));
  const auto square = [&] { return tensors.Allocate({n, n}, dtype); };
  const LinearForwardArgs product = {.x = square(), .weight = square(), .bias = {}, .y = square()};
  Arena dry = Arena::DryRun("workspace");
  Context counting = {.ops = &DryRunOps(), .workspace = &dry, .threads = threads};
  counting.ops->linear_forward(product, counting);
  Arena workspace = Arena::OnHost("workspace", std::max(dry.high_water(), Arena::kAlignment));
  Context context = {.ops = &CpuOps(), .workspace = &workspace, .threads = threads};
  context.ops->fill({product.x, 0.5f}, context);
  context.ops->fill({product.weight, 0.25f}, context);
  return BestSeconds(repeats,
                     [&] {
                       for (int i = 0; i < calls; ++i)
                         context.ops->linear_forward(product, context);
                     }) /
         calls;
}

double Peak(DType dtype, int threads) {
  double best = 0;
  for (const int64_t n : {1024, 2048, 4096}) {
    const int repeats = n == 4096 ? 2 : n == 2048 ? 8 : 16;
    const double flops = 2.0 * static_cast<double>(n * n * n);
    best = std::max(best, flops / ProductSeconds(dtype, threads, n, repeats, 1));
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

double AddCallSeconds(int threads) {
  constexpr int kCalls = 1000;
  float x = 1, y = 0;
  Arena workspace = Arena::OnHost("workspace", Arena::kAlignment);
  Context context = {.ops = &CpuOps(), .workspace = &workspace, .threads = threads};
  const AddArgs add = {.x = ViewOf(&x, {1}), .y = ViewOf(&y, {1})};
  return BestSeconds(5,
                     [&] {
                       for (int i = 0; i < kCalls; ++i) context.ops->add(add, context);
                     }) /
         kCalls;
}

}  // namespace

MachineLimits MeasureMachineLimits(DType dtype, int threads) {
  return {.flops = Peak(dtype, threads),
          .bandwidth = Bandwidth(threads),
          .linear_call_seconds = ProductSeconds(dtype, threads, 1, 5, 1000),
          .add_call_seconds = AddCallSeconds(threads)};
}

}  // namespace swinfleet
