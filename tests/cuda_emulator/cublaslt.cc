// The part of cuBLASLt that the backend uses, in the library's place: it checks what the library
// would, as strictly as its documentation is, and refuses everything else. Its algorithms need the
// alignments and the workspace that the caller has promised, all of them.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>

#include "tests/cuda_emulator/internal.h"

namespace swinfleet::emulator {
namespace {

struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t stride;  // elements from a column to the next

  size_t ElementBytes() const { return type == CUDA_R_32F ? 4 : 2; }
};

struct Description {
  cublasComputeType_t compute;
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* vector = nullptr;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // A, B, C, D
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
};

// What the heuristic promises of its algorithm; lies in cublasLtMatmulAlgo_t.
struct Algorithm {
  uint64_t mark;
  uint64_t workspace;
  uint32_t alignment[4];
  uint64_t rows, columns;  // of D
};
constexpr uint64_t kMark = 0x73776c74616c676f;
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

template <typename T, typename Opaque>
const T& As(const Opaque* opaque) {
  return *reinterpret_cast<const T*>(opaque);
}

// Takes an attribute of a type; the size that comes with it must be that type's.
template <typename T>
cublasStatus_t Take(const void* from, size_t bytes, T* to) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

bool IsType(cudaDataType_t type) {
  return type == CUDA_R_32F || type == CUDA_R_16BF || type == CUDA_R_16F;
}

// The size of the sum.
uint64_t InnerOf(const Description& d, const Layout& a) {
  return d.transpose_a == CUBLAS_OP_T ? a.rows : a.columns;
}

cublasStatus_t CheckProblem(const Description& d, const Layout& a, const Layout& b, const Layout& c,
                            const Layout& result) {
  const bool at = d.transpose_a == CUBLAS_OP_T, bt = d.transpose_b == CUBLAS_OP_T;
  if ((at ? a.columns : a.rows) != result.rows || (bt ? b.rows : b.columns) != result.columns ||
      (bt ? b.columns : b.rows) != InnerOf(d, a) || c.rows != result.rows ||
      c.columns != result.columns || result.rows == 0 || result.columns == 0 ||
      InnerOf(d, a) == 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // The documented combinations: both factors alike, the result as they are or float32.
  const bool types = IsType(a.type) && a.type == b.type && c.type == result.type &&
                     (result.type == a.type || result.type == CUDA_R_32F);
  const bool tf32 = d.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (!types || (tf32 && a.type != CUDA_R_32F) || (!tf32 && d.compute != CUBLAS_COMPUTE_32F)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (d.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
  if (d.epilogue != CUBLASLT_EPILOGUE_BIAS && d.epilogue != CUBLASLT_EPILOGUE_BGRADB) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  // Not documented, and found by others: without it there is no algorithm, or a fault.
  const bool aligned = reinterpret_cast<uintptr_t>(d.vector) % 16 == 0;
  return d.vector != nullptr && aligned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

float ToFloat(const char* at, cudaDataType_t type) {
  if (type == CUDA_R_32F) return *reinterpret_cast<const float*>(at);
  if (type == CUDA_R_16BF) return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at));
  return __half2float(*reinterpret_cast<const __half*>(at));
}

void FromFloat(float value, cudaDataType_t type, char* at) {
  if (type == CUDA_R_32F) {
    *reinterpret_cast<float*>(at) = value;
  } else if (type == CUDA_R_16BF) {
    *reinterpret_cast<__nv_bfloat16*>(at) = __float2bfloat16_rn(value);
  } else {
    *reinterpret_cast<__half*>(at) = __float2half_rn(value);
  }
}

// The nearest number with the 10 bits of TF32 after the point.
float RoundToTf32(float value) {
  uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7f800000) == 0x7f800000) return value;
  bits += 0xfff + (bits >> 13 & 1);
  return __builtin_bit_cast(float, bits & ~0x1fffu);
}

// All the arguments of a product, by value: it runs later.
struct Product {
  Description d;
  Layout a_layout, b_layout, c_layout, d_layout;
  const char* a;
  const char* b;
  const char* c;
  char* result;
  float alpha, beta;
  char* workspace;
  uint64_t workspace_bytes;
};

void Record(const void* data, const Layout& layout, AccessKind kind, const void* here) {
  for (uint64_t column = 0; column < layout.columns; ++column) {
    const char* at =
        static_cast<const char*>(data) + column * layout.stride * layout.ElementBytes();
    CheckAllocated(at, layout.rows * layout.ElementBytes(), "a matrix of a product");
    RecordAccess(at, layout.rows * layout.ElementBytes(), kind, {}, here);
  }
}

// op(matrix) row by row, in float32.
std::vector<float> Load(const char* data, const Layout& layout, bool by_columns, bool tf32) {
  std::vector<float> values(layout.rows * layout.columns);
  for (uint64_t column = 0; column < layout.columns; ++column) {
    for (uint64_t row = 0; row < layout.rows; ++row) {
      const float value =
          ToFloat(data + (column * layout.stride + row) * layout.ElementBytes(), layout.type);
      values[by_columns ? column * layout.rows + row : row * layout.columns + column] =
          tf32 ? RoundToTf32(value) : value;
    }
  }
  return values;
}

void RecordAll(const Product& p) {
  const void* here = __builtin_return_address(0);
  Record(p.a, p.a_layout, AccessKind::kRead, here);
  Record(p.b, p.b_layout, AccessKind::kRead, here);
  if (p.beta != 0) Record(p.c, p.c_layout, AccessKind::kRead, here);
  Record(p.result, p.d_layout, AccessKind::kWrite, here);
  const bool bias = p.d.epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (p.d.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    const size_t bytes = (bias ? p.d_layout.rows : p.d_layout.columns) * p.d_layout.ElementBytes();
    CheckAllocated(p.d.vector, bytes, "the vector of a product");
    RecordAccess(p.d.vector, bytes, bias ? AccessKind::kRead : AccessKind::kWrite, {}, here);
  }
  if (p.workspace_bytes == 0) return;
  CheckAllocated(p.workspace, p.workspace_bytes, "the workspace of a product");
  RecordAccess(p.workspace, p.workspace_bytes, AccessKind::kWrite, {}, here);
}

void RunProduct(const Product& p) {
  const ArenaAccess access;
  RecordAll(p);
  FillUnwritten(p.workspace, p.workspace_bytes);
  const uint64_t rows = p.d_layout.rows, columns = p.d_layout.columns;
  const uint64_t inner = InnerOf(p.d, p.a_layout);
  const bool tf32 = p.d.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  // a as (rows, inner), b as (columns, inner).
  const auto a = Load(p.a, p.a_layout, p.d.transpose_a == CUBLAS_OP_T, tf32);
  const auto b = Load(p.b, p.b_layout, p.d.transpose_b == CUBLAS_OP_N, tf32);
  const size_t element = p.d_layout.ElementBytes();
  const auto at = [&](uint64_t i) { return static_cast<char*>(p.d.vector) + i * element; };
  for (uint64_t j = 0; j < columns; ++j) {
    for (uint64_t i = 0; i < rows; ++i) {
      float sum = 0;
      for (uint64_t k = 0; k < inner; ++k) sum += a[i * inner + k] * b[j * inner + k];
      sum *= p.alpha;
      if (p.beta != 0) {
        sum += p.beta * ToFloat(p.c + (j * p.c_layout.stride + i) * element, p.c_layout.type);
      }
      if (p.d.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += ToFloat(at(i), p.d_layout.type);
      FromFloat(sum, p.d_layout.type, p.result + (j * p.d_layout.stride + i) * element);
    }
    if (p.d.epilogue != CUBLASLT_EPILOGUE_BGRADB) continue;
    float sum = 0;
    for (uint64_t k = 0; k < inner; ++k) sum += b[j * inner + k];
    FromFloat(sum, p.d_layout.type, at(j));
  }
}

bool IsAligned(const void* address, uint32_t to) {
  return reinterpret_cast<uintptr_t>(address) % to == 0;
}

}  // namespace
}  // namespace swinfleet::emulator

namespace emulator = swinfleet::emulator;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  // Never looked into.
  static char somewhere;
  *handle = reinterpret_cast<cublasLtHandle_t>(&somewhere);
  return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    default:
      return "a status that the emulator does not know";
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  emulator::NoteLibraryPreparation();
  *layout =
      reinterpret_cast<cublasLtMatrixLayout_t>(new emulator::Layout{type, rows, columns, stride});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<emulator::Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  emulator::NoteLibraryPreparation();
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(new emulator::Description{compute});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete reinterpret_cast<emulator::Description*>(description);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto* d = reinterpret_cast<emulator::Description*>(description);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return emulator::Take(value, bytes, &d->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return emulator::Take(value, bytes, &d->transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return emulator::Take(value, bytes, &d->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return emulator::Take(value, bytes, &d->vector);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  emulator::NoteLibraryPreparation();
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new emulator::Preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete reinterpret_cast<emulator::Preference*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto* p = reinterpret_cast<emulator::Preference*>(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return emulator::Take(value, bytes, &p->workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return emulator::Take(value, bytes, &p->reductions);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return emulator::Take(value, bytes,
                            &p->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES]);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  emulator::NoteLibraryPreparation();
  const cublasStatus_t status =
      emulator::CheckProblem(emulator::As<emulator::Description>(description),
                             emulator::As<emulator::Layout>(a), emulator::As<emulator::Layout>(b),
                             emulator::As<emulator::Layout>(c), emulator::As<emulator::Layout>(d));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto& p = emulator::As<emulator::Preference>(preference);
  const auto& result = emulator::As<emulator::Layout>(d);
  // Elements that lie across two places of an element are loaded by no kernel.
  const size_t elements[] = {emulator::As<emulator::Layout>(a).ElementBytes(),
                             emulator::As<emulator::Layout>(b).ElementBytes(),
                             emulator::As<emulator::Layout>(c).ElementBytes(),
                             result.ElementBytes()};
  for (int i = 0; i < 4; ++i) {
    if (p.alignment[i] < elements[i]) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  emulator::Algorithm algorithm = {.mark = emulator::kMark,
                                   .workspace = p.workspace,
                                   .alignment = {},
                                   .rows = result.rows,
                                   .columns = result.columns};
  std::copy_n(p.alignment, 4, algorithm.alignment);
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof(algorithm));
  results[0].workspaceSize = p.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const emulator::Product p = {.d = emulator::As<emulator::Description>(description),
                               .a_layout = emulator::As<emulator::Layout>(a_layout),
                               .b_layout = emulator::As<emulator::Layout>(b_layout),
                               .c_layout = emulator::As<emulator::Layout>(c_layout),
                               .d_layout = emulator::As<emulator::Layout>(d_layout),
                               .a = static_cast<const char*>(a),
                               .b = static_cast<const char*>(b),
                               .c = static_cast<const char*>(c),
                               .result = static_cast<char*>(d),
                               .alpha = *static_cast<const float*>(alpha),
                               .beta = *static_cast<const float*>(beta),
                               .workspace = static_cast<char*>(workspace),
                               .workspace_bytes = workspace_bytes};
  const cublasStatus_t status =
      emulator::CheckProblem(p.d, p.a_layout, p.b_layout, p.c_layout, p.d_layout);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  emulator::Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof(algorithm));
  const bool aligned = emulator::IsAligned(a, algorithm.alignment[0]) &&
                       emulator::IsAligned(b, algorithm.alignment[1]) &&
                       emulator::IsAligned(c, algorithm.alignment[2]) &&
                       emulator::IsAligned(d, algorithm.alignment[3]) &&
                       (workspace_bytes == 0 || emulator::IsAligned(workspace, 256));
  if (algorithm.mark != emulator::kMark || algorithm.rows != p.d_layout.rows ||
      algorithm.columns != p.d_layout.columns || workspace_bytes < algorithm.workspace ||
      !aligned || (c == d && std::memcmp(&p.c_layout, &p.d_layout, sizeof(p.d_layout)) != 0)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  emulator::EnqueueWork(stream, [p] { emulator::RunProduct(p); });
  return CUBLAS_STATUS_SUCCESS;
}
