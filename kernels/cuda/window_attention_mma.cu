// Forward of attention within windows on tensor cores, for bfloat16 and float16. A block has a tile
// of a window's queries, a warp 16 of them in registers, and the tiles of keys and values pass
// through shared memory. Scores exist for a tile at a time; weights are rounded to 16 bits as
// factors of their product with the values.
#include "kernels/cuda/window_attention_tile.h"

namespace swinfleet::cuda {
namespace {

// The softmax of a lane's two rows and what it weighs, as keys go by. A lane has sums over its own
// columns.
template <int kDim>
struct Running {
  float largest[2] = {kExcludedScore, kExcludedScore};
  float sum[2] = {0, 0};
  // Of the weights as they are after rounding, so that they weigh 1 together.
  float rounded_sum[2] = {0, 0};
  float out[kDim / 8][4] = {};
};

// Weights of a tile's first `blocks` blocks of 16 keys in place of their scores.
template <int kDim>
__device__ void Weigh(uint32_t blocks, TileScores& scores, Running<kDim>* r) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float largest = r->largest[i];
#pragma unroll
    for (uint32_t j = 0; j < kMaxTileBlocks * 4; ++j) {
      if (j / 4 < blocks) largest = fmaxf(largest, scores[j / 4][j / 2 % 2][2 * i + j % 2]);
    }
    largest = RowMax(largest);
    const float keep = __expf(r->largest[i] - largest);
    r->largest[i] = largest;
    r->sum[i] *= keep;
    r->rounded_sum[i] *= keep;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      r->out[n][2 * i] *= keep;
      r->out[n][2 * i + 1] *= keep;
    }
#pragma unroll
    for (uint32_t j = 0; j < kMaxTileBlocks * 4; ++j) {
      if (j / 4 >= blocks) continue;
      float& score = scores[j / 4][j / 2 % 2][2 * i + j % 2];
      score = __expf(score - largest);
      r->sum[i] += score;
    }
  }
}

template <typename T, int kDim>
__device__ void AddKeys(const ScoreTerms& terms, const WarpRows<kDim>& rows, uint32_t first_query,
                        const TokenTile<T, kDim>& keys, uint32_t first_key, uint32_t count,
                        Running<kDim>* r) {
  const uint32_t blocks = (count + 15) / 16;
  TileScores scores;
#pragma unroll
  for (uint32_t b = 0; b < kMaxTileBlocks; ++b) {
    if (b >= blocks) continue;
    float product[2][4];
    Scores(terms, rows, first_query, keys, b * 16, first_key + b * 16, product, scores[b]);
  }
  Weigh(blocks, scores, r);
#pragma unroll
  for (uint32_t b = 0; b < kMaxTileBlocks; ++b) {
    if (b >= blocks) continue;
    uint32_t weights[4];
    PackRows<T>(scores[b], weights);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float rounded[2];
      UnpackPair<T>(weights[i], rounded);
      r->rounded_sum[i % 2] += rounded[0] + rounded[1];
    }
    AddWeighted<kDim>(weights, keys.y + b * 16 * kRowStride<kDim>, r->out);
  }
}

// The output in place of the warp's queries, and its lse.
template <typename T, int kDim>
__device__ void PutOutput(const TokenTile<T, kDim>& queries, Running<kDim>* r) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = RowSum(r->sum[i]), rounded_sum = RowSum(r->rounded_sum[i]);
    const bool nobody = sum == 0;
    const float inverse = nobody ? 0.0f : 1.0f / rounded_sum;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      r->out[n][2 * i] *= inverse;
      r->out[n][2 * i + 1] *= inverse;
    }
    if (LaneColumn() == 0) {
      queries.lse[WarpToken() + LaneRow() + 8 * i] =
          nobody ? kExcludedScore : r->largest[i] + logf(sum);
    }
  }
  PutRows<kDim>(r->out, queries.x + WarpToken() * kRowStride<kDim>);
}

// A block a head of a window (x) and a tile of queries (y).
template <typename T, int kDim>
__global__ void MmaForwardKernel(AttentionInputs<T> a, ForwardOutputs<T> o) {
  const AttentionShape& s = a.s;
  const uint32_t tokens = BlockTokens(), tiles = gridDim.y, first = blockIdx.y * tokens;
  const WindowHead at = {blockIdx.x / s.heads, blockIdx.x % s.heads};
  SharedCarver carver;
  const auto queries = TakeTile<T, kDim>(&carver, tokens, 1);
  const TileRing<T, kDim> keys(&carver, tokens, tiles == 1);
  const Token mine = BeginQueries(a, at, first, queries);
  BeginKeys(a, at, 0, keys[0]);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  FinishTile(a, queries);
  __syncwarp();
  WarpRows<kDim> rows;
  LoadRows<kDim>(queries.x + WarpToken() * kRowStride<kDim>, rows.x);
  TakeNumbers(queries, &rows);
  const ScoreTerms terms = {ScaleOf(a, at.head), BiasOf(a, at.window, at.head), s.tokens, 1};
  Running<kDim> running;
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    CopyAsyncWait<0>();
    FinishTile(a, keys[tile]);
    // Also the last reader of the other tile comes here.
    __syncthreads();
    if (tile + 1 < tiles) {
      BeginKeys(a, at, (tile + 1) * tokens, keys[tile + 1]);
      CopyAsyncCommit();
    }
    AddKeys(terms, rows, first + WarpToken(), keys[tile], tile * tokens,
            min(tokens, s.tokens - tile * tokens), &running);
  }
  PutOutput(queries, &running);
  __syncwarp();
  if (mine.row < 0) return;
  StoreVector<kDim>(s, queries.x, o.out + VectorAt(s, mine.row, 1, 0, at.head));
  if (ThreadHalf() == 0) {
    o.lse[static_cast<int64_t>(mine.row) * s.heads + at.head] = queries.lse[ThreadToken()];
  }
}

}  // namespace

template <typename T>
void MmaForward(const AttentionInputs<T>& a, const ForwardOutputs<T>& o,
                const AttentionLaunch& launch) {
  DispatchDim(a.s.dim, [&](auto dim) {
    const size_t shared = TokenTile<T, dim>::Bytes(launch.tile, 1) +
                          (launch.tiles == 1 ? 1 : 2) * TokenTile<T, dim>::Bytes(launch.tile, 2);
    GpuLaunch(MmaForwardKernel<T, dim>, launch.Grid(), 2 * launch.tile, shared, launch.stream, a,
              o);
  });
}

template void MmaForward(const AttentionInputs<__nv_bfloat16>&,
                         const ForwardOutputs<__nv_bfloat16>&, const AttentionLaunch&);
template void MmaForward(const AttentionInputs<__half>&, const ForwardOutputs<__half>&,
                         const AttentionLaunch&);
}  // namespace swinfleet::cuda
