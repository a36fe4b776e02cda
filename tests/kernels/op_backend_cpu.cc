// The CPU backend under the harness: every instruction set, aligned and not, one to three threads.
#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstring>

#include "tests/kernels/op_backend.h"
#include "tests/kernels/op_check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace swinfleet::testing {
namespace {

constexpr size_t kGuardBytes = 256;

// Memory of one tensor between guards, `offset` bytes past a multiple of 64. With the address
// sanitizer, touching the guards is an error at once, also for a read that changes no result.
class GuardedMemory : public TensorMemory {
 public:
  GuardedMemory(size_t bytes, size_t offset)
      : bytes_(bytes), block_((2 * kGuardBytes + bytes + 128) / 4 + 1, kGuardWord) {
    const auto start = reinterpret_cast<uintptr_t>(block_.data()) + kGuardBytes;
    data_ = reinterpret_cast<char*>((start + 63) / 64 * 64 + offset);
    ForbidGuards();
  }
  ~GuardedMemory() override { AllowGuards(); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  void* data() const override { return data_; }
  void Store(const std::string& bytes) override {
    ASSERT_EQ(bytes.size(), bytes_);
    std::memcpy(data_, bytes.data(), bytes_);
  }
  std::string Bytes() const override { return {data_, bytes_}; }
  bool GuardsIntact() const override {
    AllowGuards();
    const bool intact = AllGuard(Begin(), data_) && AllGuard(data_ + bytes_, End());
    ForbidGuards();
    return intact;
  }

 private:
  const char* Begin() const { return reinterpret_cast<const char*>(block_.data()); }
  const char* End() const { return Begin() + block_.size() * 4; }
  bool AllGuard(const char* begin, const char* end) const {
    char word[4];
    std::memcpy(word, &kGuardWord, 4);
    for (const char* p = begin; p < end; ++p) {
      if (*p != word[(p - Begin()) % 4]) return false;
    }
    return true;
  }
  void ForbidGuards() const {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(Begin(), data_ - Begin());
    __asan_poison_memory_region(data_ + bytes_, End() - (data_ + bytes_));
#endif
  }
  void AllowGuards() const {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(Begin(), End() - Begin());
#endif
  }

  size_t bytes_;
  std::vector<uint32_t> block_;
  char* data_;
};

Variant MakeVariant(int64_t target, int threads, size_t offset) {
  return {target, threads, offset,
          std::string(hwy::TargetName(target)) + ", " + std::to_string(threads) +
              " threads, tensors at 64 n + " + std::to_string(offset)};
}

}  // namespace

Device BackendDevice() { return Device::kCpu; }
const OpTable& BackendOps() { return CpuOps(); }
const OpTable& BackendDryRunOps() { return DryRunOps(); }

std::vector<Variant> Variants() {
  std::vector<Variant> variants;
  for (int64_t target : InstructionSets()) {
    variants.push_back(MakeVariant(target, 1, 0));
    variants.push_back(MakeVariant(target, 2, 4));
  }
  const int64_t best = variants[0].target;
  variants.push_back(MakeVariant(best, 1, 4));
  variants.push_back(MakeVariant(best, 2, 0));
  variants.push_back(MakeVariant(best, 3, 4));
  return variants;
}

std::unique_ptr<TensorMemory> MakeTensorMemory(size_t bytes, size_t offset, Device device) {
  CHECK(device == Device::kCpu);
  return std::make_unique<GuardedMemory>(bytes, offset);
}

struct Workspace::Parts {
  Arena arena;
};
Workspace::Workspace(size_t bytes) : parts_(new Parts{Arena::OnHost("workspace", bytes)}) {}
Workspace::~Workspace() = default;
Context Workspace::MakeContext(int threads) {
  Context context;
  context.ops = &CpuOps();
  context.workspace = &parts_->arena;
  context.threads = threads;
  return context;
}

int64_t BackendLaunches() { return 0; }

void WaitForBackend(const Context&) {}

std::vector<int64_t> InstructionSets() {
  // Highway may know sets that the kernels are not compiled for; these don't come into force. Its
  // scalar and emulated fallbacks are not sets of this machine.
  std::vector<int64_t> sets;
  const int64_t supported = hwy::SupportedTargets() & ~(HWY_SCALAR | HWY_EMU128);
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    UseInstructionSet use(target);
    if (std::string(CpuInstructionSet()) == hwy::TargetName(target)) sets.push_back(target);
  }
  return sets;
}

bool TakesFewSizes() { return false; }

UseInstructionSet::UseInstructionSet(int64_t target) { hwy::SetSupportedTargetsForTest(target); }

UseInstructionSet::~UseInstructionSet() { hwy::SetSupportedTargetsForTest(0); }

}  // namespace swinfleet::testing
