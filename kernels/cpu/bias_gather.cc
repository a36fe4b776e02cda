// A table of biases spread to pairs of tokens, and its gradient.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// Letters: G sets of pairs, N tokens, T entries.
void CheckShapes(const Shape& table, const TensorView& index, const TensorView& bias) {
  CHECK_EQ(table.rank(), 2) << table;
  CHECK(index.shape.rank() == 3 && index.shape[1] == index.shape[2]) << index.shape;
  CHECK(index.dtype == DType::kI32) << NameOf(index.dtype);
  CHECK(bias.shape == Shape({index.shape[0], table[1], index.shape[1], index.shape[1]}))
      << bias.shape << " from a table of " << table << " and indices of " << index.shape;
  CHECK(bias.dtype == DType::kF32) << NameOf(bias.dtype);
}

// The bias of one row of pairs, (N), for one head; mask may be null.
template <typename T>
void GatherRow(const T* table, int64_t heads, int64_t entries, const int32_t* index,
               const float* mask, int64_t tokens, float* bias) {
  for (int64_t j = 0; j < tokens; ++j) {
    DCHECK_LT(index[j], entries);
    if (index[j] < 0) {
      bias[j] = kExcludedScore;
    } else {
      bias[j] = ToFloat(table[index[j] * heads]) + (mask == nullptr ? 0.0f : mask[j]);
    }
  }
}

}  // namespace

void BiasGather(const BiasGatherArgs& args, Context& context) {
  CheckShapes(args.table.shape, args.index, args.bias);
  CHECK(args.mask.empty() ||
        (args.mask.shape == args.index.shape && args.mask.dtype == DType::kF32))
      << args.mask.shape << " for indices of " << args.index.shape;
  const int64_t heads = args.table.shape[1], entries = args.table.shape[0];
  const int64_t groups = args.index.shape[0], tokens = args.index.shape[1];
  DispatchDType(args.table.dtype, [&](auto tag) {
    const auto* table = Elements<decltype(tag)>(args.table);
    ParallelFor(context.threads, groups * tokens, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t group = row / tokens, i = row % tokens;
        const float* mask = args.mask.empty() ? nullptr : args.mask.f32() + row * tokens;
        for (int64_t head = 0; head < heads; ++head) {
          GatherRow(table + head, heads, entries, args.index.i32() + row * tokens, mask, tokens,
                    args.bias.f32() + ((group * heads + head) * tokens + i) * tokens);
        }
      }
    });
  });
}

void BiasScatter(const BiasScatterArgs& args, Context& context) {
  CheckShapes(args.dtable.shape, args.index, args.dbias);
  CHECK(args.dtable.dtype == DType::kF32) << NameOf(args.dtable.dtype);
  const int64_t heads = args.dtable.shape[1], entries = args.dtable.shape[0];
  const int64_t groups = args.index.shape[0], pairs = args.index.shape[1] * args.index.shape[2];
  // Each head's sums are made by one thread, in one order, whatever the number of threads.
  ParallelFor(context.threads, heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) {
      float* dtable = args.dtable.f32() + head;
      for (int64_t group = 0; group < groups; ++group) {
        const int32_t* index = args.index.i32() + group * pairs;
        const float* dbias = args.dbias.f32() + (group * heads + head) * pairs;
        for (int64_t pair = 0; pair < pairs; ++pair) {
          DCHECK_LT(index[pair], entries);
          if (index[pair] >= 0) dtable[index[pair] * heads] += dbias[pair];
        }
      }
    }
  });
}

}  // namespace swinfleet::cpu
