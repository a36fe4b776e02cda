// Linear layers: products of matrices, each thread's part of the result made by itself. Rows of the
// result (or columns, where there are few rows) are cut evenly, so that no thread waits for
// another, and taken in pieces that oneDNN is fast on.
#include <algorithm>
#include <cstdint>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/packed_weights.h"

namespace swinfleet {
namespace {

using cpu::AddRows;
using cpu::MatrixOperands;
using cpu::MatrixProduct;
using cpu::RunProduct;

// Rows of a product's result that are made in one call: of more, with short rows, the library's
// blocks no longer fit the caches.
constexpr int64_t kPieceRows = 1024;
// Rows of a weight gradient's sum that are added in one call: longer sums are slower.
constexpr int64_t kPieceInner = 2048;
// Parts are cut at multiples of this.
constexpr int64_t kGrain = 16;
// Threads' pads are a multiple of this apart, which what oneDNN asks for fits into but for very
// wide layers. So they stay in place from one product to the next: where they moved with each
// product's size, threads took each other's lines out of their caches.
constexpr size_t kPadStep = 320 * 1024;
// Rows of the result that a thread must have to be worth splitting by rows where columns are many.
constexpr int64_t kRowsOfThread = 64;

// Packed weights are one piece.
bool SplitsRows(const MatrixProduct& p, int threads) {
  return p.weights_packed || p.rows >= p.columns || p.rows >= threads * kRowsOfThread;
}

// `p` with the rows and inner elements, or the columns, of a piece.
MatrixProduct PieceOf(MatrixProduct p, int64_t rows, int64_t columns, int64_t inner) {
  p.rows = rows;
  p.columns = columns;
  p.inner = inner;
  return p;
}

const void* At(const void* data, DType dtype, int64_t stride, bool transposed, int64_t row,
               int64_t column) {
  if (data == nullptr) return nullptr;
  const int64_t element = transposed ? column * stride + row : row * stride + column;
  return static_cast<const char*>(data) + element * static_cast<int64_t>(SizeOf(dtype));
}

// What a product works on. row_sums (rows) += the sums of src over its inner side, a weight
// gradient's bias; null without one.
struct Operands {
  MatrixOperands product;
  float* row_sums = nullptr;
};

// Calls body(piece, operands) for the pieces of rows [first_row, last_row) and columns
// [first_column, last_column) of the result. Only a weight gradient is cut along its inner side:
// the pieces after the first one are added to it. Sums of rows are those of the first columns.
template <typename Body>
void ForEachPiece(const MatrixProduct& p, const Operands& all, int64_t first_row, int64_t last_row,
                  int64_t first_column, int64_t last_column, const Body& body) {
  const MatrixOperands& of = all.product;
  const int64_t step = p.src_transposed ? kPieceInner : p.inner;
  for (int64_t i = first_row; i < last_row; i += kPieceRows) {
    for (int64_t k = 0; k < p.inner; k += step) {
      const int64_t j = first_column;
      MatrixProduct piece = PieceOf(p, std::min(kPieceRows, last_row - i), last_column - j,
                                    std::min(step, p.inner - k));
      piece.accumulate = p.accumulate || k > 0;
      const bool sums = all.row_sums != nullptr && j == 0;
      const MatrixOperands operands = {
          .src = At(of.src, p.dtype, p.src_stride, p.src_transposed, i, k),
          .weights = At(of.weights, p.dtype, p.weights_stride, p.weights_transposed, k, j),
          .bias = At(of.bias, p.bias_dtype, 0, false, 0, j),
          .dst = const_cast<void*>(At(of.dst, p.dst_dtype, p.dst_stride, false, i, j))};
      body(piece, Operands{operands, sums ? all.row_sums + i : nullptr});
    }
  }
}

// Length of what is split over threads.
int64_t SplitLength(const MatrixProduct& p, int threads) {
  return SplitsRows(p, threads) ? p.rows : p.columns;
}

// Calls body(piece, operands) for the pieces of the part [begin, end) of what is split.
template <typename Body>
void ForEachPieceOfPart(const MatrixProduct& p, const Operands& all, int threads, int64_t begin,
                        int64_t end, const Body& body) {
  if (SplitsRows(p, threads)) {
    ForEachPiece(p, all, begin, end, 0, p.columns, body);
  } else {
    ForEachPiece(p, all, 0, p.rows, begin, end, body);
  }
}

// Of a weight gradient src is dy, transposed: its rows in memory are the columns that are summed
// up, while the caches have them.
void RunPiece(const MatrixProduct& piece, const Operands& operands, void* pad) {
  RunProduct(piece, operands.product, pad);
  if (operands.row_sums == nullptr) return;
  void* src = const_cast<void*>(operands.product.src);
  AddRows({src, piece.dtype, piece.inner, piece.rows, piece.src_stride}, operands.row_sums);
}

void RunSplit(const MatrixProduct& p, const Operands& all, const LinearScratch& scratch,
              int threads) {
  ParallelFor(threads, SplitLength(p, threads), kGrain, [&](int64_t begin, int64_t end, int part) {
    ForEachPieceOfPart(p, all, threads, begin, end,
                       [&](const MatrixProduct& piece, const Operands& operands) {
                         RunPiece(piece, operands, scratch.pad + part * scratch.pad_bytes);
                       });
  });
}

MatrixProduct ProductOf(const LinearForwardArgs& args) {
  const int64_t m = args.x.shape[0], k = args.x.shape[1], n = args.weight.shape[0];
  CHECK(args.weight.shape == Shape({n, k}) && args.y.shape == Shape({m, n}))
      << args.x.shape << " x " << args.weight.shape << " -> " << args.y.shape;
  CHECK(args.bias.empty() || args.bias.NumElements() == n) << args.bias.shape;
  CheckFloating(args.x.dtype, {args.weight, args.y});
  if (args.bias.dtype != DType::kF32) CheckFloating(args.x.dtype, {args.bias});
  return {.rows = m,
          .columns = n,
          .inner = k,
          .dtype = args.x.dtype,
          .dst_dtype = args.x.dtype,
          .weights_transposed = true,
          .src_stride = k,
          .weights_stride = k,
          .dst_stride = n,
          .bias = !args.bias.empty(),
          .bias_dtype = args.bias.dtype};
}

MatrixProduct ProductOf(const LinearBackwardInputArgs& args) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.weight.shape[1];
  CHECK(args.weight.shape == Shape({n, k}) && args.dx.shape == Shape({m, k}))
      << args.dy.shape << " x " << args.weight.shape << " -> " << args.dx.shape;
  CheckFloating(args.dy.dtype, {args.weight, args.dx});
  return {.rows = m,
          .columns = k,
          .inner = n,
          .dtype = args.dy.dtype,
          .dst_dtype = args.dy.dtype,
          .src_stride = n,
          .weights_stride = k,
          .dst_stride = k,
          .accumulate = args.accumulate};
}

MatrixProduct ProductOf(const LinearBackwardWeightArgs& args) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.x.shape[1];
  CHECK(args.x.shape == Shape({m, k}) && args.dweight.shape == Shape({n, k}))
      << args.dy.shape << "^T x " << args.x.shape << " -> " << args.dweight.shape;
  CHECK(args.dbias.empty() || args.dbias.NumElements() == n) << args.dbias.shape;
  CheckFloating(args.dy.dtype, {args.x});
  CheckDtype(DType::kF32, {args.dweight, args.dbias});
  return {.rows = n,
          .columns = k,
          .inner = m,
          .dtype = args.dy.dtype,
          .dst_dtype = DType::kF32,
          .src_transposed = true,
          .src_stride = n,
          .weights_stride = k,
          .dst_stride = k,
          .accumulate = args.accumulate};
}

// A forward pass with the weights' copy, if they have one.
struct ForwardProduct {
  MatrixProduct product;
  const void* weights;
};
ForwardProduct Forward(const LinearForwardArgs& args, Context& context) {
  ForwardProduct forward = {ProductOf(args), args.weight.data};
  if (context.packed_weights == nullptr) return forward;
  if (const void* packed = context.packed_weights->Find(args.weight)) {
    forward.product.weights_packed = true;
    forward.weights = packed;
  }
  return forward;
}

LinearScratch TakeProductScratch(const MatrixProduct& p, Context& context) {
  const StaticSplit split(context.threads, SplitLength(p, context.threads), kGrain);
  LinearScratch scratch;
  for (int part = 0; part < split.parts(); ++part) {
    split.Run(part, [&](int64_t begin, int64_t end, int) {
      ForEachPieceOfPart(
          p, {}, context.threads, begin, end, [&](const MatrixProduct& piece, const Operands&) {
            scratch.pad_bytes = std::max(scratch.pad_bytes, cpu::ProductScratchBytes(piece));
          });
    });
  }
  scratch.pad_bytes = (scratch.pad_bytes + kPadStep - 1) / kPadStep * kPadStep;
  if (scratch.pad_bytes > 0) {
    scratch.pad =
        static_cast<char*>(context.workspace->AllocateBytes(split.parts() * scratch.pad_bytes));
  }
  return scratch;
}

}  // namespace

LinearScratch TakeScratch(const LinearForwardArgs& args, Context& context) {
  return TakeProductScratch(Forward(args, context).product, context);
}

LinearScratch TakeScratch(const LinearBackwardInputArgs& args, Context& context) {
  return TakeProductScratch(ProductOf(args), context);
}

LinearScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context) {
  return TakeProductScratch(ProductOf(args), context);
}

namespace cpu {

void LinearForward(const LinearForwardArgs& args, Context& context) {
  if (args.x.shape[0] == 0) return;
  ArenaScope scope(context.workspace);
  const ForwardProduct forward = Forward(args, context);
  const LinearScratch scratch = TakeProductScratch(forward.product, context);
  RunSplit(forward.product, {{args.x.data, forward.weights, args.bias.data, args.y.data}}, scratch,
           context.threads);
}

void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context) {
  if (args.dy.shape[0] == 0) return;
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  RunSplit(ProductOf(args),
           {{.src = args.dy.data, .weights = args.weight.data, .dst = args.dx.data}}, scratch,
           context.threads);
}

void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context) {
  if (args.dy.shape[0] == 0) {
    if (!args.accumulate) std::ranges::fill(args.dweight.span(), 0.0f);
    return;
  }
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  RunSplit(ProductOf(args),
           {{.src = args.dy.data, .weights = args.x.data, .dst = args.dweight.data},
            args.dbias.empty() ? nullptr : args.dbias.f32()},
           scratch, context.threads);
}

}  // namespace cpu
}  // namespace swinfleet
