#include "kernels/cpu/matrix_product.h"

#include <glog/logging.h>
#include <hwy/highway.h>
#include <hwy/targets.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "kernels/cpu/rows.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace cpu {
namespace {

using dnnl::memory;

// The sides of a block that is converted to float32: a thread's blocks stay in its caches, and
// those of the weights are used for many rows.
constexpr int64_t kConvertedRows = 256;
constexpr int64_t kConvertedSide = 1024;

std::atomic<int64_t> products_made = 0;

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
  LOG(FATAL) << "a matrix product of " << NameOf(dtype);
}

memory::desc Matrix(int64_t rows, int64_t columns, bool transposed, int64_t stride, DType dtype) {
  const memory::dims strides = transposed ? memory::dims{1, stride} : memory::dims{stride, 1};
  return memory::desc({rows, columns}, TypeOf(dtype), strides);
}

// The order in which products read such weights fastest, whatever their rows; none where it is the
// plain one.
std::optional<memory::desc> PackedDesc(const WeightsForm& form) {
  // Of enough rows for what large products are made with.
  constexpr int64_t kRows = 256;
  if (!CpuHasNative(form.dtype)) return std::nullopt;
  omp_set_num_threads(1);
  const memory::desc any({form.inner, form.columns}, TypeOf(form.dtype), memory::format_tag::any);
  const dnnl::matmul::desc desc(Matrix(kRows, form.inner, false, form.inner, form.dtype), any,
                                Matrix(kRows, form.columns, false, form.columns, form.dtype));
  const memory::desc best = dnnl::matmul::primitive_desc(desc, Engine()).weights_desc();
  const bool plain = best == Matrix(form.inner, form.columns, true, form.inner, form.dtype) ||
                     best == Matrix(form.inner, form.columns, false, form.columns, form.dtype);
  return plain ? std::nullopt : std::optional(best);
}

memory::desc WeightsOf(const MatrixProduct& p) {
  if (!p.weights_packed) {
    return Matrix(p.inner, p.columns, p.weights_transposed, p.weights_stride, p.dtype);
  }
  return PackedDesc({.columns = p.columns, .inner = p.inner, .dtype = p.dtype}).value();
}

// A primitive and the memory objects that it is called with: making these anew for each call costs
// as much as a small product.
class CachedProduct {
 public:
  explicit CachedProduct(const MatrixProduct& p) {
    const memory::desc src = Matrix(p.rows, p.inner, p.src_transposed, p.src_stride, p.dtype);
    const memory::desc weights = WeightsOf(p);
    const memory::desc dst = Matrix(p.rows, p.columns, false, p.dst_stride, p.dst_dtype);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const memory::desc bias =
        p.bias ? Matrix(1, p.columns, false, p.columns, p.bias_dtype) : memory::desc();
    const auto desc = p.bias ? dnnl::matmul::desc(src, weights, bias, dst)
                             : dnnl::matmul::desc(src, weights, dst);
    const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, Engine());
    primitive_ = dnnl::matmul(primitive_desc);
    scratch_bytes_ = primitive_desc.scratchpad_desc().get_size();
    Add(DNNL_ARG_SRC, src);
    Add(DNNL_ARG_WEIGHTS, weights);
    Add(DNNL_ARG_DST, dst);
    if (p.bias) Add(DNNL_ARG_BIAS, bias);
    if (scratch_bytes_ > 0) Add(DNNL_ARG_SCRATCHPAD, primitive_desc.scratchpad_desc());
  }

  size_t scratch_bytes() const { return scratch_bytes_; }

  void Run(const MatrixOperands& operands, void* scratch) {
    thread_local dnnl::stream stream(Engine());
    const auto set = [&](int argument, const void* data) {
      const auto found = arguments_.find(argument);
      if (found != arguments_.end()) found->second.set_data_handle(const_cast<void*>(data));
    };
    set(DNNL_ARG_SRC, operands.src);
    set(DNNL_ARG_WEIGHTS, operands.weights);
    set(DNNL_ARG_DST, operands.dst);
    set(DNNL_ARG_BIAS, operands.bias);
    set(DNNL_ARG_SCRATCHPAD, scratch);
    primitive_.execute(stream, arguments_);
  }

 private:
  void Add(int argument, const memory::desc& desc) {
    arguments_.emplace(argument, memory(desc, Engine(), DNNL_MEMORY_NONE));
  }

  dnnl::matmul primitive_;
  size_t scratch_bytes_ = 0;
  std::unordered_map<int, memory> arguments_;
};

// Null where oneDNN has no such product. With plain strides it never lacks one in float32.
std::unique_ptr<CachedProduct> TryProduct(const MatrixProduct& product) {
  try {
    return std::make_unique<CachedProduct>(product);
  } catch (const dnnl::error& error) {
    CHECK(product.dtype != DType::kF32 && error.status == dnnl_unimplemented) << error.what();
    return nullptr;
  }
}

// Made once for each shape and thread: memory objects can't be shared. oneDNN fixes a primitive's
// split over threads when it makes one. Null where blocks are to be converted.
CachedProduct* GetProduct(const MatrixProduct& product) {
  thread_local std::map<MatrixProduct, std::unique_ptr<CachedProduct>> cache;
  if (!CpuHasNative(product.dtype)) return nullptr;
  omp_set_num_threads(1);
  const auto [entry, missing] = cache.try_emplace(product);
  if (missing) {
    entry->second = TryProduct(product);
    products_made.fetch_add(1, std::memory_order_relaxed);
  }
  return entry->second.get();
}

// Rows [i, i + height) and columns [j, j + width) of a matrix, in memory that may hold it
// transposed.
RowBlock BlockOf(const void* matrix, DType dtype, int64_t stride, bool transposed, int64_t i,
                 int64_t height, int64_t j, int64_t width) {
  if (transposed) return BlockOf(matrix, dtype, stride, false, j, width, i, height);
  char* data = static_cast<char*>(const_cast<void*>(matrix));
  const int64_t first = i * stride + j;
  return {data + first * static_cast<int64_t>(SizeOf(dtype)), dtype, height, width, stride};
}

// The product of converted blocks, added to what its dst holds.
MatrixProduct BlockProduct(const MatrixProduct& p, int64_t rows, int64_t columns, int64_t inner) {
  return {.rows = rows,
          .columns = columns,
          .inner = inner,
          .src_transposed = p.src_transposed,
          .weights_transposed = p.weights_transposed,
          .src_stride = p.src_transposed ? rows : inner,
          .weights_stride = p.weights_transposed ? inner : columns,
          .dst_stride = columns,
          .accumulate = true};
}

// A thread's blocks in float32, and what oneDNN asks for beside them.
struct ConvertedBlocks {
  ConvertedBlocks(const MatrixProduct& p, void* scratch) {
    const int64_t rows = std::min(p.rows, kConvertedRows);
    const int64_t columns = std::min(p.columns, kConvertedSide);
    const int64_t inner = std::min(p.inner, kConvertedSide);
    const auto take = [&](int64_t floats) {
      float* taken = static_cast<float*>(scratch) + this->floats;
      this->floats += (floats + 15) / 16 * 16;
      return taken;
    };
    src = take(rows * inner);
    weights = take(inner * columns);
    dst = take(rows * columns);
    pad = take(0);
  }
  int64_t floats = 0;
  float *src, *weights, *dst, *pad;
};

// What a block's sums begin with: what is there, the bias, or zero.
void StartBlock(const MatrixProduct& p, const RowBlock& dst, const void* bias, int64_t column,
                float* sums) {
  if (p.accumulate) {
    WidenRows(dst, sums);
  } else if (p.bias) {
    // A stride of zero: the bias again in every row.
    RowBlock row = BlockOf(bias, p.bias_dtype, 0, false, 0, dst.rows, column, dst.columns);
    WidenRows(row, sums);
  } else {
    std::fill_n(sums, dst.rows * dst.columns, 0.0f);
  }
}

void RunConverted(const MatrixProduct& p, const MatrixOperands& operands, void* scratch) {
  const ConvertedBlocks blocks(p, scratch);
  for (int64_t j = 0; j < p.columns; j += kConvertedSide) {
    const int64_t columns = std::min(kConvertedSide, p.columns - j);
    for (int64_t i = 0; i < p.rows; i += kConvertedRows) {
      const int64_t rows = std::min(kConvertedRows, p.rows - i);
      const RowBlock dst =
          BlockOf(operands.dst, p.dst_dtype, p.dst_stride, false, i, rows, j, columns);
      StartBlock(p, dst, operands.bias, j, blocks.dst);
      for (int64_t k = 0; k < p.inner; k += kConvertedSide) {
        const int64_t inner = std::min(kConvertedSide, p.inner - k);
        WidenRows(BlockOf(operands.src, p.dtype, p.src_stride, p.src_transposed, i, rows, k, inner),
                  blocks.src);
        // With one block of the inner side the weights are there from the first rows on.
        if (i == 0 || p.inner > kConvertedSide) {
          WidenRows(BlockOf(operands.weights, p.dtype, p.weights_stride, p.weights_transposed, k,
                            inner, j, columns),
                    blocks.weights);
        }
        GetProduct(BlockProduct(p, rows, columns, inner))
            ->Run({blocks.src, blocks.weights, nullptr, blocks.dst}, blocks.pad);
      }
      NarrowRows(blocks.dst, dst);
    }
  }
}

// Calls body(size) for the sizes of the blocks of a side.
template <typename Body>
void ForEachSize(int64_t all, int64_t block, const Body& body) {
  if (all >= block) body(block);
  if (all % block > 0) body(all % block);
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

size_t PackedBytes(const WeightsForm& form) {
  const std::optional<memory::desc> packed = PackedDesc(form);
  return packed ? packed->get_size() : 0;
}

void PackWeights(const WeightsForm& form, const void* plain, void* packed) {
  memory from(Matrix(form.inner, form.columns, true, form.inner, form.dtype), Engine(),
                    const_cast<void*>(plain));
  memory to(PackedDesc(form).value(), Engine(), packed);
  dnnl::stream stream(Engine());
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
}

size_t ProductScratchBytes(const MatrixProduct& product) {
  if (const CachedProduct* cached = GetProduct(product)) return cached->scratch_bytes();
  size_t pad = 0;
  ForEachSize(product.rows, kConvertedRows, [&](int64_t rows) {
    ForEachSize(product.columns, kConvertedSide, [&](int64_t columns) {
      ForEachSize(product.inner, kConvertedSide, [&](int64_t inner) {
        pad =
            std::max(pad, GetProduct(BlockProduct(product, rows, columns, inner))->scratch_bytes());
      });
    });
  });
  return ConvertedBlocks(product, nullptr).floats * sizeof(float) + pad;
}

void RunProduct(const MatrixProduct& product, const MatrixOperands& operands, void* scratch) {
  if (CachedProduct* cached = GetProduct(product)) {
    cached->Run(operands, scratch);
  } else {
    RunConverted(product, operands, scratch);
  }
}

}  // namespace cpu

int64_t CpuProductsMade() { return cpu::products_made.load(std::memory_order_relaxed); }

bool CpuHasNative(DType dtype) {
  if (dtype == DType::kF32) return true;
#if HWY_ARCH_X86
  // The processor's instructions for both formats work on vectors of 512 bits.
  if (!cpu::HasWideVectors()) return false;
  if (dtype == DType::kBF16) {
    constexpr int kNeeded = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
    static const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
    return (isa & kNeeded) == kNeeded;
  }
  if (dtype == DType::kF16) {
    static const bool available =
        __builtin_cpu_supports("avx512fp16") && cpu::TryProduct({.rows = 64,
                                                                 .columns = 64,
                                                                 .inner = 64,
                                                                 .dtype = DType::kF16,
                                                                 .dst_dtype = DType::kF16,
                                                                 .src_stride = 64,
                                                                 .weights_stride = 64,
                                                                 .dst_stride = 64}) != nullptr;
    return available;
  }
#endif
  return false;
}

}  // namespace swinfleet
