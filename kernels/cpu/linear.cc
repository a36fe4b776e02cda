// Linear layers through oneDNN's matrix product, on plain row-major memory. Where it has none for a
// dtype of 16 bits, blocks are converted and multiplied in float32.
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace swinfleet {
namespace {

using dnnl::memory;

// Rows of a weight gradient's product that are summed in one call: longer sums are slower.
constexpr int64_t kWeightGradientRows = 2048;
// The largest side of a block that is converted to float32.
constexpr int64_t kConvertedSide = 1024;

enum class Product { kForward, kBackwardInput, kBackwardWeight };

// dst (rows, columns) = src (rows, inner) * weights (inner, columns) [+ bias] [+ dst]. The dst of a
// weight gradient is float32.
struct ProductKey {
  Product product;
  DType dtype;
  int64_t rows, columns, inner;
  bool accumulate;
  bool bias;
  DType bias_dtype;
  int threads;
  auto Tie() const {
    return std::tie(product, dtype, rows, columns, inner, accumulate, bias, bias_dtype, threads);
  }
  bool operator<(const ProductKey& other) const { return Tie() < other.Tie(); }
  bool SrcTransposed() const { return product == Product::kBackwardWeight; }
  bool WeightsTransposed() const { return product == Product::kForward; }
  DType DstDtype() const { return product == Product::kBackwardWeight ? DType::kF32 : dtype; }
};

struct CachedProduct {
  dnnl::matmul primitive;
  memory::desc src, weights, bias, dst, scratchpad;
};

// A product's matrices.
struct Operands {
  const void* src;
  const void* weights;
  const void* bias;  // or null
  void* dst;
};

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return memory::data_type::f32;
    case DType::kBF16:
      return memory::data_type::bf16;
    case DType::kF16:
      return memory::data_type::f16;
    case DType::kI32:
    case DType::kU16:
      break;
  }
  LOG(FATAL) << "a linear layer of " << NameOf(dtype);
}

memory::desc Matrix(int64_t rows, int64_t columns, bool transposed, DType dtype) {
  const memory::dims strides = transposed ? memory::dims{1, rows} : memory::dims{columns, 1};
  return memory::desc({rows, columns}, TypeOf(dtype), strides);
}

std::unique_ptr<CachedProduct> MakeProduct(const ProductKey& key) {
  auto made = std::make_unique<CachedProduct>();
  made->src = Matrix(key.rows, key.inner, key.SrcTransposed(), key.dtype);
  made->weights = Matrix(key.inner, key.columns, key.WeightsTransposed(), key.dtype);
  made->dst = Matrix(key.rows, key.columns, false, key.DstDtype());
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  if (key.bias) made->bias = Matrix(1, key.columns, false, key.bias_dtype);
  const auto desc = key.bias ? dnnl::matmul::desc(made->src, made->weights, made->bias, made->dst)
                             : dnnl::matmul::desc(made->src, made->weights, made->dst);
  const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, Engine());
  made->scratchpad = primitive_desc.scratchpad_desc();
  made->primitive = dnnl::matmul(primitive_desc);
  return made;
}

// Null where oneDNN has no such product. With plain strides it never lacks one in float32.
std::unique_ptr<CachedProduct> TryProduct(const ProductKey& key) {
  try {
    return MakeProduct(key);
  } catch (const dnnl::error& error) {
    CHECK(key.dtype != DType::kF32 && error.status == dnnl_unimplemented) << error.what();
    return nullptr;
  }
}

// Primitives are made once for each shape. oneDNN fixes the split over threads when it makes one,
// so the number of threads is part of the key. Null where blocks are to be converted.
const CachedProduct* GetProduct(const ProductKey& key) {
  static std::mutex mutex;
  static std::map<ProductKey, std::unique_ptr<CachedProduct>> cache;
  if (!CpuHasNative(key.dtype)) return nullptr;
  const std::lock_guard lock(mutex);
  omp_set_num_threads(key.threads);
  const auto [entry, missing] = cache.try_emplace(key);
  if (missing) entry->second = TryProduct(key);
  return entry->second.get();
}

void Run(const CachedProduct& product, const Operands& operands, void* scratchpad) {
  static dnnl::stream stream(Engine());
  const auto wrap = [](const memory::desc& desc, const void* data) {
    return memory(desc, Engine(), const_cast<void*>(data));
  };
  std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC, wrap(product.src, operands.src)},
      {DNNL_ARG_WEIGHTS, wrap(product.weights, operands.weights)},
      {DNNL_ARG_DST, wrap(product.dst, operands.dst)}};
  if (operands.bias != nullptr) {
    arguments.emplace(DNNL_ARG_BIAS, wrap(product.bias, operands.bias));
  }
  if (scratchpad != nullptr) {
    arguments.emplace(DNNL_ARG_SCRATCHPAD, wrap(product.scratchpad, scratchpad));
  }
  product.primitive.execute(stream, arguments);
}

// The product of one converted block, added to what its dst holds.
ProductKey BlockKey(const ProductKey& key, int64_t rows, int64_t columns, int64_t inner) {
  return {.product = key.product,
          .dtype = DType::kF32,
          .rows = rows,
          .columns = columns,
          .inner = inner,
          .accumulate = true,
          .bias = false,
          .bias_dtype = DType::kF32,
          .threads = key.threads};
}

// Rows [i, i + height) and columns [j, j + width) of a matrix (rows, columns), in memory that may
// hold it transposed.
cpu::RowBlock BlockOf(const void* matrix, DType dtype, int64_t rows, int64_t columns,
                      bool transposed, int64_t i, int64_t height, int64_t j, int64_t width) {
  if (transposed) return BlockOf(matrix, dtype, columns, rows, false, j, width, i, height);
  char* data = static_cast<char*>(const_cast<void*>(matrix));
  const int64_t first = i * columns + j;
  return {data + first * static_cast<int64_t>(SizeOf(dtype)), dtype, height, width, columns};
}

// What a block's sums begin with: what is there, the bias, or zero.
void StartBlock(const ProductKey& key, const cpu::RowBlock& dst, const void* bias, int64_t column,
                float* sums) {
  if (key.accumulate) {
    WidenRows(dst, sums, key.threads);
  } else if (key.bias) {
    // A stride of zero: the bias again in every row.
    cpu::RowBlock row =
        BlockOf(bias, key.bias_dtype, 1, key.columns, false, 0, dst.rows, column, dst.columns);
    row.stride = 0;
    WidenRows(row, sums, key.threads);
  } else {
    std::fill_n(sums, dst.rows * dst.columns, 0.0f);
  }
}

void RunConverted(const ProductKey& key, const Operands& operands, const LinearScratch& scratch) {
  const auto side = [](int64_t all, int64_t at) { return std::min(kConvertedSide, all - at); };
  for (int64_t j = 0; j < key.columns; j += kConvertedSide) {
    const int64_t columns = side(key.columns, j);
    for (int64_t i = 0; i < key.rows; i += kConvertedSide) {
      const int64_t rows = side(key.rows, i);
      const cpu::RowBlock dst =
          BlockOf(operands.dst, key.DstDtype(), key.rows, key.columns, false, i, rows, j, columns);
      StartBlock(key, dst, operands.bias, j, scratch.dst);
      for (int64_t p = 0; p < key.inner; p += kConvertedSide) {
        const int64_t inner = side(key.inner, p);
        WidenRows(BlockOf(operands.src, key.dtype, key.rows, key.inner, key.SrcTransposed(), i,
                          rows, p, inner),
                  scratch.src, key.threads);
        WidenRows(BlockOf(operands.weights, key.dtype, key.inner, key.columns,
                          key.WeightsTransposed(), p, inner, j, columns),
                  scratch.weights, key.threads);
        Run(*GetProduct(BlockKey(key, rows, columns, inner)),
            {scratch.src, scratch.weights, nullptr, scratch.dst}, scratch.pad);
      }
      NarrowRows(scratch.dst, dst, key.threads);
    }
  }
}

void RunProduct(const ProductKey& key, const Operands& operands, const LinearScratch& scratch) {
  if (const CachedProduct* product = GetProduct(key)) {
    Run(*product, operands, scratch.pad);
  } else {
    RunConverted(key, operands, scratch);
  }
}

ProductKey KeyOf(const LinearForwardArgs& args, const Context& context) {
  const int64_t m = args.x.shape[0], k = args.x.shape[1], n = args.weight.shape[0];
  CHECK(args.weight.shape == Shape({n, k}) && args.y.shape == Shape({m, n}))
      << args.x.shape << " x " << args.weight.shape << " -> " << args.y.shape;
  CHECK(args.bias.empty() || args.bias.NumElements() == n) << args.bias.shape;
  CheckFloating(args.x.dtype, {args.weight, args.y});
  if (args.bias.dtype != DType::kF32) CheckFloating(args.x.dtype, {args.bias});
  return {Product::kForward, args.x.dtype,   m, n, k, false, !args.bias.empty(),
          args.bias.dtype,   context.threads};
}

ProductKey KeyOf(const LinearBackwardInputArgs& args, const Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.weight.shape[1];
  CHECK(args.weight.shape == Shape({n, k}) && args.dx.shape == Shape({m, k}))
      << args.dy.shape << " x " << args.weight.shape << " -> " << args.dx.shape;
  CheckFloating(args.dy.dtype, {args.weight, args.dx});
  return {Product::kBackwardInput, args.dy.dtype, m, k, n, args.accumulate, false, DType::kF32,
          context.threads};
}

// Of `rows` rows.
ProductKey KeyOf(const LinearBackwardWeightArgs& args, int64_t rows, const Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.x.shape[1];
  CHECK(args.x.shape == Shape({m, k}) && args.dweight.shape == Shape({n, k}))
      << args.dy.shape << "^T x " << args.x.shape << " -> " << args.dweight.shape;
  CHECK(args.dbias.empty() || args.dbias.NumElements() == n) << args.dbias.shape;
  CheckFloating(args.dy.dtype, {args.x});
  CheckDtype(DType::kF32, {args.dweight, args.dbias});
  return {Product::kBackwardWeight, args.dy.dtype, n, k, rows, true, false, DType::kF32,
          context.threads};
}

// Bytes that oneDNN asks for.
size_t PadBytes(const ProductKey& key) {
  if (const CachedProduct* product = GetProduct(key)) return product->scratchpad.get_size();
  size_t bytes = 0;
  const auto sides = [](int64_t all) {
    return std::array<int64_t, 2>{std::min(all, kConvertedSide), all % kConvertedSide};
  };
  for (int64_t rows : sides(key.rows)) {
    for (int64_t columns : sides(key.columns)) {
      for (int64_t inner : sides(key.inner)) {
        if (rows == 0 || columns == 0 || inner == 0) continue;
        bytes = std::max(bytes, PadBytes(BlockKey(key, rows, columns, inner)));
      }
    }
  }
  return bytes;
}

// `key` is the largest of the products.
LinearScratch TakeScratch(const ProductKey& key, size_t pad_bytes, Context& context) {
  LinearScratch scratch;
  const auto take = [&](size_t bytes) {
    return bytes == 0 ? nullptr : context.workspace->AllocateBytes(bytes);
  };
  scratch.pad = take(pad_bytes);
  if (GetProduct(key) != nullptr) return scratch;
  const int64_t rows = std::min(key.rows, kConvertedSide);
  const int64_t columns = std::min(key.columns, kConvertedSide);
  const int64_t inner = std::min(key.inner, kConvertedSide);
  scratch.src = static_cast<float*>(take(rows * inner * sizeof(float)));
  scratch.weights = static_cast<float*>(take(inner * columns * sizeof(float)));
  scratch.dst = static_cast<float*>(take(rows * columns * sizeof(float)));
  return scratch;
}

#if HWY_ARCH_X86
// Every product asks, and asking the processor takes microseconds, in a virtual machine many: the
// answer is kept with the instruction set that Highway had chosen then.
bool HasWideVectors() {
  static std::atomic<int64_t> known = -1;
  const hwy::ChosenTarget& target = hwy::GetChosenTarget();
  const int64_t answer = known.load(std::memory_order_relaxed);
  if (answer >= 0 && target.IsInitialized() &&
      answer >> 1 == static_cast<int64_t>(target.GetIndex())) {
    return (answer & 1) != 0;
  }
  const bool wide = (hwy::SupportedTargets() & (HWY_AVX3 | HWY_AVX3_DL)) != 0;
  known.store(2 * static_cast<int64_t>(target.GetIndex()) + (wide ? 1 : 0),
              std::memory_order_relaxed);
  return wide;
}
#endif

}  // namespace

bool CpuHasNative(DType dtype) {
  if (dtype == DType::kF32) return true;
#if HWY_ARCH_X86
  // The processor's instructions for both formats work on vectors of 512 bits.
  if (!HasWideVectors()) return false;
  if (dtype == DType::kBF16) {
    constexpr int kNeeded = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
    static const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
    return (isa & kNeeded) == kNeeded;
  }
  if (dtype == DType::kF16) {
    static const bool available =
        __builtin_cpu_supports("avx512fp16") &&
        TryProduct({Product::kForward, DType::kF16, 64, 64, 64, false, false, DType::kF32, 1});
    return available;
  }
#endif
  return false;
}

LinearScratch TakeScratch(const LinearForwardArgs& args, Context& context) {
  const ProductKey key = KeyOf(args, context);
  return TakeScratch(key, PadBytes(key), context);
}

LinearScratch TakeScratch(const LinearBackwardInputArgs& args, Context& context) {
  const ProductKey key = KeyOf(args, context);
  return TakeScratch(key, PadBytes(key), context);
}

LinearScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0];
  const ProductKey key = KeyOf(args, std::min(m, kWeightGradientRows), context);
  size_t bytes = PadBytes(key);
  if (m > kWeightGradientRows && m % kWeightGradientRows > 0) {
    bytes = std::max(bytes, PadBytes(KeyOf(args, m % kWeightGradientRows, context)));
  }
  LinearScratch scratch = TakeScratch(key, bytes, context);
  if (!args.dbias.empty()) {
    scratch.column_sums = static_cast<float*>(
        context.workspace->AllocateBytes(context.threads * args.dy.shape[1] * sizeof(float)));
  }
  return scratch;
}

namespace cpu {

void LinearForward(const LinearForwardArgs& args, Context& context) {
  if (args.x.shape[0] == 0) return;
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  RunProduct(KeyOf(args, context), {args.x.data, args.weight.data, args.bias.data, args.y.data},
             scratch);
}

void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context) {
  if (args.dy.shape[0] == 0) return;
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  RunProduct(KeyOf(args, context), {args.dy.data, args.weight.data, nullptr, args.dx.data},
             scratch);
}

void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1];
  if (m == 0) return;
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  for (int64_t row = 0; row < m; row += kWeightGradientRows) {
    const int64_t rows = std::min(kWeightGradientRows, m - row);
    RunProduct(
        KeyOf(args, rows, context),
        {args.dy.Rows(row, rows).data, args.x.Rows(row, rows).data, nullptr, args.dweight.data},
        scratch);
  }
  if (args.dbias.empty()) return;
  std::fill_n(scratch.column_sums, context.threads * n, 0.0f);
  ParallelFor(context.threads, m, 1, [&](int64_t begin, int64_t end, int thread) {
    const TensorView part = args.dy.Rows(begin, end - begin);
    AddRows({part.data, part.dtype, end - begin, n, n}, scratch.column_sums + thread * n);
  });
  AddRows({scratch.column_sums, DType::kF32, context.threads, n, n}, args.dbias.f32());
}

}  // namespace cpu
}  // namespace swinfleet
