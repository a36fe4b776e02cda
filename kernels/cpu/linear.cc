// Linear layers through oneDNN's matrix product, on plain row-major memory.
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace swinfleet {
namespace {

using dnnl::memory;

// Rows of a weight gradient's product that are summed in one call: longer sums are slower.
constexpr int64_t kWeightGradientRows = 2048;

enum class Product { kForward, kBackwardInput, kBackwardWeight };

// dst (rows, columns) = src (rows, inner) * weights (inner, columns) [+ bias] [+ dst].
struct ProductKey {
  Product product;
  int64_t rows, columns, inner;
  bool bias, accumulate;
  int threads;
  auto Tie() const { return std::tie(product, rows, columns, inner, bias, accumulate, threads); }
  bool operator<(const ProductKey& other) const { return Tie() < other.Tie(); }
};

struct CachedProduct {
  dnnl::matmul primitive;
  memory::desc src, weights, bias, dst, scratchpad;
};

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::desc Matrix(int64_t rows, int64_t columns, bool transposed) {
  const memory::dims strides = transposed ? memory::dims{1, rows} : memory::dims{columns, 1};
  return memory::desc({rows, columns}, memory::data_type::f32, strides);
}

std::unique_ptr<CachedProduct> MakeProduct(const ProductKey& key) {
  auto made = std::make_unique<CachedProduct>();
  made->src = Matrix(key.rows, key.inner, key.product == Product::kBackwardWeight);
  made->weights = Matrix(key.inner, key.columns, key.product == Product::kForward);
  made->dst = Matrix(key.rows, key.columns, false);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  if (key.bias) made->bias = Matrix(1, key.columns, false);
  const auto desc = key.bias ? dnnl::matmul::desc(made->src, made->weights, made->bias, made->dst)
                             : dnnl::matmul::desc(made->src, made->weights, made->dst);
  const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, Engine());
  made->scratchpad = primitive_desc.scratchpad_desc();
  made->primitive = dnnl::matmul(primitive_desc);
  return made;
}

// Primitives are made once for each shape. oneDNN fixes the split over threads when it makes one,
// so the number of threads is part of the key.
const CachedProduct& GetProduct(const ProductKey& key) {
  static std::mutex mutex;
  static std::map<ProductKey, std::unique_ptr<CachedProduct>> cache;
  const std::lock_guard lock(mutex);
  omp_set_num_threads(key.threads);
  auto& entry = cache[key];
  if (entry == nullptr) entry = MakeProduct(key);
  return *entry;
}

void Run(const CachedProduct& product, const void* src, const void* weights, const void* bias,
         void* dst, void* scratchpad) {
  static dnnl::stream stream(Engine());
  const auto wrap = [](const memory::desc& desc, const void* data) {
    return memory(desc, Engine(), const_cast<void*>(data));
  };
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(product.src, src)},
                                               {DNNL_ARG_WEIGHTS, wrap(product.weights, weights)},
                                               {DNNL_ARG_DST, wrap(product.dst, dst)}};
  if (bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, wrap(product.bias, bias));
  if (scratchpad != nullptr) {
    arguments.emplace(DNNL_ARG_SCRATCHPAD, wrap(product.scratchpad, scratchpad));
  }
  product.primitive.execute(stream, arguments);
}

const CachedProduct& ProductOf(const LinearForwardArgs& args, const Context& context) {
  const int64_t m = args.x.shape[0], k = args.x.shape[1], n = args.weight.shape[0];
  CHECK(args.weight.shape == Shape({n, k}) && args.y.shape == Shape({m, n}))
      << args.x.shape << " x " << args.weight.shape << " -> " << args.y.shape;
  CHECK(args.bias.empty() || args.bias.NumElements() == n) << args.bias.shape;
  return GetProduct({Product::kForward, m, n, k, !args.bias.empty(), false, context.threads});
}

const CachedProduct& ProductOf(const LinearBackwardInputArgs& args, const Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.weight.shape[1];
  CHECK(args.weight.shape == Shape({n, k}) && args.dx.shape == Shape({m, k}))
      << args.dy.shape << " x " << args.weight.shape << " -> " << args.dx.shape;
  return GetProduct({Product::kBackwardInput, m, k, n, false, args.accumulate, context.threads});
}

const CachedProduct& ProductOf(const LinearBackwardWeightArgs& args, int64_t rows,
                               const Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.x.shape[1];
  CHECK(args.x.shape == Shape({m, k}) && args.dweight.shape == Shape({n, k}))
      << args.dy.shape << "^T x " << args.x.shape << " -> " << args.dweight.shape;
  CHECK(args.dbias.empty() || args.dbias.NumElements() == n) << args.dbias.shape;
  return GetProduct({Product::kBackwardWeight, n, k, rows, false, true, context.threads});
}

void* TakePad(size_t bytes, Context& context) {
  return bytes == 0 ? nullptr : context.workspace->AllocateBytes(bytes);
}

// sums (N) += column sums of rows [begin, end) of dy (M, N).
void AddColumnSums(const float* dy, int64_t columns, int64_t begin, int64_t end, float* sums) {
  for (int64_t row = begin; row < end; ++row) {
    const float* __restrict from = dy + row * columns;
    float* __restrict to = sums;
    for (int64_t i = 0; i < columns; ++i) to[i] += from[i];
  }
}

}  // namespace

void* TakeScratch(const LinearForwardArgs& args, Context& context) {
  return TakePad(ProductOf(args, context).scratchpad.get_size(), context);
}

void* TakeScratch(const LinearBackwardInputArgs& args, Context& context) {
  return TakePad(ProductOf(args, context).scratchpad.get_size(), context);
}

LinearBackwardWeightScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0];
  size_t bytes = 0;
  for (int64_t rows : {std::min(m, kWeightGradientRows), m % kWeightGradientRows}) {
    if (rows > 0) {
      bytes = std::max(bytes, ProductOf(args, rows, context).scratchpad.get_size());
    }
  }
  LinearBackwardWeightScratch scratch;
  scratch.pad = TakePad(bytes, context);
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
  void* pad = TakeScratch(args, context);
  Run(ProductOf(args, context), args.x.data, args.weight.data, args.bias.data, args.y.data, pad);
}

void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context) {
  if (args.dy.shape[0] == 0) return;
  ArenaScope scope(context.workspace);
  void* pad = TakeScratch(args, context);
  Run(ProductOf(args, context), args.dy.data, args.weight.data, nullptr, args.dx.data, pad);
}

void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1];
  if (m == 0) return;
  ArenaScope scope(context.workspace);
  const LinearBackwardWeightScratch scratch = TakeScratch(args, context);
  for (int64_t row = 0; row < m; row += kWeightGradientRows) {
    const int64_t rows = std::min(kWeightGradientRows, m - row);
    Run(ProductOf(args, rows, context), args.dy.Rows(row, rows).data, args.x.Rows(row, rows).data,
        nullptr, args.dweight.data, scratch.pad);
  }
  if (args.dbias.empty()) return;
  std::fill_n(scratch.column_sums, context.threads * n, 0.0f);
  ParallelFor(context.threads, m, 1, [&](int64_t begin, int64_t end, int thread) {
    AddColumnSums(args.dy.f32(), n, begin, end, scratch.column_sums + thread * n);
  });
  AddColumnSums(scratch.column_sums, n, 0, context.threads, args.dbias.f32());
}

}  // namespace cpu
}  // namespace swinfleet
