// The scratch memory of the CPU backend's operations. The operation and its dry run take it with
// the same function, so that what the dry run counts is what the operation takes.
#ifndef SWINFLEET_KERNELS_CPU_SCRATCH_H_
#define SWINFLEET_KERNELS_CPU_SCRATCH_H_

#include <cstdint>

#include "kernels/ops.h"

namespace swinfleet {

struct LinearScratch {
  // Of each thread's products: (parts, pad_bytes).
  size_t pad_bytes = 0;
  char* pad = nullptr;
};
LinearScratch TakeScratch(const LinearForwardArgs& args, Context& context);
LinearScratch TakeScratch(const LinearBackwardInputArgs& args, Context& context);
LinearScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context);

// A chunk of patches and what their products take, chunk after chunk: for a dry run, which keeps
// none of it.
void TakeScratch(const PatchEmbeddingForwardArgs& args, Context& context);
void TakeScratch(const PatchEmbeddingBackwardArgs& args, Context& context);

struct WindowAttentionScratch {
  // One thread's floats, and all threads' block of them.
  int64_t floats_per_thread = 0;
  float* block = nullptr;
  // Sums of the bias's gradient for threads after the first, (threads - 1) times its size; null
  // where threads take heads of their own.
  float* dbias = nullptr;
  // Sums of the scales' gradients, (threads, heads); null without them.
  double* dscale = nullptr;
};
WindowAttentionScratch TakeScratch(const WindowAttentionForwardArgs& args, Context& context);
WindowAttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context);

struct PositionTableScratch {
  // w1 of y, w1 of x, b1 and w2, (3 + heads, hidden), with heads and hidden units of zeros that
  // make them whole blocks and vectors.
  float* weights = nullptr;
  // Of backward, padded too: what the sigmoid is of, then its gradient, (T, heads).
  float* scores = nullptr;
};
PositionTableScratch TakeScratch(const PositionTableForwardArgs& args, Context& context);
PositionTableScratch TakeScratch(const PositionTableBackwardArgs& args, Context& context);

// Neighbouring pairs of a row whose entries go down by one.
struct PairRun {
  int32_t pair;    // the first
  int32_t length;  // in pairs
  int32_t place;   // of the first one's entry, counted from the table's end; -1: excluded pairs
};
struct BiasScratch {
  // Each head's entries side by side, the last one first: (heads, T).
  float* tables = nullptr;
  // Of each thread's row of pairs: (threads, N).
  PairRun* runs = nullptr;
};
BiasScratch TakeScratch(const BiasGatherArgs& args, Context& context);
BiasScratch TakeScratch(const BiasScatterArgs& args, Context& context);

// (threads, 2, C)
float* TakeScratch(const LayerNormBackwardArgs& args, Context& context);

// Of a gradient of the bias: (threads, C).
float* TakeScratch(const GeluBackwardArgs& args, Context& context);

// Sums of columns and of their squares, (threads, 2, W).
double* TakeScratch(const NormTargetsArgs& args, Context& context);

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_CPU_SCRATCH_H_
