// Some of a picture's tokens, by index, and back to their places.
#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

// Calls move(place in `all`, place in `some`) for each index; the first is null where it is
// negative.
template <typename Move>
void ForEachToken(const TensorView& all, const TensorView& index, const TensorView& some,
                  int threads, const Move& move) {
  const int64_t batch = all.shape[0], tokens = all.shape[1], n = some.shape[1];
  CHECK(all.shape.rank() == 3 && some.shape == Shape({batch, n, all.shape[2]}))
      << all.shape << some.shape;
  CHECK(index.shape == Shape({batch, n}) || index.shape == Shape({1, n}))
      << index.shape << " of " << all.shape;
  CheckFloating(all.dtype, {some});
  CheckDtype(DType::kI32, {index});
  const int64_t bytes = all.shape[2] * static_cast<int64_t>(SizeOf(all.dtype));
  const bool shared = index.shape[0] == 1;
  // Tokens of a thread, of some bytes: a "token" may be a whole picture.
  constexpr int64_t kGrainBytes = 4096;
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(1, bytes));
  ParallelFor(threads, batch * n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t token = index.i32()[shared ? at % n : at];
      CHECK_LT(token, tokens);
      char* place = static_cast<char*>(all.data) + (at / n * tokens + token) * bytes;
      move(token < 0 ? nullptr : place, static_cast<char*>(some.data) + at * bytes);
    }
  });
}

}  // namespace

void TokenGather(const TokenGatherArgs& args, Context& context) {
  const int64_t bytes = args.x.shape[2] * static_cast<int64_t>(SizeOf(args.x.dtype));
  ForEachToken(args.x, args.index, args.y, context.threads, [&](const char* x, char* y) {
    if (x != nullptr) {
      std::memcpy(y, x, bytes);
    } else {
      std::memset(y, 0, bytes);
    }
  });
}

void TokenScatter(const TokenScatterArgs& args, Context& context) {
  const int64_t channels = args.x.shape[2];
  const int64_t bytes = channels * static_cast<int64_t>(SizeOf(args.x.dtype));
  ForEachToken(args.x, args.index, args.y, context.threads, [&](char* x, const char* y) {
    if (x == nullptr) return;
    if (args.accumulate) {
      AddElements(y, args.y.dtype, x, args.x.dtype, channels);
    } else {
      std::memcpy(x, y, bytes);
    }
  });
}

}  // namespace swinfleet::cpu
