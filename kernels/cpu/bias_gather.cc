// A table of biases spread to pairs of tokens, and its gradient. Along a row of pairs the entries
// of the official indices run down by one, as far as the window is wide: such runs are copied and
// added at once, in a copy of the table that has one head's entries side by side, the last one
// first.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bias_gather.cc"
// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

#ifndef SWINFLEET_KERNELS_CPU_BIAS_GATHER_ROWS_
#define SWINFLEET_KERNELS_CPU_BIAS_GATHER_ROWS_
namespace swinfleet::cpu {

// A row of pairs, (N), of several heads, whose tables lie behind each other, as their pairs do.
struct PairRows {
  const PairRun* runs;
  int64_t count;
  int64_t heads;
  int64_t entries;
  int64_t pairs;
};

}  // namespace swinfleet::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Calls body(first, count) with counts that the compiler knows, so that it makes vectors of them.
// The usual windows are 8 and 16 wide.
template <typename Body>
HWY_INLINE void ForEachFixed(int64_t n, const Body& body) {
  if (HWY_LIKELY(n == 16)) return body(0, std::integral_constant<int, 16>());
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) body(i, std::integral_constant<int, 8>());
  if (i + 4 <= n) {
    body(i, std::integral_constant<int, 4>());
    i += 4;
  }
  for (; i < n; ++i) body(i, std::integral_constant<int, 1>());
}

// bias (heads, pairs) = tables (heads, entries) [+ mask (N)]
void GatherRows(const PairRows& rows, const float* HWY_RESTRICT tables,
                const float* HWY_RESTRICT mask, float* HWY_RESTRICT bias) {
  for (int64_t head = 0; head < rows.heads; ++head, tables += rows.entries, bias += rows.pairs) {
    for (int64_t r = 0; r < rows.count; ++r) {
      const PairRun run = rows.runs[r];
      float* to = bias + run.pair;
      if (run.place < 0) {
        std::fill_n(to, run.length, kExcludedScore);
        continue;
      }
      const float* from = tables + run.place;
      ForEachFixed(run.length, [&](int64_t first, auto count) {
        for (int k = 0; k < count; ++k) to[first + k] = from[first + k];
      });
      if (mask == nullptr) continue;
      const float* added = mask + run.pair;
      ForEachFixed(run.length, [&](int64_t first, auto count) {
        for (int k = 0; k < count; ++k) to[first + k] += added[first + k];
      });
    }
  }
}

// dtables (heads, entries) += dbias (heads, pairs)
void ScatterRows(const PairRows& rows, const float* HWY_RESTRICT dbias,
                 float* HWY_RESTRICT dtables) {
  for (int64_t head = 0; head < rows.heads; ++head, dtables += rows.entries, dbias += rows.pairs) {
    for (int64_t r = 0; r < rows.count; ++r) {
      const PairRun run = rows.runs[r];
      if (run.place < 0) continue;
      const float* from = dbias + run.pair;
      float* to = dtables + run.place;
      ForEachFixed(run.length, [&](int64_t first, auto count) {
        for (int k = 0; k < count; ++k) to[first + k] += from[first + k];
      });
    }
  }
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {
namespace {

BiasScratch TakeBiasScratch(int64_t heads, int64_t entries, int64_t tokens, Context& context) {
  return {.tables = static_cast<float*>(
              context.workspace->AllocateBytes(heads * entries * sizeof(float))),
          .runs = static_cast<PairRun*>(
              context.workspace->AllocateBytes(context.threads * tokens * sizeof(PairRun)))};
}

}  // namespace

BiasScratch TakeScratch(const BiasGatherArgs& args, Context& context) {
  return TakeBiasScratch(args.table.shape[1], args.table.shape[0], args.index.shape[1], context);
}

BiasScratch TakeScratch(const BiasScatterArgs& args, Context& context) {
  return TakeBiasScratch(args.dtable.shape[1], args.dtable.shape[0], args.index.shape[1], context);
}

namespace cpu {
namespace {

HWY_EXPORT(GatherRows);
HWY_EXPORT(ScatterRows);

// Letters: G sets of pairs, N tokens, T entries.
void CheckShapes(const Shape& table, const TensorView& index, const TensorView& bias) {
  CHECK_EQ(table.rank(), 2) << table;
  CHECK(index.shape.rank() == 3 && index.shape[1] == index.shape[2]) << index.shape;
  CHECK(index.dtype == DType::kI32) << NameOf(index.dtype);
  CHECK(bias.shape == Shape({index.shape[0], table[1], index.shape[1], index.shape[1]}))
      << bias.shape << " from a table of " << table << " and indices of " << index.shape;
  CHECK(bias.dtype == DType::kF32) << NameOf(bias.dtype);
}

// The runs of a row of pairs, at most one a token; how many.
int64_t FindRuns(const int32_t* index, int64_t tokens, int64_t entries, PairRun* runs) {
  int64_t count = 0;
  for (int64_t j = 0; j < tokens; ++j) {
    DCHECK_LT(index[j], entries);
    const bool excluded = index[j] < 0;
    const bool goes_on = j > 0 && (excluded ? index[j - 1] < 0 : index[j] == index[j - 1] - 1);
    if (goes_on) {
      ++runs[count - 1].length;
    } else {
      runs[count++] = {.pair = static_cast<int32_t>(j),
                       .length = 1,
                       .place = excluded ? -1 : static_cast<int32_t>(entries - 1) - index[j]};
    }
  }
  return count;
}

}  // namespace

void BiasGather(const BiasGatherArgs& args, Context& context) {
  CheckShapes(args.table.shape, args.index, args.bias);
  CHECK(args.mask.empty() ||
        (args.mask.shape == args.index.shape && args.mask.dtype == DType::kF32))
      << args.mask.shape << " for indices of " << args.index.shape;
  const int64_t heads = args.table.shape[1], entries = args.table.shape[0];
  const int64_t groups = args.index.shape[0], tokens = args.index.shape[1];
  ArenaScope scope(context.workspace);
  const BiasScratch scratch = TakeScratch(args, context);
  DispatchDType(args.table.dtype, [&](auto tag) {
    const auto* table = Elements<decltype(tag)>(args.table);
    for (int64_t entry = 0; entry < entries; ++entry) {
      for (int64_t head = 0; head < heads; ++head) {
        scratch.tables[(head + 1) * entries - 1 - entry] = ToFloat(table[entry * heads + head]);
      }
    }
  });
  ParallelFor(context.threads, groups * tokens, 1, [&](int64_t begin, int64_t end, int thread) {
    PairRun* runs = scratch.runs + thread * tokens;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t group = row / tokens, i = row % tokens;
      const int64_t count = FindRuns(args.index.i32() + row * tokens, tokens, entries, runs);
      const float* mask = args.mask.empty() ? nullptr : args.mask.f32() + row * tokens;
      HWY_DYNAMIC_DISPATCH(GatherRows)
      ({runs, count, heads, entries, tokens * tokens}, scratch.tables, mask,
       args.bias.f32() + (group * heads * tokens + i) * tokens);
    }
  });
}

void BiasScatter(const BiasScatterArgs& args, Context& context) {
  CheckShapes(args.dtable.shape, args.index, args.dbias);
  CHECK(args.dtable.dtype == DType::kF32) << NameOf(args.dtable.dtype);
  const int64_t heads = args.dtable.shape[1], entries = args.dtable.shape[0];
  const int64_t groups = args.index.shape[0], tokens = args.index.shape[1];
  ArenaScope scope(context.workspace);
  const BiasScratch scratch = TakeScratch(args, context);
  // Each head's sums are made by one thread, in one order, whatever the number of threads.
  ParallelFor(context.threads, heads, 1, [&](int64_t begin, int64_t end, int thread) {
    PairRun* runs = scratch.runs + thread * tokens;
    std::fill_n(scratch.tables + begin * entries, (end - begin) * entries, 0.0f);
    for (int64_t row = 0; row < groups * tokens; ++row) {
      const int64_t group = row / tokens, i = row % tokens;
      const int64_t count = FindRuns(args.index.i32() + row * tokens, tokens, entries, runs);
      HWY_DYNAMIC_DISPATCH(ScatterRows)
      ({runs, count, end - begin, entries, tokens * tokens},
       args.dbias.f32() + ((group * heads + begin) * tokens + i) * tokens,
       scratch.tables + begin * entries);
    }
    for (int64_t head = begin; head < end; ++head) {
      const float* sums = scratch.tables + head * entries;
      for (int64_t entry = 0; entry < entries; ++entry) {
        args.dtable.f32()[entry * heads + head] += sums[entries - 1 - entry];
      }
    }
  });
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
