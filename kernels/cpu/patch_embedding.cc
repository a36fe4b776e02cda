// The convolution that makes tokens of patches: a product of gathered patches, a chunk at a time.
#include "kernels/chunks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/patch_embedding_checks.h"

namespace swinfleet {
namespace {

// Filters as the rows of a matrix.
TensorView Matrix(const TensorView& weight) {
  return weight.Reshape({weight.shape[0], weight.NumElements() / weight.shape[0]});
}

// Calls body(gather) for chunks of `tokens` rows, with patches in the workspace that are its rows.
template <typename Body>
void ForEachChunkOfPatches(const TensorView& image, const TensorView& weight,
                           const TensorView& tokens, Context& context, const Body& body) {
  const int64_t width = Matrix(weight).shape[1];
  const int rank = weight.shape.rank();
  ForEachChunk(
      tokens.shape[0], ChunkRows(width, tokens.dtype, Device::kCpu),
      [&](int64_t row, int64_t count) {
        ArenaScope scope(context.workspace);
        const TensorView patches = context.workspace->Allocate({count, width}, tokens.dtype);
        body(PatchGatherArgs{.image = image,
                             .patch_h = weight.shape[rank - 2],
                             .patch_w = weight.shape[rank - 1],
                             .first_row = row,
                             .rows = patches,
                             .patch_t = rank == 5 ? weight.shape[2] : 1});
      });
}

LinearForwardArgs ProductOf(const PatchEmbeddingForwardArgs& a, const PatchGatherArgs& patches) {
  const int64_t count = patches.rows.shape[0];
  return {patches.rows, Matrix(a.weight), a.bias, a.y.Rows(patches.first_row, count)};
}

LinearBackwardWeightArgs WeightProductOf(const PatchEmbeddingBackwardArgs& a,
                                         const PatchGatherArgs& patches) {
  const int64_t count = patches.rows.shape[0];
  return {a.dy.Rows(patches.first_row, count), patches.rows, Matrix(a.dweight), a.dbias};
}

// The gradient takes the place of the patches.
LinearBackwardInputArgs InputProductOf(const PatchEmbeddingBackwardArgs& a,
                                       const PatchGatherArgs& patches) {
  const int64_t count = patches.rows.shape[0];
  return {a.dy.Rows(patches.first_row, count), Matrix(a.weight), patches.rows};
}

}  // namespace

void TakeScratch(const PatchEmbeddingForwardArgs& args, Context& context) {
  ForEachChunkOfPatches(
      args.image, args.weight, args.y, context,
      [&](const PatchGatherArgs& patches) { TakeScratch(ProductOf(args, patches), context); });
}

void TakeScratch(const PatchEmbeddingBackwardArgs& args, Context& context) {
  ForEachChunkOfPatches(args.image, args.dweight, args.dy, context,
                        [&](const PatchGatherArgs& patches) {
                          {
                            ArenaScope scope(context.workspace);
                            TakeScratch(WeightProductOf(args, patches), context);
                          }
                          if (args.dimage.empty()) return;
                          TakeScratch(InputProductOf(args, patches), context);
                        });
}

namespace cpu {

void PatchEmbeddingForward(const PatchEmbeddingForwardArgs& args, Context& context) {
  CheckArgs(args);
  ForEachChunkOfPatches(args.image, args.weight, args.y, context,
                        [&](const PatchGatherArgs& patches) {
                          PatchGather(patches, context);
                          LinearForward(ProductOf(args, patches), context);
                        });
}

void PatchEmbeddingBackward(const PatchEmbeddingBackwardArgs& args, Context& context) {
  CheckArgs(args);
  ForEachChunkOfPatches(args.image, args.dweight, args.dy, context,
                        [&](const PatchGatherArgs& patches) {
                          PatchGather(patches, context);
                          LinearBackwardWeight(WeightProductOf(args, patches), context);
                          if (args.dimage.empty()) return;
                          LinearBackwardInput(InputProductOf(args, patches), context);
                          PatchScatter({.rows = patches.rows,
                                        .patch_h = patches.patch_h,
                                        .patch_w = patches.patch_w,
                                        .first_row = patches.first_row,
                                        .image = args.dimage,
                                        .patch_t = patches.patch_t},
                                       context);
                        });
}

}  // namespace cpu
}  // namespace swinfleet
