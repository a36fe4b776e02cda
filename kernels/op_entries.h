// The operations as a list that a program can go through: of what is done for each of them alike.
#ifndef SWINFLEET_KERNELS_OP_ENTRIES_H_
#define SWINFLEET_KERNELS_OP_ENTRIES_H_

#include <array>
#include <cstddef>
#include <tuple>
#include <utility>

#include "kernels/ops.h"

namespace swinfleet {

template <typename Args>
struct OpEntry {
  const char* name;
  void (*OpTable::*function)(const Args&, Context&);
};

// In the order of the table.
inline constexpr std::tuple kOpEntries = {
    OpEntry{"linear_forward", &OpTable::linear_forward},
    OpEntry{"linear_backward_input", &OpTable::linear_backward_input},
    OpEntry{"linear_backward_weight", &OpTable::linear_backward_weight},
    OpEntry{"window_attention_forward", &OpTable::window_attention_forward},
    OpEntry{"window_attention_backward", &OpTable::window_attention_backward},
    OpEntry{"window_gather", &OpTable::window_gather},
    OpEntry{"window_scatter", &OpTable::window_scatter},
    OpEntry{"position_table_forward", &OpTable::position_table_forward},
    OpEntry{"position_table_backward", &OpTable::position_table_backward},
    OpEntry{"bias_gather", &OpTable::bias_gather},
    OpEntry{"bias_scatter", &OpTable::bias_scatter},
    OpEntry{"layer_norm_forward", &OpTable::layer_norm_forward},
    OpEntry{"layer_norm_backward", &OpTable::layer_norm_backward},
    OpEntry{"residual_add", &OpTable::residual_add},
    OpEntry{"scale_rows", &OpTable::scale_rows},
    OpEntry{"gelu_forward", &OpTable::gelu_forward},
    OpEntry{"gelu_backward", &OpTable::gelu_backward},
    OpEntry{"patch_gather", &OpTable::patch_gather},
    OpEntry{"patch_scatter", &OpTable::patch_scatter},
    OpEntry{"patch_embedding_forward", &OpTable::patch_embedding_forward},
    OpEntry{"patch_embedding_backward", &OpTable::patch_embedding_backward},
    OpEntry{"merge_gather", &OpTable::merge_gather},
    OpEntry{"merge_scatter", &OpTable::merge_scatter},
    OpEntry{"pad", &OpTable::pad},
    OpEntry{"token_gather", &OpTable::token_gather},
    OpEntry{"token_scatter", &OpTable::token_scatter},
    OpEntry{"cast", &OpTable::cast},
    OpEntry{"mean_pool_forward", &OpTable::mean_pool_forward},
    OpEntry{"mean_pool_backward", &OpTable::mean_pool_backward},
    OpEntry{"cross_entropy", &OpTable::cross_entropy},
    OpEntry{"mask_tokens_forward", &OpTable::mask_tokens_forward},
    OpEntry{"mask_tokens_backward", &OpTable::mask_tokens_backward},
    OpEntry{"masked_l1", &OpTable::masked_l1},
    OpEntry{"masked_mse", &OpTable::masked_mse},
    OpEntry{"norm_targets", &OpTable::norm_targets},
    OpEntry{"patch_targets", &OpTable::patch_targets},
    OpEntry{"mix_pictures", &OpTable::mix_pictures},
    OpEntry{"add", &OpTable::add},
    OpEntry{"add_broadcast", &OpTable::add_broadcast},
    OpEntry{"sum_broadcast", &OpTable::sum_broadcast},
    OpEntry{"fill", &OpTable::fill},
    OpEntry{"sum_of_squares", &OpTable::sum_of_squares},
    OpEntry{"adamw", &OpTable::adamw},
    OpEntry{"sgd", &OpTable::sgd},
    OpEntry{"add_compensated", &OpTable::add_compensated}};

inline constexpr size_t kOps = std::tuple_size_v<decltype(kOpEntries)>;
static_assert(kOps * sizeof(OpTable::fill) == sizeof(OpTable), "an operation is not in the list");

// Their names, by their number in the list.
inline constexpr std::array<const char*, kOps> kOpNames = std::apply(
    [](const auto&... entries) { return std::array<const char*, kOps>{entries.name...}; },
    kOpEntries);

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_OP_ENTRIES_H_
