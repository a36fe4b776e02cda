// Some of a picture's tokens, by index, and back to their places.
#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

// Calls move(place in `all`, place in `some`, elements) for the elements of each index, cut where a
// thread's part ends; the first is null where the index is negative.
template <typename Move>
void ForEachToken(const TensorView& all, const TensorView& index, const TensorView& some,
                  int threads, const Move& move) {
  const int64_t batch = all.shape[0], tokens = all.shape[1], n = some.shape[1];
  const int64_t channels = all.shape[2];
  CHECK(all.shape.rank() == 3 && some.shape == Shape({batch, n, channels}))
      << all.shape << some.shape;
  CHECK(index.shape == Shape({batch, n}) || index.shape == Shape({1, n}))
      << index.shape << " of " << all.shape;
  CheckFloating(all.dtype, {some});
  CheckDtype(DType::kI32, {index});
  const auto size = static_cast<int64_t>(SizeOf(all.dtype));
  const bool shared = index.shape[0] == 1;
  // Elements and not tokens are split over threads: a "token" may be a whole picture.
  constexpr int64_t kGrain = 1024;
  ParallelFor(threads, some.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end;) {
      const int64_t at = i / channels, first = i % channels;
      const int64_t count = std::min(channels - first, end - i);
      const int64_t token = index.i32()[shared ? at % n : at];
      CHECK_LT(token, tokens);
      char* place =
          static_cast<char*>(all.data) + ((at / n * tokens + token) * channels + first) * size;
      move(token < 0 ? nullptr : place, static_cast<char*>(some.data) + i * size, count);
      i += count;
    }
  });
}

}  // namespace

void TokenGather(const TokenGatherArgs& args, Context& context) {
  const auto size = static_cast<int64_t>(SizeOf(args.x.dtype));
  ForEachToken(args.x, args.index, args.y, context.threads,
               [&](const char* x, char* y, int64_t count) {
                 if (x != nullptr) {
                   std::memcpy(y, x, count * size);
                 } else {
                   std::memset(y, 0, count * size);
                 }
               });
}

void TokenScatter(const TokenScatterArgs& args, Context& context) {
  const auto size = static_cast<int64_t>(SizeOf(args.x.dtype));
  ForEachToken(args.x, args.index, args.y, context.threads,
               [&](char* x, const char* y, int64_t count) {
                 if (x == nullptr) return;
                 if (args.accumulate) {
                   AddElements(y, args.y.dtype, x, args.x.dtype, count);
                 } else {
                   std::memcpy(x, y, count * size);
                 }
               });
}

}  // namespace swinfleet::cpu
