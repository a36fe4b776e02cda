#include "kernels/packed_weights.h"

#include "kernels/cpu/matrix_product.h"

namespace swinfleet {

PackedWeights::PackedWeights(std::span<const TensorView> constant, Arena* arena)
    : constant_(constant.begin(), constant.end()), arena_(arena) {}

bool PackedWeights::IsConstant(const TensorView& weight) const {
  const char* begin = static_cast<const char*>(weight.data);
  for (const TensorView& tensor : constant_) {
    const char* first = static_cast<const char*>(tensor.data);
    if (begin >= first && begin + weight.Bytes() <= first + tensor.Bytes()) return true;
  }
  return false;
}

const void* PackedWeights::Find(const TensorView& weight) {
  const auto [copy, missing] = copies_.try_emplace(weight.data, nullptr);
  if (!missing || !IsConstant(weight)) return copy->second;
  const cpu::WeightsForm form = {
      .columns = weight.shape[0], .inner = weight.shape[1], .dtype = weight.dtype};
  const size_t bytes = cpu::PackedBytes(form);
  if (bytes == 0) return nullptr;
  copy->second = arena_->AllocateBytes(bytes);
  if (weight.device == Device::kCpu) cpu::PackWeights(form, weight.data, copy->second);
  return copy->second;
}

}  // namespace swinfleet
