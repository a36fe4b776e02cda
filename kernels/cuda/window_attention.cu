// Attention within windows, in float32 whatever the dtype, without tensor cores. Keys pass through
// shared memory in tiles, scores exist for a tile at a time and are computed again in backward.
#include <cmath>

#include "kernels/accelerator.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/window_map.h"

namespace swinfleet::cuda {
namespace {

constexpr int kTile = kAttentionTile;  // tokens; a lane has one
constexpr int kWarps = 4;
constexpr int kRows = kTile / kWarps;      // a warp's tokens of a tile
constexpr int kMaxDim = kMostCudaHeadDim;  // a lane has two dimensions
constexpr int kStride = kMaxDim + 1;       // so that lanes meet in no bank
constexpr float kMinLength = 1e-12f;
constexpr float kMaxLogitScale = 4.6051702f;  // log 100
constexpr float kExcludedBelow = -1e29f;

struct AttentionShape {
  WindowMap map;
  uint32_t heads, dim, tokens;
  uint32_t biases;    // G, or 0 without
  float score_scale;  // without logit_scale
  // Tensors hold windows' tokens, and not the map.
  bool in_rows;
  bool exclude_padding;
};

template <typename T>
struct AttentionInputs {
  AttentionShape s;
  const T* qkv;
  const T* logit_scale;  // or null
  const float* bias;     // or null
};

// A tile of tokens of a window.
struct Places {
  int32_t* row;     // of the tensors; -1: nobody, of padding or beyond the window
  int32_t* region;  // of the mask
};

__device__ inline Places TakePlaces(SharedCarver* carver) {
  Places places;
  places.row = carver->Take<int32_t>(kTile);
  places.region = carver->Take<int32_t>(kTile);
  return places;
}

__device__ inline void FindPlaces(const AttentionShape& s, uint32_t window, uint32_t first,
                                  const Places& places) {
  if (threadIdx.x >= kTile) return;
  const uint32_t token = first + threadIdx.x;
  int32_t row = -1, region = 0;
  if (token < s.tokens) {
    const uint32_t at = window * s.tokens + token;
    row = s.map(at);
    region = s.map.Region(at);
    if (s.in_rows && !(row < 0 && s.exclude_padding)) row = static_cast<int32_t>(at);
  }
  places.row[threadIdx.x] = row;
  places.region[threadIdx.x] = region;
}

// Two dimensions of a vector of part `part` of `parts`; zeros for nobody.
template <typename T>
__device__ void LoadVector(const AttentionShape& s, const T* from, int32_t row, uint32_t parts,
                           uint32_t part, uint32_t head, float (&x)[2]) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t d = threadIdx.x % kWarp + i * kWarp;
    const int64_t at = ((static_cast<int64_t>(row) * parts + part) * s.heads + head) * s.dim + d;
    x[i] = row >= 0 && d < s.dim ? ToFloat(from[at]) : 0.0f;
  }
}

// A tile of vectors (kTile, kStride), of each warp its own tokens; with `lengths`, divided by their
// lengths, which are kept.
template <typename T>
__device__ void LoadTile(const AttentionShape& s, const T* from, const Places& places,
                         uint32_t parts, uint32_t part, uint32_t head, float* to, float* lengths) {
  const uint32_t lane = threadIdx.x % kWarp;
  for (int r = 0; r < kRows; ++r) {
    const int token = static_cast<int>(threadIdx.x) / kWarp * kRows + r;
    float x[2];
    LoadVector(s, from, places.row[token], parts, part, head, x);
    if (lengths != nullptr) {
      const float length = fmaxf(sqrtf(WarpSum(x[0] * x[0] + x[1] * x[1])), kMinLength);
      x[0] /= length;
      x[1] /= length;
      if (lane == 0) lengths[token] = length;
    }
    for (uint32_t i = 0; i < 2; ++i) {
      if (lane + i * kWarp < s.dim) to[token * kStride + lane + i * kWarp] = x[i];
    }
  }
}

__device__ inline float Dot(const float* x, const float* y, uint32_t n) {
  float sum = 0;
  for (uint32_t d = 0; d < n; ++d) sum = fmaf(x[d], y[d], sum);
  return sum;
}

// A warp's room for a number a lane.
__device__ inline float* TakeWarpsRoom(SharedCarver* carver) {
  return carver->Take<float>(kWarps * kWarp) + threadIdx.x / kWarp * kWarp;
}

// Adds weight[lane] times the vectors of a tile to a lane's two dimensions. The weights go round
// through `room`, which is the warp's.
__device__ inline void AddWeighted(float weight, const float* vectors, uint32_t dim, float* room,
                                   float (&sum)[2]) {
  const uint32_t lane = threadIdx.x % kWarp;
  // Until nobody reads the weights before these.
  __syncwarp();
  room[lane] = weight;
  __syncwarp();
  for (int other = 0; other < kTile; ++other) {
    const float w = room[other];
    const float* vector = vectors + other * kStride;
    if (lane < dim) sum[0] = fmaf(w, vector[lane], sum[0]);
    if (lane + kWarp < dim) sum[1] = fmaf(w, vector[lane + kWarp], sum[1]);
  }
}

// What multiplies the product of q and k.
template <typename T>
__device__ float ScaleOf(const AttentionInputs<T>& a, uint32_t head) {
  if (a.logit_scale == nullptr) return a.s.score_scale;
  return expf(fminf(ToFloat(a.logit_scale[head]), kMaxLogitScale));
}

// The biases of a window and head, (N, N), or null.
template <typename T>
__device__ const float* BiasOf(const AttentionInputs<T>& a, uint32_t window, uint32_t head) {
  if (a.bias == nullptr) return nullptr;
  const int64_t group = a.s.map.NumberInPicture(window) % a.s.biases;
  return a.bias + (group * a.s.heads + head) * a.s.tokens * a.s.tokens;
}

// A query and a key of two tiles.
struct Pair {
  uint32_t i, j;  // tokens of the window
  int32_t query_row, key_row, query_region, key_region;
};

__device__ inline Pair PairOf(const Places& queries, uint32_t first_query, int query,
                              const Places& keys, uint32_t first_key, int key) {
  return {first_query + query, first_key + key,       queries.row[query],
          keys.row[key],       queries.region[query], keys.region[key]};
}

// Bias and mask added to a score; false for a pair that is excluded.
__device__ inline bool AddBias(const AttentionShape& s, const float* bias, const Pair& pair,
                               float* score) {
  if (pair.query_row < 0 || pair.key_row < 0) return false;
  if (bias != nullptr) {
    const float extra = bias[static_cast<int64_t>(pair.i) * s.tokens + pair.j];
    if (extra < kExcludedBelow) return false;
    *score += extra;
  }
  if (pair.query_region != pair.key_region) *score -= 100.0f;
  return true;
}

// A softmax and what it weighs, of one query, as keys go by.
struct Running {
  float largest = kExcludedScore;
  float sum = 0;
  float out[2] = {0, 0};
};

__device__ inline void AddKeys(float score, bool attends, const float* values, uint32_t dim,
                               float* room, Running* r) {
  const float largest = fmaxf(r->largest, WarpMax(attends ? score : kExcludedScore));
  const float weight = attends ? expf(score - largest) : 0.0f;
  const float keep = expf(r->largest - largest);
  r->sum = r->sum * keep + WarpSum(weight);
  r->out[0] *= keep;
  r->out[1] *= keep;
  AddWeighted(weight, values, dim, room, r->out);
  r->largest = largest;
}

template <typename T>
struct ForwardOutputs {
  T* out;
  float* lse;
};

// A block a head of a window (x) and a tile of queries (y).
template <typename T>
__global__ void AttentionForwardKernel(AttentionInputs<T> a, ForwardOutputs<T> o) {
  SharedCarver carver;
  const Places queries = TakePlaces(&carver), keys = TakePlaces(&carver);
  float* q = carver.Take<float>(kTile * kStride);
  float* k = carver.Take<float>(kTile * kStride);
  float* v = carver.Take<float>(kTile * kStride);
  float* lengths = carver.Take<float>(kTile);
  float* const room = TakeWarpsRoom(&carver);
  const AttentionShape& s = a.s;
  const uint32_t window = blockIdx.x / s.heads, head = blockIdx.x % s.heads;
  const uint32_t first = blockIdx.y * kTile, lane = threadIdx.x % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* const unit = a.logit_scale == nullptr ? nullptr : lengths;
  const float scale = ScaleOf(a, head);
  const float* bias = BiasOf(a, window, head);
  FindPlaces(s, window, first, queries);
  __syncthreads();
  // A warp reads the queries that it has loaded itself, and barriers follow.
  LoadTile(s, a.qkv, queries, 3, 0, head, q, unit);
  Running running[kRows];
  for (uint32_t first_key = 0; first_key < s.tokens; first_key += kTile) {
    __syncthreads();
    FindPlaces(s, window, first_key, keys);
    __syncthreads();
    LoadTile(s, a.qkv, keys, 3, 1, head, k, unit);
    LoadTile(s, a.qkv, keys, 3, 2, head, v, nullptr);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int query = warp * kRows + r;
      const Pair pair = PairOf(queries, first, query, keys, first_key, lane);
      float score = scale * Dot(q + query * kStride, k + lane * kStride, s.dim);
      const bool attends = AddBias(s, bias, pair, &score);
      AddKeys(score, attends, v, s.dim, room, &running[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t row = queries.row[warp * kRows + r];
    if (row < 0) continue;
    const bool nobody = running[r].sum == 0;
    const int64_t at = static_cast<int64_t>(row) * s.heads + head;
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t d = lane + i * kWarp;
      const float value = nobody ? 0.0f : running[r].out[i] / running[r].sum;
      if (d < s.dim) o.out[at * s.dim + d] = FromFloat<T>(value);
    }
    if (lane == 0) {
      o.lse[at] = nobody ? kExcludedScore : running[r].largest + logf(running[r].sum);
    }
  }
}

template <typename T>
struct BackwardArrays {
  const float* lse;
  const T* dout;
  T* dq;           // (rows, C)
  T* dqkv;         // may be qkv
  float* delta;    // as lse: of each row the mean, by its weights, of their gradients
  double* dscale;  // (windows, heads, tiles of queries), or null
};

// Writes the gradient of a vector that was divided by its length, if it was, into part `part` of
// `parts`.
template <typename T>
__device__ void StoreGradient(const AttentionShape& s, const float (&gradient)[2],
                              const float* unit, const float* length, int64_t row, uint32_t parts,
                              uint32_t part, uint32_t head, T* to) {
  const uint32_t lane = threadIdx.x % kWarp;
  float u[2] = {0, 0}, along = 0;
  if (length != nullptr) {
    for (uint32_t i = 0; i < 2; ++i) u[i] = lane + i * kWarp < s.dim ? unit[lane + i * kWarp] : 0;
    along = WarpSum(gradient[0] * u[0] + gradient[1] * u[1]);
    // A length that was clamped is a constant.
    if (*length <= kMinLength) along = 0;
  }
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t d = lane + i * kWarp;
    if (d >= s.dim) continue;
    const float value = length == nullptr ? gradient[i] : (gradient[i] - along * u[i]) / *length;
    to[((row * parts + part) * s.heads + head) * s.dim + d] = FromFloat<T>(value);
  }
}

// The row of a tensor that a token has, though it may attend to nobody; -1 for none.
__device__ inline int64_t RowToWrite(const AttentionShape& s, uint32_t window, uint32_t token,
                                     int32_t row) {
  if (row >= 0 || !s.in_rows || token >= s.tokens) return row;
  return static_cast<int64_t>(window) * s.tokens + token;
}

// dq, delta and the sums of the scale's gradient: a block a head of a window (x) and a tile of
// queries (y). Keys pass twice: for delta, then for the gradients.
template <typename T>
__global__ void QueryGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b) {
  SharedCarver carver;
  const Places queries = TakePlaces(&carver), keys = TakePlaces(&carver);
  float* q = carver.Take<float>(kTile * kStride);
  float* k = carver.Take<float>(kTile * kStride);
  float* v = carver.Take<float>(kTile * kStride);
  float* dout = carver.Take<float>(kTile * kStride);
  float* q_lengths = carver.Take<float>(kTile);
  float* k_lengths = carver.Take<float>(kTile);
  double* totals = carver.Take<double>(kMaxWarps);
  float* const room = TakeWarpsRoom(&carver);
  const AttentionShape& s = a.s;
  const uint32_t window = blockIdx.x / s.heads, head = blockIdx.x % s.heads;
  const uint32_t first = blockIdx.y * kTile, lane = threadIdx.x % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const bool cosine = a.logit_scale != nullptr;
  const float scale = ScaleOf(a, head);
  const float* bias = BiasOf(a, window, head);
  FindPlaces(s, window, first, queries);
  __syncthreads();
  LoadTile(s, a.qkv, queries, 3, 0, head, q, cosine ? q_lengths : nullptr);
  LoadTile(s, b.dout, queries, 1, 0, head, dout, nullptr);
  float lse[kRows], delta[kRows] = {}, dq[kRows][2] = {};
  for (int r = 0; r < kRows; ++r) {
    const int32_t row = queries.row[warp * kRows + r];
    lse[r] = row < 0 ? 0.0f : b.lse[static_cast<int64_t>(row) * s.heads + head];
  }
  double dscale = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (uint32_t first_key = 0; first_key < s.tokens; first_key += kTile) {
      __syncthreads();
      FindPlaces(s, window, first_key, keys);
      __syncthreads();
      LoadTile(s, a.qkv, keys, 3, 1, head, k, cosine ? k_lengths : nullptr);
      LoadTile(s, a.qkv, keys, 3, 2, head, v, nullptr);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int query = warp * kRows + r;
        const Pair pair = PairOf(queries, first, query, keys, first_key, lane);
        const float product = Dot(q + query * kStride, k + lane * kStride, s.dim);
        float score = scale * product;
        const bool attends = AddBias(s, bias, pair, &score);
        const float weight = attends ? expf(score - lse[r]) : 0.0f;
        const float dweight = Dot(dout + query * kStride, v + lane * kStride, s.dim);
        if (pass == 0) {
          delta[r] = fmaf(weight, dweight, delta[r]);
        } else {
          const float dscore = weight * (dweight - delta[r]);
          dscale += dscore * product;
          AddWeighted(dscore * scale, k, s.dim, room, dq[r]);
        }
      }
    }
    for (int r = 0; pass == 0 && r < kRows; ++r) delta[r] = WarpSum(delta[r]);
  }
  for (int r = 0; r < kRows; ++r) {
    const int query = warp * kRows + r;
    const int32_t row = queries.row[query];
    if (row >= 0 && lane == 0) b.delta[static_cast<int64_t>(row) * s.heads + head] = delta[r];
    const int64_t to = RowToWrite(s, window, first + query, row);
    if (to < 0) continue;
    StoreGradient(s, dq[r], q + query * kStride, cosine ? q_lengths + query : nullptr, to, 1, 0,
                  head, b.dq);
  }
  if (b.dscale == nullptr) return;
  dscale = BlockTotal<false>(dscale, totals);
  if (threadIdx.x == 0) {
    b.dscale[static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y] = dscale * scale;
  }
}

// What a tile of queries brings to gradients of keys and biases.
struct QueryTile {
  Places places;
  float* q;        // divided by their lengths, with cosine
  float* dout;     // (kTile, kStride)
  float* lse;      // (kTile)
  float* delta;    // (kTile)
  float* lengths;  // (kTile)
};

__device__ inline QueryTile TakeQueryTile(SharedCarver* carver) {
  QueryTile t;
  t.places = TakePlaces(carver);
  t.q = carver->Take<float>(kTile * kStride);
  t.dout = carver->Take<float>(kTile * kStride);
  t.lse = carver->Take<float>(kTile);
  t.delta = carver->Take<float>(kTile);
  t.lengths = carver->Take<float>(kTile);
  return t;
}

// Between two barriers of its own; the caller's comes after.
template <typename T>
__device__ void LoadQueries(const AttentionInputs<T>& a, const BackwardArrays<T>& b,
                            uint32_t window, uint32_t head, uint32_t first, const QueryTile& t) {
  __syncthreads();
  FindPlaces(a.s, window, first, t.places);
  __syncthreads();
  LoadTile(a.s, a.qkv, t.places, 3, 0, head, t.q, a.logit_scale == nullptr ? nullptr : t.lengths);
  LoadTile(a.s, b.dout, t.places, 1, 0, head, t.dout, nullptr);
  if (threadIdx.x < kTile) {
    const int32_t row = t.places.row[threadIdx.x];
    const int64_t at = static_cast<int64_t>(row) * a.s.heads + head;
    t.lse[threadIdx.x] = row < 0 ? 0.0f : b.lse[at];
    t.delta[threadIdx.x] = row < 0 ? 0.0f : b.delta[at];
  }
}

struct KeyTile {
  Places places;
  float* k;        // divided by their lengths, with cosine
  float* v;        // (kTile, kStride)
  float* lengths;  // (kTile)
};

__device__ inline KeyTile TakeKeyTile(SharedCarver* carver) {
  KeyTile t;
  t.places = TakePlaces(carver);
  t.k = carver->Take<float>(kTile * kStride);
  t.v = carver->Take<float>(kTile * kStride);
  t.lengths = carver->Take<float>(kTile);
  return t;
}

// With a barrier of its own; the caller's come before and after.
template <typename T>
__device__ void LoadKeys(const AttentionInputs<T>& a, uint32_t window, uint32_t head,
                         uint32_t first, const KeyTile& t) {
  FindPlaces(a.s, window, first, t.places);
  __syncthreads();
  LoadTile(a.s, a.qkv, t.places, 3, 1, head, t.k, a.logit_scale == nullptr ? nullptr : t.lengths);
  LoadTile(a.s, a.qkv, t.places, 3, 2, head, t.v, nullptr);
}

// The weight of a pair of the two tiles, and its score's gradient.
__device__ inline float WeightOf(const AttentionShape& s, const float* bias, float scale,
                                 const QueryTile& queries, uint32_t first_query, int query,
                                 const KeyTile& keys, uint32_t first_key, int key, float* dscore) {
  const Pair pair = PairOf(queries.places, first_query, query, keys.places, first_key, key);
  float score = scale * Dot(queries.q + query * kStride, keys.k + key * kStride, s.dim);
  const bool attends = AddBias(s, bias, pair, &score);
  const float weight = attends ? expf(score - queries.lse[query]) : 0.0f;
  const float dweight = Dot(queries.dout + query * kStride, keys.v + key * kStride, s.dim);
  *dscore = weight * (dweight - queries.delta[query]);
  return weight;
}

// dk and dv: a block a head of a window (x) and a tile of keys (y); a lane has a query. Nobody else
// reads the keys and values that their gradients may take the place of.
template <typename T>
__global__ void KeyGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b) {
  SharedCarver carver;
  const QueryTile queries = TakeQueryTile(&carver);
  const KeyTile keys = TakeKeyTile(&carver);
  float* const room = TakeWarpsRoom(&carver);
  const AttentionShape& s = a.s;
  const uint32_t window = blockIdx.x / s.heads, head = blockIdx.x % s.heads;
  const uint32_t first = blockIdx.y * kTile;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float scale = ScaleOf(a, head);
  const float* bias = BiasOf(a, window, head);
  LoadKeys(a, window, head, first, keys);
  float dk[kRows][2] = {}, dv[kRows][2] = {};
  for (uint32_t first_query = 0; first_query < s.tokens; first_query += kTile) {
    LoadQueries(a, b, window, head, first_query, queries);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float dscore;
      const float weight = WeightOf(s, bias, scale, queries, first_query, lane, keys, first,
                                    warp * kRows + r, &dscore);
      AddWeighted(weight, queries.dout, s.dim, room, dv[r]);
      AddWeighted(dscore * scale, queries.q, s.dim, room, dk[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const int key = warp * kRows + r;
    const int64_t to = RowToWrite(s, window, first + key, keys.places.row[key]);
    if (to < 0) continue;
    StoreGradient(s, dk[r], keys.k + key * kStride,
                  a.logit_scale == nullptr ? nullptr : keys.lengths + key, to, 3, 1, head, b.dqkv);
    StoreGradient(s, dv[r], nullptr, nullptr, to, 3, 2, head, b.dqkv);
  }
}

// dbias: a block a head of a group (x) and a tile of queries and of keys (y); windows come one
// after the other.
template <typename T>
__global__ void BiasGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b, uint32_t windows,
                                    float* dbias) {
  SharedCarver carver;
  const QueryTile queries = TakeQueryTile(&carver);
  const KeyTile keys = TakeKeyTile(&carver);
  const AttentionShape& s = a.s;
  const uint32_t group = blockIdx.x / s.heads, head = blockIdx.x % s.heads;
  const uint32_t tiles = (s.tokens + kTile - 1) / kTile;
  const uint32_t first_query = blockIdx.y / tiles * kTile, first_key = blockIdx.y % tiles * kTile;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float scale = ScaleOf(a, head);
  float sums[kRows] = {};
  for (uint32_t window = 0; window < windows; ++window) {
    if (s.map.NumberInPicture(window) % s.biases != group) continue;
    LoadQueries(a, b, window, head, first_query, queries);
    LoadKeys(a, window, head, first_key, keys);
    __syncthreads();
    const float* bias = BiasOf(a, window, head);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float dscore;
      WeightOf(s, bias, scale, queries, first_query, warp * kRows + r, keys, first_key, lane,
               &dscore);
      sums[r] += dscore;
    }
  }
  float* to = dbias + (static_cast<int64_t>(group) * s.heads + head) * s.tokens * s.tokens;
  for (int r = 0; r < kRows; ++r) {
    const uint32_t i = first_query + warp * kRows + r, j = first_key + lane;
    if (i < s.tokens && j < s.tokens) to[static_cast<int64_t>(i) * s.tokens + j] += sums[r];
  }
}

// dlogit_scale += the sum of the blocks' parts, of heads whose scale is not clamped. A block a
// head.
template <typename T>
__global__ void ScaleGradientsKernel(const double* parts, uint32_t windows, uint32_t tiles,
                                     const T* logit_scale, float* dlogit_scale) {
  SharedCarver carver;
  double* totals = carver.Take<double>(kMaxWarps);
  const uint32_t heads = gridDim.x, head = blockIdx.x;
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < windows * tiles; i += blockDim.x) {
    sum += parts[(static_cast<int64_t>(i / tiles) * heads + head) * tiles + i % tiles];
  }
  sum = BlockTotal<false>(sum, totals);
  if (threadIdx.x == 0 && ToFloat(logit_scale[head]) < kMaxLogitScale) {
    dlogit_scale[head] += static_cast<float>(sum);
  }
}

// The gradients of queries to their place, when no block needs the queries any more.
template <typename T, int kWidth>
struct PlaceQueryGradients {
  const T* dq;  // (rows, C)
  T* dqkv;      // (rows, 3, C)
  int64_t packs_per_row;

  __device__ void operator()(int64_t pack) const {
    const int64_t to = pack / packs_per_row * 3 * packs_per_row + pack % packs_per_row;
    reinterpret_cast<Pack<T, kWidth>*>(dqkv)[to] =
        reinterpret_cast<const Pack<T, kWidth>*>(dq)[pack];
  }
};

template <typename Args>
int64_t WindowsOf(const Args& args) {
  return args.range.count > 0 ? args.range.count : args.geometry.Windows();
}

// `out` is the output of forward, or its gradient.
template <typename Args>
void CheckArgs(const Args& args, const TensorView& out) {
  const WindowGeometry& g = args.geometry;
  const int64_t channels = args.qkv.shape[args.qkv.shape.rank() - 1] / 3;
  CHECK(args.heads > 0 && channels % args.heads == 0 && channels / args.heads <= kMaxDim)
      << args.qkv.shape << " in " << args.heads << " heads";
  CHECK(args.range.first >= 0 && args.range.first + WindowsOf(args) <= g.Windows())
      << args.range.first << "+" << WindowsOf(args) << " of " << g.Windows() << " windows";
  CHECK(args.exclude_padding || args.range.count > 0) << "a map has no rows of padding";
  const int64_t rows =
      args.range.count > 0 ? args.range.count * g.WindowTokens() : g.batch * g.Tokens();
  CHECK_EQ(args.qkv.NumElements(), rows * 3 * channels) << args.qkv.shape;
  CHECK_EQ(out.NumElements(), rows * channels) << out.shape;
  CHECK_EQ(args.lse.NumElements(), rows * args.heads) << args.lse.shape;
  const int64_t n = g.WindowTokens();
  CHECK(args.bias.empty() || args.bias.shape == Shape({args.heads, n, n}) ||
        (args.bias.shape.rank() == 4 &&
         args.bias.shape == Shape({args.bias.shape[0], args.heads, n, n})))
      << args.bias.shape;
  CHECK(args.logit_scale.empty() || args.logit_scale.NumElements() == args.heads)
      << args.logit_scale.shape;
  CheckFloating(args.qkv.dtype, {args.logit_scale, out});
  CheckDtype(DType::kF32, {args.bias, args.lse});
}

template <typename T, typename Args>
AttentionInputs<T> InputsOf(const Args& args) {
  const int64_t dim = args.qkv.shape[args.qkv.shape.rank() - 1] / 3 / args.heads;
  const float scale = args.score_scale != 0
                          ? args.score_scale
                          : static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  const int64_t biases = args.bias.empty()             ? 0
                         : args.bias.shape.rank() == 4 ? args.bias.shape[0]
                                                       : 1;
  return {{MapOf(args.geometry, args.range), Narrow(args.heads), Narrow(dim),
           Narrow(args.geometry.WindowTokens()), Narrow(biases), scale, args.range.count > 0,
           args.exclude_padding},
          Elements<T>(args.qkv),
          Elements<T>(args.logit_scale),
          Elements<float>(args.bias)};
}

// Of a kernel with so many tiles of vectors.
constexpr size_t SharedFor(int tiles) {
  return (tiles * kTile * kStride + 16 * kTile) * sizeof(float) + kTotalBytes;
}

constexpr unsigned kAttentionThreads = kWarps * kWarp;

template <typename T>
void StoreQueryGradients(const WindowAttentionBackwardArgs& args, const T* dq,
                         const Context& context) {
  const int64_t c = args.qkv.shape[args.qkv.shape.rank() - 1] / 3;
  DispatchRowWidth(c, args.dqkv.dtype, {args.dqkv}, [&](auto width) {
    constexpr int kWidth = width;
    ForEach(args.dqkv.NumElements() / (3 * kWidth),
            PlaceQueryGradients<T, kWidth>{dq, Elements<T>(args.dqkv), c / kWidth}, context);
  });
}

}  // namespace

void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context) {
  CheckArgs(args, args.out);
  const unsigned blocks = Narrow(WindowsOf(args) * args.heads);
  const unsigned tiles = Narrow(AttentionTiles(args.geometry));
  if (blocks == 0) return;
  DispatchDType(args.qkv.dtype, [&](auto tag) {
    using T = decltype(tag);
    GpuLaunch(AttentionForwardKernel<T>, dim3(blocks, tiles), kAttentionThreads, SharedFor(3),
              StreamOf(context), InputsOf<T>(args),
              ForwardOutputs<T>{Elements<T>(args.out), Elements<float>(args.lse)});
  });
}

void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context) {
  CheckArgs(args, args.dout);
  CHECK(args.dqkv.shape == args.qkv.shape && args.dqkv.dtype == args.qkv.dtype)
      << args.dqkv.shape << " for " << args.qkv.shape;
  CHECK(args.dbias.empty() == args.bias.empty() && args.dbias.shape == args.bias.shape)
      << args.dbias.shape << " for " << args.bias.shape;
  CHECK(args.dlogit_scale.empty() == args.logit_scale.empty() &&
        (args.dlogit_scale.empty() || args.dlogit_scale.NumElements() == args.heads));
  CheckDtype(DType::kF32, {args.dbias, args.dlogit_scale});
  ArenaScope scope(context.workspace);
  const AttentionScratch scratch = TakeScratch(args, context);
  const unsigned windows = Narrow(WindowsOf(args)), heads = Narrow(args.heads);
  const unsigned tiles = Narrow(AttentionTiles(args.geometry));
  if (windows == 0) return;
  const cudaStream_t stream = StreamOf(context);
  DispatchDType(args.qkv.dtype, [&](auto tag) {
    using T = decltype(tag);
    const AttentionInputs<T> inputs = InputsOf<T>(args);
    const BackwardArrays<T> arrays = {
        Elements<float>(args.lse), Elements<T>(args.dout), static_cast<T*>(scratch.dq),
        Elements<T>(args.dqkv),    scratch.delta,          scratch.dscale};
    const dim3 grid(Narrow(WindowsOf(args) * args.heads), tiles);
    GpuLaunch(QueryGradientsKernel<T>, grid, kAttentionThreads, SharedFor(4), stream, inputs,
              arrays);
    if (inputs.bias != nullptr) {
      GpuLaunch(BiasGradientsKernel<T>, dim3(inputs.s.biases * heads, tiles * tiles),
                kAttentionThreads, SharedFor(4), stream, inputs, arrays, windows,
                Elements<float>(args.dbias));
    }
    GpuLaunch(KeyGradientsKernel<T>, grid, kAttentionThreads, SharedFor(4), stream, inputs, arrays);
    StoreQueryGradients<T>(args, arrays.dq, context);
    if (inputs.logit_scale != nullptr) {
      GpuLaunch(ScaleGradientsKernel<T>, heads, kAttentionThreads, kTotalBytes, stream,
                scratch.dscale, windows, tiles, inputs.logit_scale,
                Elements<float>(args.dlogit_scale));
    }
  });
}

}  // namespace swinfleet::cuda
