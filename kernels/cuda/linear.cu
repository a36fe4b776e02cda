// Linear layers: products that cuBLASLt makes, with biases and their gradients in its epilogues.
//
// cuBLASLt counts elements column by column, so a matrix of ours is its transpose there: with ^T
// for that, forward is y^T = weight x^T, and so on.
#include <cublasLt.h>

#include <array>
#include <compare>
#include <memory>
#include <sstream>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

void CheckLt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string("cuBLASLt: the ") + what + " failed: " + cublasLtGetStatusString(status));
}

// Of the device that is current at the first call, for the process's life.
cublasLtHandle_t TheHandle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    CheckLt(cublasLtCreate(&made), "beginning");
    return made;
  }();
  return handle;
}

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

template <auto kDestroy>
struct Destroyer {
  template <typename T>
  void operator()(T* made) const {
    kDestroy(made);
  }
};
using Description =
    std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroyer<cublasLtMatmulDescDestroy>>;
using Layout =
    std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroyer<cublasLtMatrixLayoutDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroyer<cublasLtMatmulPreferenceDestroy>>;

// A matrix as cuBLASLt counts, without gaps: one of ours with as many columns as it has rows.
struct Matrix {
  TensorView view;
  bool transposed = false;  // when it is multiplied

  int64_t Rows() const { return view.shape[1]; }
  int64_t Columns() const { return view.shape[0]; }
};

// d = op(a) op(b), or d += that.
struct Product {
  const char* what;  // for messages
  Matrix a, b, d;
  bool accumulate = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  // The bias, or where its gradient goes; of d's type, at a multiple of 16 bytes.
  void* vector = nullptr;

  int64_t Inner() const { return a.transposed ? a.Rows() : a.Columns(); }
};

// All that an algorithm is chosen by. Not whether the product is added to what is there, which the
// library is told when it computes, and no address: the same layer must have the same bits wherever
// its tensors lie, which depends on stages of ZeRO and on ranks.
struct ProductKey {
  int64_t rows, columns, inner;
  DType factors, result;
  bool a_transposed, b_transposed, tf32;
  cublasLtEpilogue_t epilogue;
  std::array<uint32_t, 3> alignment;  // bytes, of a, b and d
  size_t workspace_bytes;

  auto operator<=>(const ProductKey&) const = default;
};

// What an address is a multiple of, as far as algorithms make a difference: 16 bytes are what a
// thread moves at once.
uint32_t AlignmentOf(const Matrix& matrix) {
  const auto at = reinterpret_cast<uintptr_t>(matrix.view.data);
  return static_cast<uint32_t>(std::min<uintptr_t>(16, at & -at));
}

ProductKey KeyOf(const Product& p, const LinearScratch& scratch, const Context& context) {
  return {.rows = p.d.Rows(),
          .columns = p.d.Columns(),
          .inner = p.Inner(),
          .factors = p.a.view.dtype,
          .result = p.d.view.dtype,
          .a_transposed = p.a.transposed,
          .b_transposed = p.b.transposed,
          .tf32 = context.tf32 && p.a.view.dtype == DType::kF32,
          .epilogue = p.epilogue,
          .alignment = {AlignmentOf(p.a), AlignmentOf(p.b), AlignmentOf(p.d)},
          .workspace_bytes = scratch.workspace_bytes};
}

Layout LayoutOf(const Matrix& matrix) {
  cublasLtMatrixLayout_t layout = nullptr;
  CheckLt(cublasLtMatrixLayoutCreate(&layout, TypeOf(matrix.view.dtype), matrix.Rows(),
                                     matrix.Columns(), matrix.Rows()),
          "layout of a matrix");
  return Layout(layout);
}

template <typename T>
void Set(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  CheckLt(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof(value)),
          "attribute of a product");
}

Description Describe(const ProductKey& key) {
  cublasLtMatmulDesc_t made = nullptr;
  CheckLt(cublasLtMatmulDescCreate(
              &made, key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "description of a product");
  Description description(made);
  Set(description, CUBLASLT_MATMUL_DESC_TRANSA, key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  Set(description, CUBLASLT_MATMUL_DESC_TRANSB, key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
  return description;
}

// What an algorithm may rely on.
Preference PreferenceFor(const ProductKey& key) {
  cublasLtMatmulPreference_t made = nullptr;
  CheckLt(cublasLtMatmulPreferenceCreate(&made), "preference");
  Preference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    CheckLt(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)),
            "attribute of a preference");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{key.workspace_bytes});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignment[0]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignment[1]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignment[2]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignment[2]);
  // Parts of a sum are kept and added in float32, in a fixed order.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  return preference;
}

const char* NameOf(cublasLtEpilogue_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_BIAS:
      return "BIAS";
    case CUBLASLT_EPILOGUE_BGRADB:
      return "BGRADB";
    default:
      return "DEFAULT";
  }
}

[[noreturn]] void FailWithoutAlgorithm(const ProductKey& key, const char* what,
                                       cublasStatus_t status) {
  const auto [a, b, d] = key.alignment;
  std::ostringstream text;
  text << "cuBLASLt " << cublasLtGetVersion() << " has no algorithm for the " << what << ": "
       << NameOf(key.result) << " " << key.columns << " x " << key.rows << " of sums over "
       << key.inner << " products of " << NameOf(key.factors) << (key.tf32 ? " in TF32" : "")
       << ", epilogue " << NameOf(key.epilogue) << ", factors at multiples of " << b << " and " << a
       << " bytes, the result of " << d << ", in a workspace of " << key.workspace_bytes
       << " bytes: " << cublasLtGetStatusString(status)
       << ". Train on the CPU (--device cpu), or with another version of cuBLASLt";
  throw Error(text.str());
}

// What the library is told of a product, and what it has chosen.
struct ProductPlan {
  Layout a, b, d;
  Description description;
  cublasLtMatmulAlgo_t algorithm;

  ProductPlan(const ProductKey& key, const Product& p)
      : a(LayoutOf(p.a)), b(LayoutOf(p.b)), d(LayoutOf(p.d)), description(Describe(key)) {
    SetVector(p);
    const Preference preference = PreferenceFor(key);
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(TheHandle(), description.get(), a.get(), b.get(), d.get(),
                                       d.get(), preference.get(), 1, &found, &count);
    if (status != CUBLAS_STATUS_SUCCESS || count == 0) FailWithoutAlgorithm(key, p.what, status);
    algorithm = found.algo;
  }

  // The one address that belongs to the description.
  void SetVector(const Product& p) const {
    if (p.vector != nullptr) Set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.vector);
  }
};

void Run(const Product& p, const LinearScratch& scratch, const Context& context) {
  // Of the one thread that computes.
  static PlanCache<ProductKey, ProductPlan> plans;
  const ProductKey key = KeyOf(p, scratch, context);
  const ProductPlan& plan = plans.Get(key, key, p);
  plan.SetVector(p);
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  CheckLt(cublasLtMatmul(TheHandle(), plan.description.get(), &one, p.a.view.data, plan.a.get(),
                         p.b.view.data, plan.b.get(), &beta, p.d.view.data, plan.d.get(),
                         p.d.view.data, plan.d.get(), &plan.algorithm, scratch.workspace,
                         scratch.workspace_bytes, StreamOf(context)),
          p.what);
}

}  // namespace

void LinearForward(const LinearForwardArgs& args, Context& context) {
  const int64_t m = args.x.shape[0], k = args.x.shape[1], n = args.weight.shape[0];
  CHECK(args.weight.shape == Shape({n, k}) && args.y.shape == Shape({m, n}))
      << args.x.shape << " x " << args.weight.shape << " -> " << args.y.shape;
  CHECK(args.bias.empty() || args.bias.NumElements() == n) << args.bias.shape;
  CheckFloating(args.x.dtype, {args.weight, args.y});
  if (args.bias.dtype != DType::kF32) CheckFloating(args.x.dtype, {args.bias});
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  if (m == 0) return;
  Product product = {
      .what = "outputs of a linear layer", .a = {args.weight, true}, .b = {args.x}, .d = {args.y}};
  if (!args.bias.empty()) {
    product.epilogue = CUBLASLT_EPILOGUE_BIAS;
    product.vector = args.bias.data;
    if (!TakesBias(args)) {
      Cast({args.bias, {scratch.vector, args.bias.shape, args.y.dtype, Device::kCuda}}, context);
      product.vector = scratch.vector;
    }
  }
  Run(product, scratch, context);
}

void LinearBackwardInput(const LinearBackwardInputArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.weight.shape[1];
  CHECK(args.weight.shape == Shape({n, k}) && args.dx.shape == Shape({m, k}))
      << args.dy.shape << " x " << args.weight.shape << " -> " << args.dx.shape;
  CheckFloating(args.dy.dtype, {args.weight, args.dx});
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  if (m == 0) return;
  Run({.what = "inputs' gradients of a linear layer",
       .a = {args.weight},
       .b = {args.dy},
       .d = {args.dx},
       .accumulate = args.accumulate},
      scratch, context);
}

void LinearBackwardWeight(const LinearBackwardWeightArgs& args, Context& context) {
  const int64_t m = args.dy.shape[0], n = args.dy.shape[1], k = args.x.shape[1];
  CHECK(args.x.shape == Shape({m, k}) && args.dweight.shape == Shape({n, k}))
      << args.dy.shape << "^T x " << args.x.shape << " -> " << args.dweight.shape;
  CHECK(args.dbias.empty() || args.dbias.NumElements() == n) << args.dbias.shape;
  CheckFloating(args.dy.dtype, {args.x});
  CheckDtype(DType::kF32, {args.dweight, args.dbias});
  ArenaScope scope(context.workspace);
  const LinearScratch scratch = TakeScratch(args, context);
  if (m == 0) {
    if (!args.accumulate) Fill({.x = args.dweight, .value = 0}, context);
    return;
  }
  Product product = {.what = "weights' gradients of a linear layer",
                     .a = {args.x},
                     .b = {args.dy, true},
                     .d = {args.dweight},
                     .accumulate = args.accumulate};
  if (!args.dbias.empty()) {
    product.epilogue = CUBLASLT_EPILOGUE_BGRADB;
    product.vector = scratch.vector;
  }
  Run(product, scratch, context);
  if (args.dbias.empty()) return;
  // The library overwrites.
  AddParts({static_cast<float*>(scratch.vector), 1, n, n}, Elements<float>(args.dbias), context);
}

}  // namespace swinfleet::cuda
