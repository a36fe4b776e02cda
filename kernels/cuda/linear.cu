// Linear layers: products that cuBLASLt makes, with biases and their gradients in its epilogues.
//
// cuBLASLt counts elements column by column, so a matrix of ours is its transpose there: with ^T
// for that, forward is y^T = weight x^T, and so on.
#include <cublasLt.h>

#include <memory>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

void CheckLt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string("cuBLASLt: ") + what + " failed: " + cublasLtGetStatusString(status));
}

// Of the device that is current at the first call, for the process's life.
cublasLtHandle_t TheHandle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    CheckLt(cublasLtCreate(&made), "its beginning");
    return made;
  }();
  return handle;
}

bool use_tf32 = false;

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
  Matrix a, b, d;
  bool accumulate = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  // The bias, or where its gradient goes; of d's type.
  void* vector = nullptr;
};

Layout LayoutOf(const Matrix& matrix) {
  cublasLtMatrixLayout_t layout = nullptr;
  CheckLt(cublasLtMatrixLayoutCreate(&layout, TypeOf(matrix.view.dtype), matrix.Rows(),
                                     matrix.Columns(), matrix.Rows()),
          "the layout of a matrix");
  return Layout(layout);
}

Description Describe(const Product& p) {
  cublasLtMatmulDesc_t made = nullptr;
  const bool fast = use_tf32 && p.a.view.dtype == DType::kF32;
  CheckLt(cublasLtMatmulDescCreate(&made, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                   CUDA_R_32F),
          "the description of a product");
  Description description(made);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    CheckLt(cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof(value)),
            "an attribute of a product");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (p.vector != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.vector);
  return description;
}

// What an algorithm may rely on.
Preference PreferenceFor(const Product& p, const LinearScratch& scratch) {
  cublasLtMatmulPreference_t made = nullptr;
  CheckLt(cublasLtMatmulPreferenceCreate(&made), "a preference");
  Preference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    CheckLt(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)),
            "an attribute of a preference");
  };
  const auto alignment = [](const Matrix& matrix) {
    const auto at = reinterpret_cast<uintptr_t>(matrix.view.data);
    return static_cast<uint32_t>(std::min<uintptr_t>(256, at & -at));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{scratch.workspace_bytes});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.a));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.b));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.d));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.d));
  // Parts of a sum are kept and added in float32, in a fixed order.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  return preference;
}

void Run(const Product& p, const LinearScratch& scratch, const Context& context) {
  const Layout a = LayoutOf(p.a), b = LayoutOf(p.b), d = LayoutOf(p.d);
  const Description description = Describe(p);
  const Preference preference = PreferenceFor(p, scratch);
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(TheHandle(), description.get(), a.get(), b.get(), d.get(),
                                     d.get(), preference.get(), 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    throw Error(std::string("cuBLASLt has no algorithm for a product of ") +
                NameOf(p.a.view.dtype) + " " + std::to_string(p.d.Rows()) + " x " +
                std::to_string(p.d.Columns()) + ": " + cublasLtGetStatusString(status));
  }
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  CheckLt(
      cublasLtMatmul(TheHandle(), description.get(), &one, p.a.view.data, a.get(), p.b.view.data,
                     b.get(), &beta, p.d.view.data, d.get(), p.d.view.data, d.get(), &found.algo,
                     scratch.workspace, scratch.workspace_bytes, StreamOf(context)),
      "a product");
}

}  // namespace

void UseTf32(bool use) { use_tf32 = use; }
bool UsesTf32() { return use_tf32; }

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
  Product product = {.a = {args.weight, true}, .b = {args.x}, .d = {args.y}};
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
  Run({.a = {args.weight}, .b = {args.dy}, .d = {args.dx}, .accumulate = args.accumulate}, scratch,
      context);
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
  Product product = {
      .a = {args.x}, .b = {args.dy, true}, .d = {args.dweight}, .accumulate = args.accumulate};
  if (!args.dbias.empty()) {
    product.epilogue = CUBLASLT_EPILOGUE_BGRADB;
    product.vector = scratch.vector;
  }
  Run(product, scratch, context);
  if (args.dbias.empty()) return;
  // The library overwrites.
  ForEach(n, AddParts{static_cast<float*>(scratch.vector), 1, n, Elements<float>(args.dbias)},
          context);
}

}  // namespace swinfleet::cuda
