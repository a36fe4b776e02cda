// Attention within windows in float32, without tensor cores. Keys pass through shared memory in
// tiles, scores exist for a tile at a time and are computed again in backward.
#include "kernels/cuda/window_attention.h"

namespace swinfleet::cuda {
namespace {

constexpr int kTile = kPlainTile;  // tokens; a lane has one
constexpr int kWarps = 4;
constexpr int kRows = kTile / kWarps;  // a warp's tokens of a tile; a lane has two dimensions
constexpr int kStride = kMaxDim + 1;   // so that lanes meet in no bank

// A tile of tokens of a window, as Token.
struct Places {
  int32_t* row;
  int32_t* region;
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
  const Token token = TokenOf(s, window, first + threadIdx.x);
  places.row[threadIdx.x] = token.row;
  places.region[threadIdx.x] = token.region;
}

// Two dimensions of a vector of part `part` of `parts`; zeros for nobody.
__device__ inline void LoadVector(const AttentionShape& s, const float* from, int32_t row,
                                  uint32_t parts, uint32_t part, uint32_t head, float (&x)[2]) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t d = threadIdx.x % kWarp + i * kWarp;
    x[i] = row >= 0 && d < s.dim ? from[VectorAt(s, row, parts, part, head) + d] : 0.0f;
  }
}

// A tile of vectors (kTile, kStride), of each warp its own tokens; with `lengths`, divided by their
// lengths, which are kept.
__device__ inline void LoadTile(const AttentionShape& s, const float* from, const Places& places,
                                uint32_t parts, uint32_t part, uint32_t head, float* to,
                                float* lengths) {
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

// A query and a key of two tiles.
struct Pair {
  uint32_t bias;  // the number of its bias
  int32_t query_region, key_region;
};

__device__ inline Pair PairOf(const AttentionShape& s, const Places& queries, uint32_t first_query,
                              int query, const Places& keys, uint32_t first_key, int key) {
  return {(first_query + query) * s.tokens + first_key + key, queries.region[query],
          keys.region[key]};
}

__device__ inline float PairScore(float scaled, const float* bias, const Pair& pair) {
  return ScoreOf(scaled, bias, pair.bias, pair.query_region, pair.key_region);
}

// A softmax and what it weighs, of one query, as keys go by.
struct Running {
  float largest = kExcludedScore;
  float sum = 0;
  float out[2] = {0, 0};
};

__device__ inline void AddKeys(float score, const float* values, uint32_t dim, float* room,
                               Running* r) {
  const float largest = fmaxf(r->largest, WarpMax(score));
  const float weight = expf(score - largest);
  const float keep = expf(r->largest - largest);
  r->sum = r->sum * keep + WarpSum(weight);
  r->out[0] *= keep;
  r->out[1] *= keep;
  AddWeighted(weight, values, dim, room, r->out);
  r->largest = largest;
}

// A block a head of a window (x) and a tile of queries (y).
__global__ void AttentionForwardKernel(AttentionInputs<float> a, ForwardOutputs<float> o) {
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
      const Pair pair = PairOf(s, queries, first, query, keys, first_key, lane);
      const float product = Dot(q + query * kStride, k + lane * kStride, s.dim);
      AddKeys(PairScore(scale * product, bias, pair), v, s.dim, room, &running[r]);
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
      if (d < s.dim) o.out[at * s.dim + d] = value;
    }
    if (lane == 0) {
      o.lse[at] = nobody ? kExcludedScore : running[r].largest + logf(running[r].sum);
    }
  }
}

// Writes the gradient of a vector that was divided by its length, if it was, into part `part` of
// `parts`.
__device__ void StoreGradient(const AttentionShape& s, const float (&gradient)[2],
                              const float* unit, const float* length, int64_t row, uint32_t parts,
                              uint32_t part, uint32_t head, float* to) {
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
    to[((row * parts + part) * s.heads + head) * s.dim + d] = value;
  }
}

// dq, delta and the sums of the scale's gradient: a block a head of a window (x) and a tile of
// queries (y). Keys pass twice: for delta, then for the gradients.
__global__ void QueryGradientsKernel(AttentionInputs<float> a, BackwardArrays<float> b) {
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
        const Pair pair = PairOf(s, queries, first, query, keys, first_key, lane);
        const float product = Dot(q + query * kStride, k + lane * kStride, s.dim);
        const float weight = expf(PairScore(scale * product, bias, pair) - lse[r]);
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
__device__ void LoadQueries(const AttentionInputs<float>& a, const BackwardArrays<float>& b,
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
__device__ void LoadKeys(const AttentionInputs<float>& a, uint32_t window, uint32_t head,
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
  const Pair pair = PairOf(s, queries.places, first_query, query, keys.places, first_key, key);
  const float product = Dot(queries.q + query * kStride, keys.k + key * kStride, s.dim);
  const float weight = expf(PairScore(scale * product, bias, pair) - queries.lse[query]);
  const float dweight = Dot(queries.dout + query * kStride, keys.v + key * kStride, s.dim);
  *dscore = weight * (dweight - queries.delta[query]);
  return weight;
}

// dk and dv: a block a head of a window (x) and a tile of keys (y); a lane has a query. Nobody else
// reads the keys and values that their gradients may take the place of.
__global__ void KeyGradientsKernel(AttentionInputs<float> a, BackwardArrays<float> b) {
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

// Parts of dbias: a block a head of a group of a part of the windows (x), and a tile of queries and
// of keys (y); windows come one after the other.
__global__ void BiasGradientsKernel(AttentionInputs<float> a, BackwardArrays<float> b,
                                    uint32_t windows, uint32_t parts) {
  SharedCarver carver;
  const QueryTile queries = TakeQueryTile(&carver);
  const KeyTile keys = TakeKeyTile(&carver);
  const AttentionShape& s = a.s;
  const PartBlock block(s, windows, parts);
  const uint32_t tiles = (s.tokens + kTile - 1) / kTile;
  const uint32_t first_query = blockIdx.y / tiles * kTile, first_key = blockIdx.y % tiles * kTile;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float scale = ScaleOf(a, block.head);
  float sums[kRows] = {};
  for (uint32_t w = block.From(s.map, block.begin); w < block.end; w = block.From(s.map, w + 1)) {
    LoadQueries(a, b, w, block.head, first_query, queries);
    LoadKeys(a, w, block.head, first_key, keys);
    __syncthreads();
    const float* bias = BiasOf(a, w, block.head);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float dscore;
      WeightOf(s, bias, scale, queries, first_query, warp * kRows + r, keys, first_key, lane,
               &dscore);
      sums[r] += dscore;
    }
  }
  float* to = b.dbias_parts + static_cast<int64_t>(blockIdx.x) * s.tokens * s.tokens;
  for (int r = 0; r < kRows; ++r) {
    const uint32_t i = first_query + warp * kRows + r, j = first_key + lane;
    if (i < s.tokens && j < s.tokens) to[static_cast<int64_t>(i) * s.tokens + j] = sums[r];
  }
}

// Of a kernel with so many tiles of vectors.
constexpr size_t SharedFor(int tiles) {
  return (tiles * kTile * kStride + 16 * kTile) * sizeof(float) + kTotalBytes;
}

constexpr unsigned kAttentionThreads = kWarps * kWarp;

}  // namespace

void PlainForward(const AttentionInputs<float>& a, const ForwardOutputs<float>& o,
                  const AttentionLaunch& launch) {
  GpuLaunch(AttentionForwardKernel, launch.Grid(), kAttentionThreads, SharedFor(3), launch.stream,
            a, o);
}

void PlainBackward(const AttentionInputs<float>& a, const BackwardArrays<float>& b,
                   const AttentionLaunch& launch) {
  GpuLaunch(QueryGradientsKernel, launch.Grid(), kAttentionThreads, SharedFor(4), launch.stream, a,
            b);
  if (a.bias != nullptr) {
    GpuLaunch(BiasGradientsKernel, launch.PartGrid(a.s.groups), kAttentionThreads, SharedFor(4),
              launch.stream, a, b, launch.windows, launch.parts);
  }
  GpuLaunch(KeyGradientsKernel, launch.Grid(), kAttentionThreads, SharedFor(4), launch.stream, a,
            b);
}

}  // namespace swinfleet::cuda
