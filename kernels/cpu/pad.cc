// Padding of a map at its far ends, and its inverse.
#include <cstring>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {

void Pad(const PadArgs& args, Context& context) {
  const Shape& from = args.x.shape;
  const Shape& to = args.y.shape;
  CHECK(from.rank() == 5 && to.rank() == 5 && from[0] == to[0] && from[4] == to[4])
      << from << " to " << to;
  CheckFloating(args.x.dtype, {args.y});
  const int64_t token = from[4] * static_cast<int64_t>(SizeOf(args.x.dtype));
  const int64_t copied = std::min(from[3], to[3]) * token, line = to[3] * token;
  ParallelFor(context.threads, to[0] * to[1] * to[2], 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / (to[1] * to[2]), d = at / to[2] % to[1], h = at % to[2];
      char* y = static_cast<char*>(args.y.data) + at * line;
      const int64_t kept = d < from[1] && h < from[2] ? copied : 0;
      const int64_t source = ((b * from[1] + d) * from[2] + h) * from[3] * token;
      if (kept > 0) std::memcpy(y, static_cast<const char*>(args.x.data) + source, kept);
      std::memset(y + kept, 0, line - kept);
    }
  });
}

}  // namespace swinfleet::cpu
