// A GPU that the host makes up: its memory is nowhere, or the host's, and a second passes between
// two moments of its clock.
#ifndef SWINFLEET_TESTS_KERNELS_FAKE_GPU_H_
#define SWINFLEET_TESTS_KERNELS_FAKE_GPU_H_

#include <glog/logging.h>

#include <map>
#include <memory>
#include <string>

#include "kernels/accelerator.h"
#include "kernels/error.h"
#include "kernels/ops.h"

namespace swinfleet {

class FakeGpu : public Accelerator {
 public:
  const std::string& name() const override { return name_; }
  const OpTable& ops() const override { return CpuOps(); }
  void* stream() const override { return nullptr; }
  void* Allocate(size_t) override { return nullptr; }
  void Free(void*) override {}
  void CopyIn(const void*, void*, size_t) override {}
  void CopyOutLater(const void*, void*, size_t) override {}
  void Wait() override {}
  void CopyInBeside(int, const void*, void*, size_t) override {}
  void NoteUse(int) override {}
  std::unique_ptr<DeviceLane> NewLane(int) override { return nullptr; }
  void Pin(void*, size_t) override {}
  void Unpin(void*) override {}
  void CopyOutBeside(std::span<const DeviceRead>) override {}
  void ComputeAfterCopies() override {}
  void WaitForCopies() override {}
  std::unique_ptr<DeviceClock> MakeClock(size_t moments) override {
    if (!clock_problem.empty()) throw Error(clock_problem);
    room = moments;
    return std::make_unique<Clock>(this);
  }
  CollectivesId NewCollectivesId() override { return {}; }
  std::unique_ptr<DeviceCollectives> Join(const CollectivesId&, int, int) override {
    return nullptr;
  }

  // What MakeClock says instead, and what it was asked for.
  std::string clock_problem;
  size_t room = 0;
  // Moments of its clock that nobody has forgotten, with their times; and how many were waited for.
  std::map<size_t, double> moments;
  int reads = 0;

 private:
  class Clock : public DeviceClock {
   public:
    explicit Clock(FakeGpu* gpu) : gpu_(gpu) {}
    ~Clock() override { gpu_->moments.clear(); }
    size_t Note(void*) override {
      gpu_->moments[next_] = static_cast<double>(next_);
      return next_++;
    }
    double SecondsBetween(size_t from, size_t to) override {
      ++gpu_->reads;
      return gpu_->moments.at(to) - gpu_->moments.at(from);
    }
    void Forget(size_t moment) override { CHECK_EQ(gpu_->moments.erase(moment), 1u); }

   private:
    FakeGpu* gpu_;
    size_t next_ = 0;
  };

  const std::string name_ = "fake";
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_KERNELS_FAKE_GPU_H_
