#include "kernels/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace swinfleet {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Views of the dry run are not "absent", so they need addresses: ones that no process can have, so
// that touching them faults.
constexpr uintptr_t kDryRunBase = uintptr_t{0xdead} << 48;

#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kPoison = false;
#else
constexpr bool kPoison = true;
#endif
// All bits set is a NaN in float32, bfloat16 and float16 alike.
constexpr int kPoisonByte = 0xff;

constexpr size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

std::string MiB(size_t bytes) {
  // Tenths, rounded up, so that a small arena is not "0 MiB".
  const size_t tenths = (bytes * 10 + (size_t{1} << 20) - 1) >> 20;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MiB";
}

std::atomic<int64_t> host_blocks = 0;

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

// The number in a file that holds nothing else; kUnlimited when there is no such file or it says
// "max".
size_t NumberInFile(const std::string& path) {
  std::ifstream file(path);
  size_t number = 0;
  return file >> number ? number : kUnlimited;
}

// The sum of the values of `keys` in a file of lines "key value [unit]".
size_t SumInFile(const std::string& path, std::initializer_list<std::string_view> keys) {
  std::ifstream file(path);
  std::string key, rest;
  size_t value = 0, sum = 0;
  while (file >> key >> value) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) sum += value;
    std::getline(file, rest);
  }
  return sum;
}

// Bytes that this machine, or the control group (container) that we run in, can still give. Without
// this check the kernel would promise any amount and kill a process later.
size_t AvailableBytes() {
  size_t available = SumInFile("/proc/meminfo", {"MemAvailable:"}) * 1024;
  if (available == 0) available = kUnlimited;
  const struct {
    std::string folder, limit, used;
  } versions[] = {{"/sys/fs/cgroup/", "memory.max", "memory.current"},
                  {"/sys/fs/cgroup/memory/", "memory.limit_in_bytes", "memory.usage_in_bytes"}};
  for (const auto& version : versions) {
    const size_t limit = NumberInFile(version.folder + version.limit);
    size_t used = NumberInFile(version.folder + version.used);
    if (limit == kUnlimited || used == kUnlimited) continue;
    // Cached files count as used, but give way.
    used -=
        std::min(used, SumInFile(version.folder + "memory.stat", {"active_file", "inactive_file"}));
    available = std::min(available, limit - std::min(used, limit));
  }
  return available;
}

// Maps `bytes` (a multiple of the page size), aligned to huge pages when it can hold one, so that
// no huge page is lost at its ends. Returns null when the kernel refuses.
char* MapAligned(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* mapped =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  if (slack == 0) return begin;
  const size_t head =
      RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  if (head > 0) munmap(begin, head);
  if (slack > head) munmap(begin + head + bytes, slack - head);
  // Advice only: without huge pages everything works, a little slower.
  madvise(begin + head, bytes, MADV_HUGEPAGE);
  return begin + head;
}

// Makes every page resident.
void Touch(char* base, size_t bytes) {
  if (kPoison) {
    std::memset(base, kPoisonByte, bytes);
    return;
  }
  const size_t page = PageSize();
  for (size_t at = 0; at < bytes; at += page) static_cast<volatile char*>(base)[at] = 0;
}

void AllowAccess([[maybe_unused]] char* begin, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(begin, bytes);
#endif
}

void ForbidAccess([[maybe_unused]] char* begin, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(begin, bytes);
#endif
}

}  // namespace

Arena::Arena(std::string name, Device device, char* base, size_t capacity)
    : name_(std::move(name)), device_(device), base_(base), capacity_(capacity) {}

Arena Arena::DryRun(std::string name) {
  // So much that no model reaches it, so little that no address wraps around.
  return Arena(std::move(name), Device::kDryRun, nullptr, std::numeric_limits<size_t>::max() / 16);
}

Arena Arena::OnHost(std::string name, size_t capacity) {
  // An arena without capacity still has an address: it is not a dry run.
  const size_t bytes = RoundUp(std::max(capacity, size_t{1}), PageSize());
  const size_t available = AvailableBytes();
  if (bytes > available) {
    throw Error("memory for " + name + ": " + MiB(bytes) + " needed, " + MiB(available) +
                " available on this machine; use a smaller model or micro-batch, or more memory");
  }
  char* base = MapAligned(bytes);
  if (base == nullptr) {
    throw Error("memory for " + name + ": " + MiB(bytes) + " needed, the system refused them (" +
                std::strerror(errno) +
                "); use a smaller model or micro-batch, or raise the limit "
                "(ulimit -v, the container's memory)");
  }
  host_blocks.fetch_add(1, std::memory_order_relaxed);
  Touch(base, bytes);
  ForbidAccess(base, bytes);
  return Arena(std::move(name), Device::kCpu, base, bytes);
}

Arena Arena::OnDevice(std::string name, std::shared_ptr<void> memory, size_t capacity) {
  CHECK(memory != nullptr) << name;
  Arena arena(std::move(name), Device::kCuda, static_cast<char*>(memory.get()), capacity);
  arena.device_memory_ = std::move(memory);
  return arena;
}

int64_t Arena::HostBlocks() { return host_blocks.load(std::memory_order_relaxed); }

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  // Swapping leaves what this one had to the other's destructor.
  std::swap(name_, other.name_);
  std::swap(device_, other.device_);
  std::swap(base_, other.base_);
  std::swap(device_memory_, other.device_memory_);
  std::swap(pinned_, other.pinned_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(high_water_, other.high_water_);
  return *this;
}

Arena::~Arena() {
  if (device_ != Device::kCpu) return;
  pinned_.reset();
  AllowAccess(base_, capacity_);
  munmap(base_, capacity_);
}

TensorView Arena::Allocate(const Shape& shape, DType dtype) {
  TensorView view;
  view.shape = shape;
  view.dtype = dtype;
  view.device = device();
  view.data = AllocateBytes(view.Bytes());
  return view;
}

void* Arena::AllocateBytes(size_t bytes) {
  CHECK_LE(bytes, capacity_) << name_;
  const size_t rounded = RoundUp(bytes, kAlignment);
  CHECK_LE(rounded, capacity_ - used_) << "arena " << name_ << ": " << bytes << " bytes asked, "
                                       << used_ << " of " << capacity_ << " in use";
  const size_t at = used_;
  used_ += rounded;
  high_water_ = std::max(high_water_, used_);
  if (device_ == Device::kDryRun) return reinterpret_cast<void*>(kDryRunBase + at);
  if (device_ == Device::kCpu) AllowAccess(base_ + at, bytes);
  return base_ + at;
}

void Arena::Release(size_t mark) {
  CHECK_LE(mark, used_) << "arena " << name_ << " released out of order";
  CHECK_EQ(mark % kAlignment, 0u) << name_;
  if (device_ == Device::kCpu && kPoison) {
    AllowAccess(base_ + mark, used_ - mark);
    std::memset(base_ + mark, kPoisonByte, used_ - mark);
    ForbidAccess(base_ + mark, used_ - mark);
  }
  used_ = mark;
}

}  // namespace swinfleet
