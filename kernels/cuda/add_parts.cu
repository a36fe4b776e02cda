// Sums that several blocks have made parts of.
#include "kernels/cuda/launch.h"

namespace swinfleet::cuda {
namespace {

// Of kTakers threads to a sum each adds every kTakers-th part, one after the other, and the first
// one what they have, in their order.
template <int kTakers>
__global__ void AddPartsKernel(Parts p, float* sums) {
  constexpr int kSums = kThreads / kTakers;
  SharedCarver carver;
  float* shared = carver.Take<float>(kThreads);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSums + threadIdx.x % kSums;
  const int taker = static_cast<int>(threadIdx.x) / kSums;
  float sum = 0;
  for (int64_t part = taker; i < p.n && part < p.count; part += kTakers) {
    sum += p.parts[part * p.stride + i];
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (taker != 0 || i >= p.n) return;
  for (int other = 1; other < kTakers; ++other) sum += shared[threadIdx.x + other * kSums];
  sums[i] += sum;
}

}  // namespace

// Many parts are of few sums, for which a thread each would leave a device idle.
void AddParts(const Parts& p, float* sums, const Context& context) {
  constexpr int kManyParts = 16, kTakers = 8;
  if (p.n == 0) return;
  const auto launch = [&](auto kernel, int64_t sums_of_block) {
    GpuLaunch(kernel, Narrow((p.n + sums_of_block - 1) / sums_of_block), kThreads,
              kThreads * sizeof(float), StreamOf(context), p, sums);
  };
  if (p.count < kManyParts) return launch(AddPartsKernel<1>, kThreads);
  launch(AddPartsKernel<kTakers>, kThreads / kTakers);
}

}  // namespace swinfleet::cuda
