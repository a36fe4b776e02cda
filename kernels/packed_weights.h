// Weights of linear layers that don't change any more, kept once more in the order in which the
// CPU's products read them.
#ifndef SWINFLEET_KERNELS_PACKED_WEIGHTS_H_
#define SWINFLEET_KERNELS_PACKED_WEIGHTS_H_

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "kernels/arena.h"
#include "kernels/tensor.h"

namespace swinfleet {

// Each product of plain weights begins by bringing them into that order. Where they meet few rows,
// as in the inference of one picture, that is a tenth of the time. It can't be kept in training,
// where weights change with each step.
//
// linear_forward finds the object in its Context. Copies are made when a weight is first used, and
// take as much memory as the weights again; the dry run counts them. Not for several threads that
// call operations at once.
class PackedWeights {
 public:
  // `constant` are tensors whose elements don't change any more, such as units of parameters: a
  // weight outside of them is never copied. Memory comes from `arena`, which outlives the object,
  // and on the dry-run device is only counted.
  PackedWeights(std::span<const TensorView> constant, Arena* arena);
  PackedWeights(const PackedWeights&) = delete;
  PackedWeights& operator=(const PackedWeights&) = delete;

  // The copy of `weight`, made now if there is none; null where there can't be one: for weights
  // that may change, and where products read plain weights, as they do for dtypes that the
  // processor has no instructions for.
  const void* Find(const TensorView& weight);  // (N, K)

 private:
  bool IsConstant(const TensorView& weight) const;

  const std::vector<TensorView> constant_;
  Arena* const arena_;
  std::map<const void*, void*> copies_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_PACKED_WEIGHTS_H_
