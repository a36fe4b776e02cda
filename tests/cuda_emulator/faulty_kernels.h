// Kernels that are right, and with a fault switched on, wrong: what the emulator's own tests run.
#ifndef SWINFLEET_TESTS_CUDA_EMULATOR_FAULTY_KERNELS_H_
#define SWINFLEET_TESTS_CUDA_EMULATOR_FAULTY_KERNELS_H_

#include <cuda_runtime.h>

namespace swinfleet::cuda_testing {

enum class Fault {
  kNone,
  kMissingBarrier,
  kMissingWarpBarrier,
  kDivergentBarrier,
  kOtherBarrier,   // half of the block at another line
  kAbsentLane,     // a shuffle that half of the warp does not come to
  kMaskWithoutMe,  // a mask that leaves its own lane out
  kOutOfBounds,    // one element beyond a tensor
  kOutOfShared,    // one element beyond shared memory
  kUninitialised,  // reads shared memory that nobody wrote
  kMissingWait,    // cp.async without its wait
  kBlocksCollide,  // two blocks write one element
  kHostPointer,
};

// out[i] = in of the thread's mirror image in its block of 64, through shared memory.
void Mirror(const float* in, float* out, int blocks, Fault fault, cudaStream_t stream);
// out[i] = the sum of in over the warp of i.
void WarpSums(const float* in, float* out, int n, Fault fault, cudaStream_t stream);
// The same through shared memory and __syncwarp.
void SharedWarpSums(const float* in, float* out, int n, Fault fault, cudaStream_t stream);
// out = in, by cp.async through shared memory; n a multiple of 4.
void AsyncCopies(const float* in, float* out, int n, Fault fault, cudaStream_t stream);
// out[i] += by.
void AddTo(float* out, float by, int n, cudaStream_t stream);
// sum += n ones, by atomics of many blocks.
void CountAtomically(float* sum, int n, cudaStream_t stream);
// lanes = the lanes, as bits, of the first warp that in says yes to; any and all of them.
void Votes(const int* in, unsigned* lanes, int* any, int* all, cudaStream_t stream);
// out[i] = the value of the lane below, above.
void Neighbours(const int* in, int* below, int* above, cudaStream_t stream);
// d (16, 8) = a (16, 16) b (16, 8) of 16-bit elements, b given as its transpose (8, 16) or as it
// is; one warp.
void Tile(const void* a, const void* b, float* d, bool bfloat16, bool transposed_b,
          cudaStream_t stream);

}  // namespace swinfleet::cuda_testing

#endif  // SWINFLEET_TESTS_CUDA_EMULATOR_FAULTY_KERNELS_H_
