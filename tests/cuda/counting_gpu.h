// A GPU that counts what is taken of it beside what is computed.
#ifndef SWINFLEET_TESTS_CUDA_COUNTING_GPU_H_
#define SWINFLEET_TESTS_CUDA_COUNTING_GPU_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/accelerator.h"

namespace swinfleet {

class CountingGpu : public Accelerator {
 public:
  explicit CountingGpu(Accelerator* gpu) : gpu_(*gpu) {}

  // Pieces of memory, pinned ones among them, and clocks.
  int64_t taken() const { return taken_; }

  const std::string& name() const override { return gpu_.name(); }
  const OpTable& ops() const override { return gpu_.ops(); }
  void* stream() const override { return gpu_.stream(); }
  void* Allocate(size_t bytes) override {
    ++taken_;
    return gpu_.Allocate(bytes);
  }
  void Free(void* memory) override { gpu_.Free(memory); }
  void CopyIn(const void* from, void* to, size_t bytes) override { gpu_.CopyIn(from, to, bytes); }
  void CopyOutLater(const void* from, void* to, size_t bytes) override {
    gpu_.CopyOutLater(from, to, bytes);
  }
  void Wait() override { gpu_.Wait(); }
  void CopyInBeside(int turn, const void* from, void* to, size_t bytes) override {
    gpu_.CopyInBeside(turn, from, to, bytes);
  }
  void NoteUse(int turn) override { gpu_.NoteUse(turn); }
  std::unique_ptr<DeviceLane> NewLane(int marks) override { return gpu_.NewLane(marks); }
  void Pin(void* memory, size_t bytes) override {
    ++taken_;
    gpu_.Pin(memory, bytes);
  }
  void Unpin(void* memory) override { gpu_.Unpin(memory); }
  void CopyOutBeside(std::span<const DeviceRead> reads) override { gpu_.CopyOutBeside(reads); }
  void ComputeAfterCopies() override { gpu_.ComputeAfterCopies(); }
  void WaitForCopies() override { gpu_.WaitForCopies(); }
  std::unique_ptr<DeviceClock> MakeClock(size_t moments) override {
    ++taken_;
    return gpu_.MakeClock(moments);
  }
  CollectivesId NewCollectivesId() override { return gpu_.NewCollectivesId(); }
  std::unique_ptr<DeviceCollectives> Join(const CollectivesId& id, int place,
                                          int processes) override {
    return gpu_.Join(id, place, processes);
  }

 private:
  Accelerator& gpu_;
  int64_t taken_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CUDA_COUNTING_GPU_H_
