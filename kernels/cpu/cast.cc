// Tensors in another dtype.
#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace swinfleet::cpu {
namespace {

constexpr int64_t kGrain = 16384;

}  // namespace

void Cast(const CastArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CHECK(IsFloating(args.x.dtype) && IsFloating(args.y.dtype))
      << NameOf(args.x.dtype) << " to " << NameOf(args.y.dtype);
  const int64_t n = args.x.NumElements();
  const TensorView x = args.x.Reshape({n}), y = args.y.Reshape({n});
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    ConvertElements(x.Rows(begin, end - begin).data, x.dtype, y.Rows(begin, end - begin).data,
                    y.dtype, end - begin);
  });
}

}  // namespace swinfleet::cpu
