// Backward of attention within windows on tensor cores, for bfloat16 and float16. Scores are
// computed again, a block of 16 x 16 at a time. Weights and gradients of scores are rounded to 16
// bits as factors of the products for queries, keys and values.
//
// Where a window is one tile, one kernel does all. Else there are three: in each a block has a tile
// of a window's queries or keys, a warp 16 of them in registers, and the tiles of the other side
// pass through shared memory.
#include "kernels/cuda/window_attention_tile.h"

namespace swinfleet::cuda {
namespace {

// Through the division by their lengths: a warp's gradients of vectors of length 1, times `scale`,
// become those of the vectors.
template <typename T, int kDim>
__device__ void ThroughLengths(bool cosine, float scale, const TokenTile<T, kDim>& tile,
                               const WarpRows<kDim>& rows, float (&d)[kDim / 8][4]) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    float along = 0;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      float x[2];
      UnpackPair<T>(rows.x[n / 2][n % 2 * 2 + i], x);
      d[n][2 * i] *= scale;
      d[n][2 * i + 1] *= scale;
      along += d[n][2 * i] * x[0] + d[n][2 * i + 1] * x[1];
    }
    if (!cosine) continue;
    const float length = tile.length[WarpToken() + LaneRow() + 8 * i];
    along = RowSum(along) * rows.factor[i] * rows.factor[i];
    // A length that was clamped is a constant.
    if (length <= kMinLength) along = 0;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      float x[2];
      UnpackPair<T>(rows.x[n / 2][n % 2 * 2 + i], x);
      d[n][2 * i] = (d[n][2 * i] - along * x[0]) / length;
      d[n][2 * i + 1] = (d[n][2 * i + 1] - along * x[1]) / length;
    }
  }
}

// What a lane's two queries have.
struct QueryNumbers {
  float lse[2], delta[2];
};

// Weights and gradients of the scores of a warp's queries and 16 keys of a tile.
template <typename T, int kDim>
struct QueryBlock {
  float product[2][4], weight[2][4], dweight[2][4];

  __device__ void Find(const ScoreTerms& terms, const WarpRows<kDim>& rows, uint32_t row,
                       const TokenTile<T, kDim>& keys, uint32_t block, uint32_t column,
                       const QueryNumbers& numbers) {
    Scores(terms, rows, row, keys, block, column, product, weight);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      dweight[i / 4][i % 4] = 0;
      weight[i / 4][i % 4] = __expf(weight[i / 4][i % 4] - numbers.lse[i % 4 / 2]);
    }
    AddProducts<kDim>(rows.y, keys.y + block * kRowStride<kDim>, dweight);
  }
  // To the mean of the rows' gradients of weights, by their weights.
  __device__ void AddToDelta(QueryNumbers* numbers) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& delta = numbers->delta[i % 4 / 2];
      delta = fmaf(weight[i / 4][i % 4], dweight[i / 4][i % 4], delta);
    }
  }
  __device__ float DScore(int n, int c, const QueryNumbers& numbers) const {
    return weight[n][c] * (dweight[n][c] - numbers.delta[c / 2]);
  }
};

// Adds to a warp's gradients of queries; returns the lane's part of the scale's gradient.
template <typename T, int kDim>
__device__ float AddToQueries(const ScoreTerms& terms, const WarpRows<kDim>& rows, uint32_t row,
                              const TokenTile<T, kDim>& keys, uint32_t first_key, uint32_t count,
                              const QueryNumbers& numbers, float (&dq)[kDim / 8][4]) {
  float dscale = 0;
  for (uint32_t block = 0; block < count; block += 16) {
    QueryBlock<T, kDim> pairs;
    pairs.Find(terms, rows, row, keys, block, first_key + block, numbers);
    float dscore[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float factor[2];
      LoadFloats<2>(keys.factor + block + 8 * n + LaneColumn(), factor);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        dscore[n][c] = pairs.DScore(n, c, numbers);
        dscale += dscore[n][c] * pairs.product[n][c];
        dscore[n][c] *= factor[c % 2];
      }
    }
    uint32_t dscores[4];
    PackRows<T>(dscore, dscores);
    AddWeighted<kDim>(dscores, keys.x + block * kRowStride<kDim>, dq);
  }
  return dscale;
}

// dq, delta and the sums of the scale's gradient: a block a head of a window (x) and a tile of
// queries (y). Keys pass twice: for delta, then for the gradients.
template <typename T, int kDim>
__global__ void MmaQueryGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b) {
  const AttentionShape& s = a.s;
  const uint32_t tokens = BlockTokens(), tiles = gridDim.y, first = blockIdx.y * tokens;
  const WindowHead at = {blockIdx.x / s.heads, blockIdx.x % s.heads};
  SharedCarver carver;
  const auto queries = TakeTile<T, kDim>(&carver, tokens, 2);
  const TileRing<T, kDim> keys(&carver, tokens, false);
  double* const totals = carver.Take<double>(kMaxWarps);
  const Token mine = BeginQueries(a, b, at, first, false, queries);
  BeginKeys(a, at, 0, keys[0]);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  FinishTile(a, queries);
  __syncwarp();
  WarpRows<kDim> rows;
  TakeRows(queries, &rows);
  const uint32_t token = WarpToken() + LaneRow(), row = first + WarpToken();
  QueryNumbers numbers = {{queries.lse[token], queries.lse[token + 8]}, {0, 0}};
  const ScoreTerms terms = {ScaleOf(a, at.head), BiasOf(a, at.window, at.head), s.tokens, 1};
  float dq[kDim / 8][4] = {};
  double dscale = 0;
  for (uint32_t step = 0; step < 2 * tiles; ++step) {
    CopyAsyncWait<0>();
    FinishTile(a, keys[step]);
    // Also the last reader of the other tile comes here.
    __syncthreads();
    if (step + 1 < 2 * tiles) {
      BeginKeys(a, at, (step + 1) % tiles * tokens, keys[step + 1]);
      CopyAsyncCommit();
    }
    const uint32_t first_key = step % tiles * tokens;
    const uint32_t count = min(tokens, s.tokens - first_key);
    if (step < tiles) {
      for (uint32_t block = 0; block < count; block += 16) {
        QueryBlock<T, kDim> pairs;
        pairs.Find(terms, rows, row, keys[step], block, first_key + block, numbers);
        pairs.AddToDelta(&numbers);
      }
    } else {
      dscale += AddToQueries(terms, rows, row, keys[step], first_key, count, numbers, dq);
    }
    if (step + 1 != tiles) continue;
    for (float& delta : numbers.delta) delta = RowSum(delta);
  }
  ThroughLengths(a.logit_scale != nullptr, terms.scale, queries, rows, dq);
  PutRows<kDim>(dq, queries.x + WarpToken() * kRowStride<kDim>);
  if (LaneColumn() == 0) {
    queries.delta[token] = numbers.delta[0];
    queries.delta[token + 8] = numbers.delta[1];
  }
  __syncwarp();
  if (mine.row >= 0 && ThreadHalf() == 0) {
    b.delta[static_cast<int64_t>(mine.row) * s.heads + at.head] = queries.delta[ThreadToken()];
  }
  const int64_t to = RowToWrite(s, at.window, first + ThreadToken(), mine.row);
  if (to >= 0) StoreVector<kDim>(s, queries.x, b.dq + VectorAt(s, to, 1, 0, at.head));
  if (b.dscale == nullptr) return;
  dscale = BlockTotal<false>(dscale, totals);
  if (threadIdx.x == 0) {
    b.dscale[static_cast<int64_t>(blockIdx.x) * tiles + blockIdx.y] = dscale * terms.scale;
  }
}

// Adds what a tile of queries brings to a warp's gradients of keys and values.
template <typename T, int kDim>
__device__ void AddToKeys(const ScoreTerms& terms, const WarpRows<kDim>& rows, uint32_t row,
                          const TokenTile<T, kDim>& queries, uint32_t first_query, uint32_t count,
                          float (&dk)[kDim / 8][4], float (&dv)[kDim / 8][4]) {
  for (uint32_t block = 0; block < count; block += 16) {
    float product[2][4], weight[2][4], dweight[2][4] = {};
    Scores(terms, rows, row, queries, block, first_query + block, product, weight);
    AddProducts<kDim>(rows.y, queries.y + block * kRowStride<kDim>, dweight);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint32_t at = block + 8 * n + LaneColumn();
      float factor[2], lse[2], delta[2];
      LoadFloats<2>(queries.factor + at, factor);
      LoadFloats<2>(queries.lse + at, lse);
      LoadFloats<2>(queries.delta + at, delta);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        weight[n][c] = __expf(weight[n][c] - lse[c % 2]);
        dweight[n][c] = weight[n][c] * (dweight[n][c] - delta[c % 2]) * factor[c % 2];
      }
    }
    uint32_t packed[4];
    PackRows<T>(weight, packed);
    AddWeighted<kDim>(packed, queries.y + block * kRowStride<kDim>, dv);
    PackRows<T>(dweight, packed);
    AddWeighted<kDim>(packed, queries.x + block * kRowStride<kDim>, dk);
  }
}

// dk and dv: a block a head of a window (x) and a tile of keys (y). Nobody else reads the keys and
// values that their gradients may take the place of.
template <typename T, int kDim>
__global__ void MmaKeyGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b) {
  const AttentionShape& s = a.s;
  const uint32_t tokens = BlockTokens(), tiles = gridDim.y, first = blockIdx.y * tokens;
  const WindowHead at = {blockIdx.x / s.heads, blockIdx.x % s.heads};
  SharedCarver carver;
  const auto keys = TakeTile<T, kDim>(&carver, tokens, 2);
  const TileRing<T, kDim> queries(&carver, tokens, false);
  BeginKeys(a, at, first, keys);
  BeginQueries(a, b, at, 0, true, queries[0]);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  FinishTile(a, keys);
  __syncwarp();
  WarpRows<kDim> rows;
  TakeRows(keys, &rows);
  const ScoreTerms terms = {ScaleOf(a, at.head), BiasOf(a, at.window, at.head), 1, s.tokens};
  float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {};
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    CopyAsyncWait<0>();
    FinishTile(a, queries[tile]);
    // Also the last reader of the other tile comes here.
    __syncthreads();
    if (tile + 1 < tiles) {
      BeginQueries(a, b, at, (tile + 1) * tokens, true, queries[tile + 1]);
      CopyAsyncCommit();
    }
    AddToKeys(terms, rows, first + WarpToken(), queries[tile], tile * tokens,
              min(tokens, s.tokens - tile * tokens), dk, dv);
  }
  ThroughLengths(a.logit_scale != nullptr, terms.scale, keys, rows, dk);
  PutRows<kDim>(dk, keys.x + WarpToken() * kRowStride<kDim>);
  PutRows<kDim>(dv, keys.y + WarpToken() * kRowStride<kDim>);
  __syncwarp();
  const uint32_t token = first + ThreadToken();
  const int64_t to = RowToWrite(s, at.window, token, TokenOf(s, at.window, token).row);
  if (to < 0) return;
  StoreVector<kDim>(s, keys.x, b.dqkv + VectorAt(s, to, 3, 1, at.head));
  StoreVector<kDim>(s, keys.y, b.dqkv + VectorAt(s, to, 3, 2, at.head));
}

// Adds the gradients of a tile's scores.
template <typename T, int kDim>
__device__ void AddDScores(const ScoreTerms& terms, const TokenTile<T, kDim>& queries,
                           uint32_t first_query, const TokenTile<T, kDim>& keys, uint32_t first_key,
                           uint32_t count, TileScores& sums) {
  WarpRows<kDim> rows;
  TakeRows(queries, &rows);
  const uint32_t token = WarpToken() + LaneRow();
  const QueryNumbers numbers = {{queries.lse[token], queries.lse[token + 8]},
                                {queries.delta[token], queries.delta[token + 8]}};
#pragma unroll
  for (uint32_t block = 0; block < kMaxTileBlocks; ++block) {
    if (block * 16 >= count) continue;
    QueryBlock<T, kDim> pairs;
    pairs.Find(terms, rows, first_query + WarpToken(), keys, block * 16, first_key + block * 16,
               numbers);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[block][i / 4][i % 4] += pairs.DScore(i / 4, i % 4, numbers);
  }
}

// A block's sums of gradients of scores to its part.
__device__ inline void StoreBiasSums(const AttentionShape& s, uint32_t first_query,
                                     uint32_t first_key, const TileScores& sums, float* parts) {
  float* const to = parts + static_cast<int64_t>(blockIdx.x) * s.tokens * s.tokens;
#pragma unroll
  for (uint32_t n = 0; n < 2 * kMaxTileBlocks; ++n) {
#pragma unroll
    for (uint32_t c = 0; c < 4; ++c) {
      const uint32_t i = first_query + WarpToken() + LaneRow() + c / 2 * 8;
      const uint32_t j = 8 * n + LaneColumn() + c % 2;
      if (i >= s.tokens || j >= BlockTokens() || first_key + j >= s.tokens) continue;
      to[static_cast<int64_t>(i) * s.tokens + first_key + j] = sums[n / 2][n % 2][c];
    }
  }
}

// Parts of dbias: a block a head of a group of a part of the windows (x), and a tile of queries and
// of keys (y); windows come one after the other.
template <typename T, int kDim>
__global__ void MmaBiasGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b, uint32_t windows,
                                       uint32_t parts) {
  const AttentionShape& s = a.s;
  const uint32_t tokens = BlockTokens(), tiles = (s.tokens + tokens - 1) / tokens;
  const uint32_t first_query = blockIdx.y / tiles * tokens, first_key = blockIdx.y % tiles * tokens;
  const PartBlock block(s, windows, parts);
  const float scale = ScaleOf(a, block.head);
  SharedCarver carver;
  const TileRing<T, kDim> queries(&carver, tokens, false), keys(&carver, tokens, false);
  const auto begin = [&](uint32_t window, uint32_t step) {
    if (window == block.end) return;
    BeginQueries(a, b, {window, block.head}, first_query, true, queries[step]);
    BeginKeys(a, {window, block.head}, first_key, keys[step]);
    CopyAsyncCommit();
  };
  TileScores sums = {};
  uint32_t window = block.From(s.map, block.begin);
  begin(window, 0);
  for (uint32_t step = 0; window < block.end; ++step) {
    CopyAsyncWait<0>();
    FinishTile(a, queries[step]);
    FinishTile(a, keys[step]);
    // Also the last reader of the other tiles comes here.
    __syncthreads();
    const uint32_t next = block.From(s.map, window + 1);
    begin(next, step + 1);
    const ScoreTerms terms = {scale, BiasOf(a, window, block.head), s.tokens, 1};
    AddDScores(terms, queries[step], first_query, keys[step], first_key,
               min(tokens, s.tokens - first_key), sums);
    window = next;
  }
  StoreBiasSums(s, first_query, first_key, sums, b.dbias_parts);
}

// ---- Windows of one tile ----

// A block's room for the weights of a window, (queries, keys), which come from the warps of the
// queries and go to those of the keys.
template <typename T>
struct WeightRoom {
  T* at;
  uint32_t stride;

  static __host__ __device__ constexpr size_t Elements(uint32_t tokens) {
    return tokens * (tokens + 8);
  }
  __device__ WeightRoom(SharedCarver* carver, uint32_t tokens)
      : at(carver->Take<T>(Elements(tokens))), stride(tokens + 8) {}
  // Of a warp's queries and 16 keys from `key` on.
  __device__ void Put(const uint32_t (&a)[4], uint32_t key) const {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      T* const row = at + (WarpToken() + LaneRow() + i % 2 * 8) * stride;
      *reinterpret_cast<uint32_t*>(row + key + LaneColumn() + i / 2 * 8) = a[i];
    }
  }
  // Of a warp's keys, as rows, and 16 queries from `query` on.
  __device__ void Take(uint32_t query, uint32_t (&a)[4]) const {
    const uint32_t lane = threadIdx.x % kWarp;
    const T* const row = at + (query + lane % 8 + lane / 16 * 8) * stride;
    LoadMatrix4Transposed(a, row + WarpToken() + lane / 8 % 2 * 8);
  }
};

template <typename T>
struct WindowWeights {
  WeightRoom<T> weights;
  WeightRoom<T> dscores;  // times the factors of the queries
};

// What a block sums over its windows; a lane has its own pairs.
struct WindowSums {
  TileScores dbias = {};
  double dscale = 0;
};

// The part of a warp's queries: their gradients, weights for the keys, and the sums.
template <typename T, int kDim>
__device__ void AddWindowQueries(const ScoreTerms& terms, const WarpRows<kDim>& rows,
                                 const TokenTile<T, kDim>& queries, const TokenTile<T, kDim>& keys,
                                 uint32_t blocks, const WindowWeights<T>& room,
                                 float (&dq)[kDim / 8][4], WindowSums* sums) {
  const uint32_t token = WarpToken() + LaneRow();
  QueryNumbers numbers = {{queries.lse[token], queries.lse[token + 8]}, {0, 0}};
  // Computed twice, 16 keys at a time: registers don't hold what there is of all of them.
  for (uint32_t b = 0; b < blocks; ++b) {
    QueryBlock<T, kDim> pairs;
    pairs.Find(terms, rows, WarpToken(), keys, b * 16, b * 16, numbers);
    pairs.AddToDelta(&numbers);
  }
  for (float& delta : numbers.delta) delta = RowSum(delta);
  float dscale = 0;
#pragma unroll
  for (uint32_t b = 0; b < kMaxTileBlocks; ++b) {
    if (b >= blocks) continue;
    QueryBlock<T, kDim> pairs;
    pairs.Find(terms, rows, WarpToken(), keys, b * 16, b * 16, numbers);
    uint32_t packed[4];
    PackRows<T>(pairs.weight, packed);
    room.weights.Put(packed, b * 16);
    float of_key[2][4], of_query[2][4];
#pragma unroll
    for (uint32_t n = 0; n < 2; ++n) {
      float factor[2];
      LoadFloats<2>(keys.factor + b * 16 + 8 * n + LaneColumn(), factor);
#pragma unroll
      for (uint32_t c = 0; c < 4; ++c) {
        const float dscore = pairs.DScore(n, c, numbers);
        sums->dbias[b][n][c] += dscore;
        dscale += dscore * pairs.product[n][c];
        of_key[n][c] = dscore * factor[c % 2];
        of_query[n][c] = dscore * rows.factor[c / 2];
      }
    }
    PackRows<T>(of_query, packed);
    room.dscores.Put(packed, b * 16);
    PackRows<T>(of_key, packed);
    AddWeighted<kDim>(packed, keys.x + b * 16 * kRowStride<kDim>, dq);
  }
  sums->dscale += dscale;
}

// All of backward where a window is one tile: a block a head of a group of a part of the windows,
// which come one after the other. Nobody else reads the queries, keys and values that their
// gradients may take the place of.
template <typename T, int kDim>
__global__ void MmaWindowGradientsKernel(AttentionInputs<T> a, BackwardArrays<T> b,
                                         uint32_t windows, uint32_t parts) {
  const AttentionShape& s = a.s;
  const uint32_t tokens = BlockTokens(), blocks = (s.tokens + 15) / 16;
  const PartBlock block(s, windows, parts);
  SharedCarver carver;
  const auto queries = TakeTile<T, kDim>(&carver, tokens, 2);
  const auto keys = TakeTile<T, kDim>(&carver, tokens, 2);
  const WindowWeights<T> room = {{&carver, tokens}, {&carver, tokens}};
  double* const totals = carver.Take<double>(kMaxWarps);
  const bool cosine = a.logit_scale != nullptr;
  const float scale = ScaleOf(a, block.head);
  WindowSums sums;
  for (uint32_t w = block.From(s.map, block.begin); w < block.end; w = block.From(s.map, w + 1)) {
    const WindowHead at = {w, block.head};
    // Until nobody reads the window before.
    __syncthreads();
    BeginKeys(a, at, 0, keys);
    const Token mine = BeginQueries(a, b, at, 0, false, queries);
    const int64_t to = RowToWrite(s, w, ThreadToken(), mine.row);
    CopyAsyncCommit();
    CopyAsyncWait<0>();
    FinishTile(a, queries);
    FinishTile(a, keys);
    __syncthreads();
    WarpRows<kDim> rows;
    TakeRows(queries, &rows);
    float dq[kDim / 8][4] = {};
    AddWindowQueries({scale, BiasOf(a, w, block.head), s.tokens, 1}, rows, queries, keys, blocks,
                     room, dq, &sums);
    ThroughLengths(cosine, scale, queries, rows, dq);
    __syncthreads();
    // From here on a warp alone has its keys and values, whose room takes what it stores.
    LoadRows<kDim>(keys.x + WarpToken() * kRowStride<kDim>, rows.x);
    TakeNumbers(keys, &rows);
    PutRows<kDim>(dq, keys.y + WarpToken() * kRowStride<kDim>);
    __syncwarp();
    if (to >= 0) StoreVector<kDim>(s, keys.y, b.dqkv + VectorAt(s, to, 3, 0, at.head));
    float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {};
    for (uint32_t query = 0; query < s.tokens; query += 16) {
      uint32_t packed[4];
      room.weights.Take(query, packed);
      AddWeighted<kDim>(packed, queries.y + query * kRowStride<kDim>, dv);
      room.dscores.Take(query, packed);
      AddWeighted<kDim>(packed, queries.x + query * kRowStride<kDim>, dk);
    }
    ThroughLengths(cosine, scale, keys, rows, dk);
    __syncwarp();
    PutRows<kDim>(dk, keys.x + WarpToken() * kRowStride<kDim>);
    PutRows<kDim>(dv, keys.y + WarpToken() * kRowStride<kDim>);
    __syncwarp();
    if (to < 0) continue;
    StoreVector<kDim>(s, keys.x, b.dqkv + VectorAt(s, to, 3, 1, at.head));
    StoreVector<kDim>(s, keys.y, b.dqkv + VectorAt(s, to, 3, 2, at.head));
  }
  if (b.dbias_parts != nullptr) StoreBiasSums(s, 0, 0, sums.dbias, b.dbias_parts);
  if (b.dscale == nullptr) return;
  const double dscale = BlockTotal<false>(sums.dscale, totals);
  if (threadIdx.x == 0) b.dscale[blockIdx.x] = dscale * scale;
}

}  // namespace

template <typename T>
void MmaBackward(const AttentionInputs<T>& a, const BackwardArrays<T>& b,
                 const AttentionLaunch& launch) {
  const unsigned threads = 2 * launch.tile;
  DispatchDim(a.s.dim, [&](auto dim) {
    const size_t tile = TokenTile<T, dim>::Bytes(launch.tile, 2);
    if (launch.tiles == 1) {
      const size_t room = WeightRoom<T>::Elements(launch.tile) * sizeof(T);
      GpuLaunch(MmaWindowGradientsKernel<T, dim>, launch.PartGrid(a.s.groups), threads,
                2 * tile + 2 * room + kTotalBytes, launch.stream, a, b, launch.windows,
                launch.parts);
      return;
    }
    GpuLaunch(MmaQueryGradientsKernel<T, dim>, launch.Grid(), threads, 3 * tile + kTotalBytes,
              launch.stream, a, b);
    if (a.bias != nullptr) {
      GpuLaunch(MmaBiasGradientsKernel<T, dim>, launch.PartGrid(a.s.groups), threads, 4 * tile,
                launch.stream, a, b, launch.windows, launch.parts);
    }
    GpuLaunch(MmaKeyGradientsKernel<T, dim>, launch.Grid(), threads, 3 * tile, launch.stream, a, b);
  });
}

template void MmaBackward(const AttentionInputs<__nv_bfloat16>&,
                          const BackwardArrays<__nv_bfloat16>&, const AttentionLaunch&);
template void MmaBackward(const AttentionInputs<__half>&, const BackwardArrays<__half>&,
                          const AttentionLaunch&);

}  // namespace swinfleet::cuda
