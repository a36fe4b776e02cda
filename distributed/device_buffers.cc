#include "distributed/device_buffers.h"

namespace swinfleet {
namespace {

// Calls run(from, to) with the tensors of two states that are alike.
template <typename Run>
void ForEachTensor(const OptimizerState& from, const OptimizerState& to, const Run& run) {
  for (const auto tensor :
       {&OptimizerState::first, &OptimizerState::second, &OptimizerState::master}) {
    if (!(from.*tensor).empty()) run(from.*tensor, to.*tensor);
  }
}

OptimizerState TakeLike(const OptimizerState& largest, Arena* arena) {
  const auto take = [arena](const TensorView& tensor) {
    return tensor.empty() ? TensorView() : arena->Allocate(tensor.shape, tensor.dtype);
  };
  return {
      .first = take(largest.first), .second = take(largest.second), .master = take(largest.master)};
}

OptimizerState FirstRows(const OptimizerState& state, int64_t n) {
  const auto rows = [n](const TensorView& tensor) {
    return tensor.empty() ? TensorView() : tensor.Rows(0, n);
  };
  return {.first = rows(state.first), .second = rows(state.second), .master = rows(state.master)};
}

}  // namespace

DeviceBuffers::DeviceBuffers(const OptimizerState& largest, int marks, Arena* arena,
                             Accelerator* gpu) {
  for (Buffer& buffer : buffers_) {
    buffer.state = TakeLike(largest, arena);
    if (gpu != nullptr) buffer.lane = gpu->NewLane(marks);
  }
}

void DeviceBuffers::StartAfterComputing() {
  for (Buffer& buffer : buffers_) {
    if (buffer.lane != nullptr) buffer.lane->StartAfterComputing();
  }
}

void DeviceBuffers::Update(size_t number, const UpdatePart& part, const UpdateWork& work) {
  Buffer& buffer = buffers_[number % kLanes];
  UpdatePart here = part;
  here.state = FirstRows(buffer.state, part.size);
  if (buffer.lane == nullptr) return work(here);
  here.stream = buffer.lane->stream();
  ForEachTensor(part.state, here.state, [&](const TensorView& host, const TensorView& device) {
    buffer.lane->CopyIn(host.data, device.data, host.Bytes());
  });
  work(here);
  ForEachTensor(part.state, here.state, [&](const TensorView& host, const TensorView& device) {
    buffer.lane->CopyOut(device.data, host.data, host.Bytes());
  });
}

void DeviceBuffers::SetMark(int mark) {
  for (Buffer& buffer : buffers_) {
    if (buffer.lane != nullptr) buffer.lane->SetMark(mark);
  }
}

void DeviceBuffers::Wait(size_t number) { buffers_[number % kLanes].lane->Wait(); }

void DeviceBuffers::WaitForAll() {
  for (Buffer& buffer : buffers_) {
    if (buffer.lane != nullptr) buffer.lane->Wait();
  }
}

void DeviceBuffers::ComputeAfter(int mark) {
  for (Buffer& buffer : buffers_) {
    if (buffer.lane != nullptr) buffer.lane->ComputeAfter(mark);
  }
}

}  // namespace swinfleet
