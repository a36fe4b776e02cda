// Tiles of tokens for window attention on tensor cores. A block has two threads for each of its
// tokens, so that a warp has 16; a tile has as many tokens as the block has.
//
// With cosine attention vectors are not divided by their lengths, which would round them, but by
// the power of two below: then they have lengths from 1 to 2, whatever they were, and the rest of
// the division is a factor for their products, in float32.
#ifndef SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_TILE_H_
#define SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_TILE_H_

#include "kernels/cuda/tensor_core.h"
#include "kernels/cuda/window_attention.h"

namespace swinfleet::cuda {

// The most tokens of a tile, in blocks of 16.
inline constexpr int kMaxTileBlocks = kMaxMmaTile / 16;

// Of tokens one after the other: queries and the gradients of their outputs, or keys and values.
// A row of shared memory has a vector, and zeros up to kDim.
template <typename T, int kDim>
struct TokenTile {
  int32_t* region;  // as Token's
  float* factor;    // makes a vector of x one of length 1
  float* length;    // of x, at least kMinLength; 1 without cosine
  float* lse;       // queries alone
  float* delta;     // queries alone
  T* x;             // (tokens, kRowStride): q or k
  T* y;             // dout or v; absent from a tile of one vector

  static constexpr int kNumbers = 5;
  __host__ __device__ static constexpr size_t Bytes(uint32_t tokens, int vectors) {
    return tokens * (kNumbers * sizeof(float) + vectors * kRowStride<kDim> * sizeof(T));
  }
  __device__ TokenTile(unsigned char* at, uint32_t tokens) {
    float* const numbers = reinterpret_cast<float*>(at);
    region = reinterpret_cast<int32_t*>(numbers);
    factor = numbers + tokens;
    length = numbers + 2 * tokens;
    lse = numbers + 3 * tokens;
    delta = numbers + 4 * tokens;
    x = reinterpret_cast<T*>(numbers + kNumbers * tokens);
    y = x + tokens * kRowStride<kDim>;
  }
};

// What a block works on, by its grid's x.
struct WindowHead {
  uint32_t window, head;
};

// The token of a tile that a thread brings in and out, and which of its two threads it is.
__device__ inline uint32_t ThreadToken() { return threadIdx.x / 2; }
__device__ inline uint32_t ThreadHalf() { return threadIdx.x % 2; }
// The first token of a warp, in all its blocks.
__device__ inline uint32_t WarpToken() { return threadIdx.x / kWarp * 16; }

// ---- To and from shared memory: a thread has every other 16 bytes of its token's vector ----

template <int kDim, typename T>
__device__ void BeginVector(const AttentionShape& s, const T* tensor, int32_t row, uint32_t parts,
                            uint32_t part, uint32_t head, T* rows) {
  const T* const from = tensor + (row < 0 ? 0 : VectorAt(s, row, parts, part, head));
  T* const to = rows + ThreadToken() * kRowStride<kDim>;
  const uint32_t dim = row < 0 ? 0 : s.dim;
#pragma unroll
  for (uint32_t c = 0; c < kDim / 16; ++c) {
    const uint32_t d = (2 * c + ThreadHalf()) * 8;
    if (s.wide) {
      CopyAsync16(to + d, d < dim ? from + d : from, d < dim ? 16 : 0);
      continue;
    }
    Pack<T, 8> pack;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      pack.value[i] = d + i < dim ? from[d + i] : FromFloat<T>(0.0f);
    }
    *reinterpret_cast<Pack<T, 8>*>(to + d) = pack;
  }
}

// To the place of a vector in a tensor.
template <int kDim, typename T>
__device__ void StoreVector(const AttentionShape& s, const T* rows, T* to) {
  const T* const from = rows + ThreadToken() * kRowStride<kDim>;
#pragma unroll
  for (uint32_t c = 0; c < kDim / 16; ++c) {
    const uint32_t d = (2 * c + ThreadHalf()) * 8;
    if (s.wide) {
      if (d < s.dim) {
        *reinterpret_cast<Pack<T, 8>*>(to + d) = *reinterpret_cast<const Pack<T, 8>*>(from + d);
      }
      continue;
    }
    for (uint32_t i = d; i < d + 8 && i < s.dim; ++i) to[i] = from[i];
  }
}

// Begins to bring keys and values; they are there after FinishTile and a barrier.
template <int kDim, typename T>
__device__ void BeginKeys(const AttentionInputs<T>& a, const WindowHead& at, uint32_t first,
                          const TokenTile<T, kDim>& tile) {
  const Token token = TokenOf(a.s, at.window, first + ThreadToken());
  BeginVector<kDim>(a.s, a.qkv, token.row, 3, 1, at.head, tile.x);
  BeginVector<kDim>(a.s, a.qkv, token.row, 3, 2, at.head, tile.y);
  if (ThreadHalf() == 0) tile.region[ThreadToken()] = token.region;
}

// Begins to bring queries alone; returns the thread's.
template <int kDim, typename T>
__device__ Token BeginQueries(const AttentionInputs<T>& a, const WindowHead& at, uint32_t first,
                              const TokenTile<T, kDim>& tile) {
  const Token token = TokenOf(a.s, at.window, first + ThreadToken());
  BeginVector<kDim>(a.s, a.qkv, token.row, 3, 0, at.head, tile.x);
  if (ThreadHalf() == 0) tile.region[ThreadToken()] = token.region;
  return token;
}

// And what backward has of them; delta only when it is known.
template <int kDim, typename T>
__device__ Token BeginQueries(const AttentionInputs<T>& a, const BackwardArrays<T>& b,
                              const WindowHead& at, uint32_t first, bool with_delta,
                              const TokenTile<T, kDim>& tile) {
  const Token token = BeginQueries(a, at, first, tile);
  BeginVector<kDim>(a.s, b.dout, token.row, 1, 0, at.head, tile.y);
  const int64_t number = static_cast<int64_t>(token.row) * a.s.heads + at.head;
  if (ThreadHalf() == 0) {
    tile.lse[ThreadToken()] = token.row < 0 ? 0.0f : b.lse[number];
  } else if (with_delta) {
    tile.delta[ThreadToken()] = token.row < 0 ? 0.0f : b.delta[number];
  }
  return token;
}

// Divides a thread's half of a vector by the power of two that is not above its length, which is
// returned.
template <int kDim, typename T>
__device__ float DivideByPower(T* vector, float* factor) {
  float x[kDim / 16][8], squares = 0;
#pragma unroll
  for (uint32_t c = 0; c < kDim / 16; ++c) {
    LoadFloats<8>(vector + (2 * c + ThreadHalf()) * 8, x[c]);
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = fmaf(x[c][i], x[c][i], squares);
  }
  squares += __shfl_xor_sync(kAllLanes, squares, 1);
  const float length = fmaxf(sqrtf(squares), kMinLength);
  constexpr unsigned kExponent = 0x7f800000;
  const float power = __uint_as_float(__float_as_uint(length) & kExponent);
  const float inverse = 1.0f / power;
#pragma unroll
  for (uint32_t c = 0; c < kDim / 16; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[c][i] *= inverse;
    StoreFloats<8>(x[c], vector + (2 * c + ThreadHalf()) * 8);
  }
  *factor = power / length;
  return length;
}

// Of the vectors whose copies by this thread have arrived; other threads see them after a barrier.
template <int kDim, typename T>
__device__ void FinishTile(const AttentionInputs<T>& a, const TokenTile<T, kDim>& tile) {
  float length = 1, factor = 1;
  if (a.logit_scale != nullptr) {
    length = DivideByPower<kDim>(tile.x + ThreadToken() * kRowStride<kDim>, &factor);
  }
  if (ThreadHalf() != 0) return;
  tile.length[ThreadToken()] = length;
  tile.factor[ThreadToken()] = factor;
}

// ---- Products ----

// Of 16 rows and a tile's columns.
using TileScores = float[kMaxTileBlocks][2][4];

// A warp's 16 tokens, in registers; of the numbers a lane has those of its two rows.
template <int kDim>
struct WarpRows {
  uint32_t x[kDim / 16][4], y[kDim / 16][4];
  float factor[2];
  int32_t region[2];
};

template <int kDim, typename T>
__device__ void TakeNumbers(const TokenTile<T, kDim>& tile, WarpRows<kDim>* rows) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t token = WarpToken() + LaneRow() + 8 * i;
    rows->factor[i] = tile.factor[token];
    rows->region[i] = tile.region[token];
  }
}

template <int kDim, typename T>
__device__ void TakeRows(const TokenTile<T, kDim>& tile, WarpRows<kDim>* rows) {
  LoadRows<kDim>(tile.x + WarpToken() * kRowStride<kDim>, rows->x);
  LoadRows<kDim>(tile.y + WarpToken() * kRowStride<kDim>, rows->y);
  TakeNumbers(tile, rows);
}

// What a block's scores have in common. The bias of a row and a column of a block's tokens is
// number row * row_step + column * column_step.
struct ScoreTerms {
  float scale;
  const float* bias;
  uint32_t row_step, column_step;
};

// Products of a warp's vectors with 16 of a tile, as if all had length 1 with cosine, and the
// scores that come of them. The warp's first token in the window is `row`, that of the 16 is
// `column`, and in the tile `block`.
template <int kDim, typename T>
__device__ void Scores(const ScoreTerms& terms, const WarpRows<kDim>& rows, uint32_t row,
                       const TokenTile<T, kDim>& tile, uint32_t block, uint32_t column,
                       float (&product)[2][4], float (&score)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) product[i / 4][i % 4] = 0;
  AddProducts<kDim>(rows.x, tile.x + block * kRowStride<kDim>, product);
#pragma unroll
  for (uint32_t n = 0; n < 2; ++n) {
    const uint32_t at = 8 * n + LaneColumn();
    const auto region = *reinterpret_cast<const Pack<int32_t, 2>*>(tile.region + block + at);
    float factor[2];
    LoadFloats<2>(tile.factor + block + at, factor);
#pragma unroll
    for (uint32_t c = 0; c < 4; ++c) {
      product[n][c] *= rows.factor[c / 2] * factor[c % 2];
      const uint32_t pair = (row + LaneRow() + c / 2 * 8) * terms.row_step +
                            (column + at + c % 2) * terms.column_step;
      score[n][c] = ScoreOf(terms.scale * product[n][c], terms.bias, pair, rows.region[c / 2],
                            region.value[c % 2]);
    }
  }
}

// ---- Blocks ----

// Two tiles in turn, or one where there is no other.
template <typename T, int kDim>
class TileRing {
 public:
  __device__ TileRing(SharedCarver* carver, uint32_t tokens, bool one)
      : tokens_(tokens),
        bytes_(one ? 0 : static_cast<uint32_t>(TokenTile<T, kDim>::Bytes(tokens, 2))),
        at_(carver->Take<unsigned char>((one ? 1 : 2) * TokenTile<T, kDim>::Bytes(tokens, 2))) {}
  __device__ TokenTile<T, kDim> operator[](uint32_t step) const {
    return {at_ + step % 2 * bytes_, tokens_};
  }

 private:
  uint32_t tokens_, bytes_;
  unsigned char* at_;
};

template <typename T, int kDim>
__device__ TokenTile<T, kDim> TakeTile(SharedCarver* carver, uint32_t tokens, int vectors) {
  return {carver->Take<unsigned char>(TokenTile<T, kDim>::Bytes(tokens, vectors)), tokens};
}

__device__ inline uint32_t BlockTokens() { return blockDim.x / 2; }

// Calls body(std::integral_constant<int, d>) with the dimensions rounded up to a multiple of 16.
template <typename Body>
void DispatchDim(uint32_t dim, const Body& body) {
  if (dim <= 16) return body(std::integral_constant<int, 16>());
  if (dim <= 32) return body(std::integral_constant<int, 32>());
  if (dim <= 48) return body(std::integral_constant<int, 48>());
  static_assert(kMaxDim == 64);
  return body(std::integral_constant<int, 64>());
}

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_TILE_H_
