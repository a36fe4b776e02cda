// Arguments of one call of each operation, as a training step of SwinV2-T (256 x 256 pixels,
// windows of 8 x 8, batch 8) has them in its first stage and in its third, where most of its blocks
// are. What does not lie in a stage has one size, that of the same pictures. An operation that has
// no SetUp here does not compile into the benchmark.
#ifndef SWINFLEET_BENCHMARKS_OP_CASES_H_
#define SWINFLEET_BENCHMARKS_OP_CASES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>

#include "kernels/arena.h"
#include "kernels/chunks.h"
#include "kernels/ops.h"

namespace swinfleet::benchmarks {

inline constexpr int64_t kBatch = 8;
inline constexpr int64_t kPixels = 256;
inline constexpr int64_t kWindow = 8;
inline constexpr int64_t kClasses = 1000;
// Entries of the position table, and hidden units of the perceptron that makes it.
inline constexpr int64_t kTable = (2 * kWindow - 1) * (2 * kWindow - 1);
inline constexpr int64_t kTableHidden = 512;

// Where in the model a call is.
struct Site {
  const char* name;
  // Of the stage's map, in tokens.
  int64_t side = 0;
  int64_t channels = 0;
  // Of a matrix product, or of an operation on a chunk of the MLP.
  int64_t rows = 0;
  int64_t inputs = 0;
  int64_t outputs = 0;
  // The step has just touched the tensors: they lie in the caches.
  bool warm = false;

  int64_t Tokens() const { return side * side; }
  int64_t Rows() const { return kBatch * Tokens(); }
  int64_t Heads() const { return channels / 32; }
  // Parameters of one of the stage's blocks, but for the small ones, as the optimizer has them.
  int64_t Parameters() const { return 12 * channels * channels; }
};

inline constexpr Site kStages[] = {{.name = "stage0", .side = 64, .channels = 96},
                                   {.name = "stage2", .side = 16, .channels = 384}};
inline constexpr Site kModel[] = {{.name = "model", .side = 64, .channels = 96}};
// Where the operations run, to be said before anything else is asked for.
inline Device& TheDevice() {
  static Device device = Device::kCpu;
  return device;
}

// A chunk of the MLP at the stage, by what its hidden layer takes.
inline Site Chunk(const char* name, const Site& stage, int64_t inputs, int64_t outputs) {
  return {.name = name,
          .rows = std::min(stage.Rows(), ChunkRows(4 * stage.channels, DType::kF32, TheDevice())),
          .inputs = inputs,
          .outputs = outputs,
          .warm = true};
}
inline std::span<const Site> Layers() {
  static const auto& [s0, s2] = kStages;
  static const Site layers[] = {
      {.name = "stage0/qkv", .rows = s0.Rows(), .inputs = 96, .outputs = 288},
      {.name = "stage0/proj", .rows = s0.Rows(), .inputs = 96, .outputs = 96},
      Chunk("stage0/fc1", s0, 96, 384),
      Chunk("stage0/fc2", s0, 384, 96),
      {.name = "stage2/qkv", .rows = s2.Rows(), .inputs = 384, .outputs = 1152},
      {.name = "stage2/proj", .rows = s2.Rows(), .inputs = 384, .outputs = 384},
      Chunk("stage2/fc1", s2, 384, 1536),
      Chunk("stage2/fc2", s2, 1536, 384)};
  return layers;
}
inline std::span<const Site> Chunks() {
  static const auto& [s0, s2] = kStages;
  static const Site chunks[] = {Chunk("stage0", s0, 384, 0), Chunk("stage2", s2, 1536, 0)};
  return chunks;
}

// Hands out the tensors of a call from memory that the caller has, filled; without memory only
// their shapes, at addresses that must not be used.
class Tensors {
 public:
  Tensors(char* memory, DType dtype) : memory_(memory), dtype_(dtype) {}
  // Of a GPU's memory, which holds the same bytes as `host` and is left alone. What operations give
  // to the host comes from `host`.
  Tensors(char* memory, char* host, DType dtype)
      : memory_(memory), host_(host), dtype_(dtype), device_(Device::kCuda) {}

  // Of the dtype that is measured, in [-0.5, 0.5).
  TensorView Values(const Shape& shape) {
    uses_dtype_ = true;
    return Numbers(shape, dtype_, -0.5f);
  }
  TensorView Floats(const Shape& shape) { return Numbers(shape, DType::kF32, -0.5f); }
  TensorView Numbers(const Shape& shape, DType dtype, float least) {
    const TensorView view = Take(shape, dtype);
    if (!Fills()) return view;
    for (int64_t i = 0; i < view.NumElements(); ++i) {
      state_ = state_ * 1664525 + 1013904223;
      const float value = least + static_cast<float>(state_ >> 8) * 0x1p-24f;
      if (dtype == DType::kF32) {
        view.f32()[i] = value;
      } else {
        view.u16()[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      }
    }
    return view;
  }
  TensorView Ints(const Shape& shape, const std::function<int64_t(int64_t)>& value) {
    const TensorView view = Take(shape, DType::kI32);
    if (!Fills()) return view;
    for (int64_t i = 0; i < view.NumElements(); ++i) {
      view.i32()[i] = static_cast<int32_t>(value(i));
    }
    return view;
  }
  // What is kept of the float32 weights beside bfloat16 ones; absent for float32.
  TensorView Master(int64_t n) {
    return dtype_ == DType::kF32 ? TensorView{} : Take({n}, DType::kU16);
  }
  // Of the host.
  double* Doubles(int64_t n) {
    const size_t at = bytes_;
    void* data = Take({2 * n}, DType::kF32).data;
    return static_cast<double*>(host_ == nullptr ? data : host_ + at);
  }

  size_t bytes() const { return bytes_; }
  // Whether the call is another one for another dtype.
  bool uses_dtype() const { return uses_dtype_; }

 private:
  bool Fills() const { return memory_ != nullptr && device_ == Device::kCpu; }
  TensorView Take(const Shape& shape, DType dtype) {
    TensorView view = {.data = reinterpret_cast<char*>(Arena::kAlignment) + bytes_,
                       .shape = shape,
                       .dtype = dtype,
                       .device = Device::kDryRun};
    if (memory_ != nullptr) {
      view.data = memory_ + bytes_;
      view.device = device_;
      if (Fills()) std::memset(view.data, 0, view.Bytes());
    }
    bytes_ += (view.Bytes() + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
    return view;
  }

  char* memory_;
  char* host_ = nullptr;
  DType dtype_;
  Device device_ = Device::kCpu;
  size_t bytes_ = 0;
  bool uses_dtype_ = false;
  uint32_t state_ = 1;
};

// ---- Linear layers ----

inline std::span<const Site> SitesOf(const LinearForwardArgs*) { return Layers(); }
inline std::span<const Site> SitesOf(const LinearBackwardInputArgs*) { return Layers(); }
inline std::span<const Site> SitesOf(const LinearBackwardWeightArgs*) { return Layers(); }

inline void SetUp(const Site& s, Tensors& t, LinearForwardArgs* a) {
  *a = {.x = t.Values({s.rows, s.inputs}),
        .weight = t.Values({s.outputs, s.inputs}),
        .bias = t.Values({s.outputs}),
        .y = t.Values({s.rows, s.outputs})};
}
inline void SetUp(const Site& s, Tensors& t, LinearBackwardInputArgs* a) {
  *a = {.dy = t.Values({s.rows, s.outputs}),
        .weight = t.Values({s.outputs, s.inputs}),
        .dx = t.Values({s.rows, s.inputs})};
}
inline void SetUp(const Site& s, Tensors& t, LinearBackwardWeightArgs* a) {
  *a = {.dy = t.Values({s.rows, s.outputs}),
        .x = t.Values({s.rows, s.inputs}),
        .dweight = t.Floats({s.outputs, s.inputs}),
        .dbias = t.Floats({s.outputs})};
}

// ---- Windows ----

inline WindowGeometry GeometryOf(const Site& s) {
  return {.batch = kBatch,
          .height = s.side,
          .width = s.side,
          .window_h = kWindow,
          .window_w = kWindow,
          .shift_h = kWindow / 2,
          .shift_w = kWindow / 2};
}
inline Shape MapOf(const Site& s, int64_t channels) {
  return {kBatch, 1, s.side, s.side, channels};
}
inline constexpr int64_t kTokens = kWindow * kWindow;

inline void SetUp(const Site& s, Tensors& t, WindowAttentionForwardArgs* a) {
  a->geometry = GeometryOf(s);
  a->heads = s.Heads();
  a->qkv = t.Values(MapOf(s, 3 * s.channels));
  a->logit_scale = t.Values({s.Heads()});
  a->bias = t.Floats({1, s.Heads(), kTokens, kTokens});
  a->out = t.Values(MapOf(s, s.channels));
  a->lse = t.Floats(MapOf(s, s.Heads()));
}
inline void SetUp(const Site& s, Tensors& t, WindowAttentionBackwardArgs* a) {
  a->geometry = GeometryOf(s);
  a->heads = s.Heads();
  a->qkv = t.Values(MapOf(s, 3 * s.channels));
  a->logit_scale = t.Values({s.Heads()});
  a->bias = t.Floats({1, s.Heads(), kTokens, kTokens});
  // As large as those of scores near 0 over 64 tokens.
  a->lse = t.Numbers(MapOf(s, s.Heads()), DType::kF32, 4.0f);
  a->dout = t.Values(MapOf(s, s.channels));
  a->dqkv = t.Values(MapOf(s, 3 * s.channels));
  a->dlogit_scale = t.Floats({s.Heads()});
  a->dbias = t.Floats({1, s.Heads(), kTokens, kTokens});
}
// A group of sequential attention.
inline constexpr int64_t kGroup = 16;
inline void SetUp(const Site& s, Tensors& t, WindowGatherArgs* a) {
  *a = {.geometry = GeometryOf(s),
        .range = {.first = 0, .count = kGroup},
        .x = t.Values(MapOf(s, s.channels)),
        .rows = t.Values({kGroup, kTokens, s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, WindowScatterArgs* a) {
  *a = {.geometry = GeometryOf(s),
        .range = {.first = 0, .count = kGroup},
        .rows = t.Values({kGroup, kTokens, s.channels}),
        .x = t.Values(MapOf(s, s.channels))};
}
inline void SetUp(const Site& s, Tensors& t, PositionTableForwardArgs* a) {
  *a = {.coords = t.Floats({kTable, 2}),
        .w1 = t.Values({kTableHidden, 2}),
        .b1 = t.Values({kTableHidden}),
        .w2 = t.Values({s.Heads(), kTableHidden}),
        .table = t.Floats({kTable, s.Heads()})};
}
inline void SetUp(const Site& s, Tensors& t, PositionTableBackwardArgs* a) {
  *a = {.coords = t.Floats({kTable, 2}),
        .w1 = t.Values({kTableHidden, 2}),
        .b1 = t.Values({kTableHidden}),
        .w2 = t.Values({s.Heads(), kTableHidden}),
        .dtable = t.Floats({kTable, s.Heads()}),
        .dw1 = t.Floats({kTableHidden, 2}),
        .db1 = t.Floats({kTableHidden}),
        .dw2 = t.Floats({s.Heads(), kTableHidden})};
}
inline TensorView PositionIndex(Tensors& t) {
  return t.Ints({1, kTokens, kTokens}, [](int64_t pair) {
    return RelativePositionIndex(kWindow, kWindow, pair / kTokens, pair % kTokens);
  });
}
inline void SetUp(const Site& s, Tensors& t, BiasGatherArgs* a) {
  *a = {.table = t.Floats({kTable, s.Heads()}),
        .index = PositionIndex(t),
        .mask = {},
        .bias = t.Floats({1, s.Heads(), kTokens, kTokens})};
}
inline void SetUp(const Site& s, Tensors& t, BiasScatterArgs* a) {
  *a = {.dbias = t.Floats({1, s.Heads(), kTokens, kTokens}),
        .index = PositionIndex(t),
        .dtable = t.Floats({kTable, s.Heads()})};
}

// ---- Normalisation, residuals, activations ----

inline void SetUp(const Site& s, Tensors& t, LayerNormForwardArgs* a) {
  const int64_t m = s.Rows(), c = s.channels;
  a->x = t.Values({m, c});
  a->gamma = t.Values({c});
  a->beta = t.Values({c});
  a->residual = t.Values({m, c});
  a->y = t.Values({m, c});
  a->mean = t.Floats({m});
  a->rstd = t.Floats({m});
}
inline void SetUp(const Site& s, Tensors& t, LayerNormBackwardArgs* a) {
  const int64_t m = s.Rows(), c = s.channels;
  a->x = t.Values({m, c});
  a->gamma = t.Values({c});
  a->mean = t.Floats({m});
  a->rstd = t.Floats({m});
  a->dy = t.Values({m, c});
  a->dx = t.Values({m, c});
  a->dgamma = t.Floats({c});
  a->dbeta = t.Floats({c});
}
inline void SetUp(const Site& s, Tensors& t, ResidualAddArgs* a) {
  const Shape rows = {s.Rows(), s.channels};
  *a = {.x = t.Values(rows),
        .branch = t.Values(rows),
        .scale = t.Floats({kBatch}),
        .y = t.Values(rows)};
}
inline void SetUp(const Site& s, Tensors& t, ScaleRowsArgs* a) {
  const Shape rows = {s.Rows(), s.channels};
  *a = {.x = t.Values(rows), .scale = t.Floats({kBatch}), .y = t.Values(rows)};
}
inline std::span<const Site> SitesOf(const GeluForwardArgs*) { return Chunks(); }
inline std::span<const Site> SitesOf(const GeluBackwardArgs*) { return Chunks(); }
inline void SetUp(const Site& s, Tensors& t, GeluForwardArgs* a) {
  const Shape chunk = {s.rows, s.inputs};
  *a = {.x = t.Values(chunk), .y = t.Values(chunk)};
}
inline void SetUp(const Site& s, Tensors& t, GeluBackwardArgs* a) {
  const Shape chunk = {s.rows, s.inputs};
  *a = {.x = t.Values(chunk),
        .dy = t.Values(chunk),
        .dx = t.Values(chunk),
        .y = t.Values(chunk),
        .dbias = t.Floats({s.inputs})};
}

// ---- Pictures, patches, maps ----

inline constexpr int64_t kPatch = 4;
inline Shape Pictures() { return {kBatch, 3, kPixels, kPixels}; }
// All of a batch's patches.
inline Shape Patches() {
  return {kBatch * kPixels / kPatch * kPixels / kPatch, 3 * kPatch * kPatch};
}
inline std::span<const Site> SitesOf(const PatchGatherArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const PatchScatterArgs*) { return kModel; }
inline void SetUp(const Site&, Tensors& t, PatchGatherArgs* a) {
  a->image = t.Floats(Pictures());
  a->patch_h = a->patch_w = kPatch;
  a->rows = t.Values(Patches());
}
inline void SetUp(const Site&, Tensors& t, PatchScatterArgs* a) {
  a->rows = t.Values(Patches());
  a->patch_h = a->patch_w = kPatch;
  a->image = t.Values(Pictures());
}
inline std::span<const Site> SitesOf(const PatchEmbeddingForwardArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const PatchEmbeddingBackwardArgs*) { return kModel; }
inline Shape PatchFilters(const Site& s) { return {s.channels, 3, kPatch, kPatch}; }
inline void SetUp(const Site& s, Tensors& t, PatchEmbeddingForwardArgs* a) {
  *a = {.image = t.Floats(Pictures()),
        .weight = t.Values(PatchFilters(s)),
        .bias = t.Values({s.channels}),
        .y = t.Values({s.Rows(), s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, PatchEmbeddingBackwardArgs* a) {
  *a = {.image = t.Floats(Pictures()),
        .weight = t.Values(PatchFilters(s)),
        .dy = t.Values({s.Rows(), s.channels}),
        .dweight = t.Floats(PatchFilters(s)),
        .dbias = t.Floats({s.channels}),
        .dimage = {}};
}
inline void SetUp(const Site& s, Tensors& t, MergeGatherArgs* a) {
  *a = {.x = t.Values({kBatch, s.side, s.side, s.channels}),
        .first_row = 0,
        .rows = t.Values({s.Rows() / 4, 4 * s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, MergeScatterArgs* a) {
  *a = {.rows = t.Values({s.Rows() / 4, 4 * s.channels}),
        .first_row = 0,
        .x = t.Values({kBatch, s.side, s.side, s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, PadArgs* a) {
  *a = {.x = t.Values(MapOf(s, s.channels)),
        .y = t.Values({kBatch, 1, s.side + 1, s.side + 1, s.channels})};
}
// Every fourth token is visible.
inline TensorView VisibleTokens(const Site& s, Tensors& t) {
  return t.Ints({1, s.Tokens() / 4}, [](int64_t i) { return 4 * i; });
}
inline void SetUp(const Site& s, Tensors& t, TokenGatherArgs* a) {
  *a = {.x = t.Values({kBatch, s.Tokens(), s.channels}),
        .index = VisibleTokens(s, t),
        .y = t.Values({kBatch, s.Tokens() / 4, s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, TokenScatterArgs* a) {
  *a = {.y = t.Values({kBatch, s.Tokens() / 4, s.channels}),
        .index = VisibleTokens(s, t),
        .x = t.Values({kBatch, s.Tokens(), s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, CastArgs* a) {
  *a = {.x = t.Floats({s.Rows() * s.channels}), .y = t.Values({s.Rows() * s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, MeanPoolForwardArgs* a) {
  *a = {.x = t.Values({kBatch, s.Tokens(), s.channels}), .y = t.Values({kBatch, s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, MeanPoolBackwardArgs* a) {
  *a = {.dy = t.Values({kBatch, s.channels}), .dx = t.Values({kBatch, s.Tokens(), s.channels})};
}

// ---- Losses ----

inline std::span<const Site> SitesOf(const CrossEntropyArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const MaskedL1Args*) { return kModel; }
inline std::span<const Site> SitesOf(const MaskedMseArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const NormTargetsArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const PatchTargetsArgs*) { return kModel; }
inline std::span<const Site> SitesOf(const MixPicturesArgs*) { return kModel; }
inline void SetUp(const Site&, Tensors& t, CrossEntropyArgs* a) {
  const Shape logits = {kBatch, kClasses};
  *a = {.logits = t.Values(logits),
        .target = t.Floats(logits),
        .loss = t.Floats({kBatch}),
        .dlogits = t.Values(logits)};
}
// Three of four are masked.
inline TensorView MaskOf(Tensors& t, int64_t tokens) {
  return t.Ints({kBatch, tokens}, [](int64_t i) { return i % 4 == 0 ? 0 : 1; });
}
inline void SetUp(const Site& s, Tensors& t, MaskTokensForwardArgs* a) {
  *a = {.mask = MaskOf(t, s.Tokens()),
        .token = t.Values({s.channels}),
        .x = t.Values({kBatch, s.Tokens(), s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, MaskTokensBackwardArgs* a) {
  *a = {.mask = MaskOf(t, s.Tokens()),
        .dx = t.Values({kBatch, s.Tokens(), s.channels}),
        .dtoken = t.Floats({s.channels})};
}
inline void SetUp(const Site&, Tensors& t, MaskedL1Args* a) {
  constexpr int64_t kUnit = 32;
  a->prediction = t.Values(Pictures());
  a->target = t.Floats(Pictures());
  a->mask = MaskOf(t, (kPixels / kUnit) * (kPixels / kUnit));
  a->unit = kUnit;
  a->loss = t.Floats({kBatch});
  a->dprediction = t.Values(Pictures());
}
// MAE's patches.
inline constexpr int64_t kMaePatch = 16;
inline constexpr int64_t kMaePatches = (kPixels / kMaePatch) * (kPixels / kMaePatch);
inline constexpr int64_t kMaeValues = 3 * kMaePatch * kMaePatch;
inline void SetUp(const Site&, Tensors& t, MaskedMseArgs* a) {
  const Shape patches = {kBatch, kMaePatches, kMaeValues};
  a->prediction = t.Values(patches);
  a->target = t.Floats(patches);
  a->mask = MaskOf(t, kMaePatches);
  a->loss = t.Floats({kBatch});
  a->dprediction = t.Values(patches);
}
inline void SetUp(const Site&, Tensors& t, NormTargetsArgs* a) {
  a->x = t.Floats(Pictures());
  a->y = t.Floats(Pictures());
}
inline void SetUp(const Site&, Tensors& t, PatchTargetsArgs* a) {
  a->image = t.Floats(Pictures());
  a->patch = kMaePatch;
  a->normalise = true;
  a->y = t.Floats({kBatch, kMaePatches, kMaeValues});
}
// Boxes of whole pictures: numbers stay as large as they are.
inline void SetUp(const Site&, Tensors& t, MixPicturesArgs* a) {
  const Shape pictures = Pictures();
  a->image = t.Floats(pictures);
  a->weight = t.Floats({pictures[0], 2});
  a->box = t.Ints({pictures[0], 4}, [&](int64_t i) { return i % 2 * pictures[2 + i % 4 / 2]; });
}

// ---- Sums, the optimizer ----

inline void SetUp(const Site& s, Tensors& t, AddArgs* a) {
  *a = {.x = t.Values({s.Rows() * s.channels}), .y = t.Values({s.Rows() * s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, AddBroadcastArgs* a) {
  const int64_t n = s.Tokens() * s.channels;
  *a = {.x = t.Values({n}), .y = t.Values({kBatch, n})};
}
inline void SetUp(const Site& s, Tensors& t, SumBroadcastArgs* a) {
  const int64_t n = s.Tokens() * s.channels;
  *a = {.dy = t.Values({kBatch, n}), .dx = t.Floats({n})};
}
inline void SetUp(const Site& s, Tensors& t, FillArgs* a) {
  *a = {.x = t.Values({s.Rows() * s.channels})};
}
inline void SetUp(const Site& s, Tensors& t, SumOfSquaresArgs* a) {
  *a = {.x = t.Floats({s.Parameters()}),
        .sums = t.Doubles((s.Parameters() + kNormChunk - 1) / kNormChunk)};
}
inline void SetUp(const Site& s, Tensors& t, AdamWArgs* a) {
  const Shape n = {s.Parameters()};
  a->param = t.Values(n);
  a->grad = t.Floats(n);
  a->m = t.Floats(n);
  a->v = t.Numbers(n, DType::kF32, 0.0f);
  a->learning_rate = 1e-6;
  a->weight_decay = 0.05;
  a->master = t.Master(s.Parameters());
}
inline void SetUp(const Site& s, Tensors& t, SgdArgs* a) {
  const Shape n = {s.Parameters()};
  a->param = t.Values(n);
  a->grad = t.Floats(n);
  a->momentum = t.Floats(n);
  a->learning_rate = 1e-6;
  a->weight_decay = 0.05;
  a->master = t.Master(s.Parameters());
}
inline void SetUp(const Site& s, Tensors& t, AddCompensatedArgs* a) {
  const Shape n = {s.Parameters()};
  *a = {.x = t.Values(n),
        .sum = t.Numbers(n, DType::kBF16, -0.5f),
        .error = t.Numbers(n, DType::kBF16, -0.5f)};
}

// Operations that lie in a stage.
template <typename Args>
std::span<const Site> SitesOf(const Args*) {
  return kStages;
}

}  // namespace swinfleet::benchmarks

#endif  // SWINFLEET_BENCHMARKS_OP_CASES_H_
