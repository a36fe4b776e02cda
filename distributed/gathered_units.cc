#include "distributed/gathered_units.h"

#include <glog/logging.h>

#include <algorithm>

namespace swinfleet {

GatheredUnits::GatheredUnits(const ParameterTable& table, const ShardLayout& layout,
                             std::vector<TensorView> shards,
                             std::function<void(int unit)> wait_for_shard,
                             Communicator* communicator, Context* context, Arena* memory)
    : layout_(layout),
      shards_(std::move(shards)),
      wait_for_shard_(std::move(wait_for_shard)),
      communicator_(communicator),
      context_(context) {
  int64_t largest = 0;
  for (size_t u = 0; u < table.units().size(); ++u) {
    names_.push_back("all-gather " + table.units()[u].name);
    largest = std::max(largest, layout.PaddedSize(static_cast<int>(u)));
  }
  CHECK_EQ(shards_.size(), names_.size());
  for (Buffer& buffer : buffers_) {
    buffer.memory = memory->Allocate({largest}, shards_.front().dtype);
  }
}

TensorView GatheredUnits::Acquire(int unit) {
  Buffer* buffer = Find(unit);
  if (buffer == nullptr) buffer = Start(unit);
  for (const Buffer& other : buffers_) {
    CHECK(!other.in_use) << names_[unit] << " while unit " << other.unit << " is in use";
  }
  Land(buffer);
  buffer->in_use = true;
  last_ = static_cast<int>(buffer - buffers_.data());
  Note(unit);
  GatherNext(*buffer);
  return buffer->memory.Rows(0, layout_.PaddedSize(unit));
}

void GatheredUnits::Release(int unit) {
  Buffer* buffer = Find(unit);
  CHECK(buffer != nullptr && buffer->in_use) << names_[unit] << " is not in use";
  buffer->in_use = false;
}

void GatheredUnits::Forget() {
  for (Buffer& buffer : buffers_) {
    CHECK(!buffer.in_use) << names_[buffer.unit] << " is in use";
    Land(&buffer);
    buffer.unit = -1;
  }
}

GatheredUnits::Buffer* GatheredUnits::Find(int unit) {
  const auto found = std::ranges::find(buffers_, unit, &Buffer::unit);
  return found == buffers_.end() ? nullptr : &*found;
}

GatheredUnits::Buffer* GatheredUnits::Start(int unit) {
  Buffer* buffer = &buffers_[1 - last_];
  CHECK(!buffer->in_use) << names_[unit];
  // Of a unit that didn't come next after all.
  Land(buffer);
  wait_for_shard_(unit);
  buffer->unit = unit;
  const TensorView whole = buffer->memory.Rows(0, layout_.PaddedSize(unit));
  const TensorView own =
      whole.Rows(layout_.ShardBegin(unit, communicator_->rank()), layout_.ShardSize(unit));
  context_->ops->cast({.x = shards_[unit], .y = own}, *context_);
  buffer->handle = communicator_->AllGather(whole, names_[unit]);
  return buffer;
}

void GatheredUnits::GatherNext(const Buffer& used) {
  const auto next = next_.find({before_, used.unit});
  if (next != next_.end() && Find(next->second) == nullptr) Start(next->second);
}

void GatheredUnits::Note(int unit) {
  // Computing a block again uses its unit twice in a row.
  if (unit == unit_) return;
  if (unit_ >= 0) next_[{before_, unit_}] = unit;
  before_ = unit_;
  unit_ = unit;
}

void GatheredUnits::Land(Buffer* buffer) {
  if (buffer->handle == nullptr) return;
  buffer->handle->Wait();
  buffer->handle.reset();
}

}  // namespace swinfleet
