#include "tests/cuda_emulator/faulty_kernels.h"

#include "kernels/cuda/gpu.h"

namespace swinfleet::cuda_testing {
namespace {

using namespace cuda;  // NOLINT(google-build-using-namespace): as in a kernel of the backend

constexpr int kBlock = 64;

__global__ void MirrorKernel(const float* in, float* out, Fault fault) {
  SharedCarver carver;
  float* values = carver.Take<float>(kBlock);
  const int t = static_cast<int>(threadIdx.x);
  const int first = static_cast<int>(blockIdx.x) * kBlock;
  const int place = fault == Fault::kOutOfShared ? t + 1 : t;
  if (fault != Fault::kUninitialised || t != 0) values[place] = in[first + t];
  if (fault == Fault::kDivergentBarrier) {
    if (t < 32) __syncthreads();
  } else if (fault == Fault::kOtherBarrier && t < 32) {
    __syncthreads();
  } else if (fault != Fault::kMissingBarrier) {
    __syncthreads();
  }
  const int to = fault == Fault::kOutOfBounds ? first + t + 1 : first + t;
  out[fault == Fault::kBlocksCollide ? t : to] = values[kBlock - 1 - t];
}

__global__ void WarpSumsKernel(const float* in, float* out, int n, Fault fault) {
  const int i = static_cast<int>(GlobalThread());
  float sum = i < n ? in[i] : 0;
  if (fault == Fault::kAbsentLane && threadIdx.x % 32 >= 16) return;
  for (int bits = 16; bits > 0; bits /= 2) {
    const unsigned mask = fault == Fault::kMaskWithoutMe ? 0x7fffffffu : kAllLanes;
    sum += __shfl_xor_sync(mask, sum, bits);
  }
  if (i < n) out[i] = sum;
}

__global__ void SharedWarpSumsKernel(const float* in, float* out, int n, Fault fault) {
  SharedCarver carver;
  float* values = carver.Take<float>(kBlock);
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(GlobalThread());
  values[t] = i < n ? in[i] : 0;
  if (fault != Fault::kMissingWarpBarrier) __syncwarp();
  float sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += values[t / 32 * 32 + lane];
  if (i < n) out[i] = sum;
}

__global__ void AsyncCopiesKernel(const float* in, float* out, int n, Fault fault) {
  SharedCarver carver;
  float* values = carver.Take<float>(4 * kBlock);
  const int t = static_cast<int>(threadIdx.x);
  const int first = static_cast<int>(GlobalThread()) * 4;
  const int bytes = first < n ? 16 : 0;
  CopyAsync16(values + 4 * t, in + (bytes > 0 ? first : 0), bytes);
  CopyAsyncCommit();
  if (fault != Fault::kMissingWait) CopyAsyncWait<0>();
  __syncthreads();
  // Each thread stores another one's copy.
  const int other = kBlock - 1 - t;
  const int to = (static_cast<int>(blockIdx.x) * kBlock + other) * 4;
  for (int i = 0; i < 4 && to < n; ++i) out[to + i] = values[4 * other + i];
  if (fault == Fault::kMissingWait) CopyAsyncWait<0>();
}

__global__ void AddToKernel(float* out, float by, int n) {
  for (int64_t i = GlobalThread(); i < n; i += GlobalThreads()) out[i] += by;
}

__global__ void CountKernel(float* sum, int n) {
  for (int64_t i = GlobalThread(); i < n; i += GlobalThreads()) atomicAdd(sum, 1.0f);
}

__global__ void VotesKernel(const int* in, unsigned* lanes, int* any, int* all) {
  const bool yes = in[threadIdx.x] != 0;
  const unsigned ballot = __ballot_sync(kAllLanes, yes);
  const int some = __any_sync(kAllLanes, yes), every = __all_sync(kAllLanes, yes);
  if (threadIdx.x == 0) {
    *lanes = ballot;
    *any = some;
    *all = every;
  }
}

__global__ void NeighboursKernel(const int* in, int* below, int* above) {
  const int t = static_cast<int>(threadIdx.x);
  below[t] = __shfl_up_sync(kAllLanes, in[t], 1);
  above[t] = __shfl_down_sync(kAllLanes, in[t], 1);
}

template <bool kBfloat16>
__global__ void TileKernel(const uint16_t* a, const uint16_t* b, float* d, bool transposed_b) {
  SharedCarver carver;
  uint16_t* tile_a = carver.Take<uint16_t>(16 * 16);
  uint16_t* tile_b = carver.Take<uint16_t>(16 * 8);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) tile_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) tile_b[i] = b[i];
  __syncwarp();
  uint32_t fa[4], fb[4];
  // Matrices: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
  LoadMatrix4(fa, tile_a + (lane % 16) * 16 + lane / 16 * 8);
  if (transposed_b) {
    // b^T (8, 16): matrices of columns 0-7 and 8-15, twice.
    LoadMatrix4(fb, tile_b + (lane % 8) * 16 + lane / 8 % 2 * 8);
  } else {
    LoadMatrix4Transposed(fb, tile_b + (lane % 16) * 8);
  }
  float sums[4] = {};
  const uint32_t first[2] = {fb[0], fb[1]};
  if constexpr (kBfloat16) {
    MmaBf16(sums, fa, first);
  } else {
    MmaF16(sums, fa, first);
  }
  for (int i = 0; i < 4; ++i) {
    d[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2] = sums[i];
  }
}

unsigned Blocks(int n, int each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace

void Mirror(const float* in, float* out, int blocks, Fault fault, cudaStream_t stream) {
  GpuLaunch(MirrorKernel, static_cast<unsigned>(blocks), kBlock, kBlock * sizeof(float), stream, in,
            out, fault);
}

void WarpSums(const float* in, float* out, int n, Fault fault, cudaStream_t stream) {
  GpuLaunch(WarpSumsKernel, Blocks(n, kBlock), kBlock, 0, stream, in, out, n, fault);
}

void SharedWarpSums(const float* in, float* out, int n, Fault fault, cudaStream_t stream) {
  GpuLaunch(SharedWarpSumsKernel, Blocks(n, kBlock), kBlock, kBlock * sizeof(float), stream, in,
            out, n, fault);
}

void AsyncCopies(const float* in, float* out, int n, Fault fault, cudaStream_t stream) {
  GpuLaunch(AsyncCopiesKernel, Blocks(n, 4 * kBlock), kBlock, 4 * kBlock * sizeof(float), stream,
            in, out, n, fault);
}

void AddTo(float* out, float by, int n, cudaStream_t stream) {
  GpuLaunch(AddToKernel, 2, kBlock, 0, stream, out, by, n);
}

void CountAtomically(float* sum, int n, cudaStream_t stream) {
  GpuLaunch(CountKernel, 3, kBlock, 0, stream, sum, n);
}

void Votes(const int* in, unsigned* lanes, int* any, int* all, cudaStream_t stream) {
  GpuLaunch(VotesKernel, 1, 32, 0, stream, in, lanes, any, all);
}

void Neighbours(const int* in, int* below, int* above, cudaStream_t stream) {
  GpuLaunch(NeighboursKernel, 1, 32, 0, stream, in, below, above);
}

void Tile(const void* a, const void* b, float* d, bool bfloat16, bool transposed_b,
          cudaStream_t stream) {
  GpuLaunch(bfloat16 ? TileKernel<true> : TileKernel<false>, 1, 32, 1024, stream,
            static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), d, transposed_b);
}

}  // namespace swinfleet::cuda_testing
