// A program of its own, because it replaces malloc and mmap to see what a step takes from the
// system. Sanitizers have a malloc of their own: with them the checks in the step itself are tested
// alone.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "core/data/mask.h"
#include "kernels/arena.h"
#include "tests/worker/trainer.h"

namespace {

// Less is no tensor of a model worth the name, and not the scratch of one either.
constexpr size_t kLarge = 64 << 10;
// What was asked for in pieces of kLarge and more.
std::atomic<int64_t> large_pieces = 0;

// Sanitizers have an allocator of their own, under which nothing is counted.
[[maybe_unused]] void Count(size_t size) {
  if (size >= kLarge) large_pieces.fetch_add(1, std::memory_order_relaxed);
}

// Large pieces that oneDNN has taken with its own allocator, which alone calls posix_memalign. Its
// products copy their operands into such pieces, whatever scratch they are given, and return them
// before they end.
class LibraryPieces {
 public:
  void Add(void* piece) { Replace(nullptr, piece); }
  void Remove(void* piece) { Replace(piece, nullptr); }
  int held() {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(pieces_.size() - std::ranges::count(pieces_, nullptr));
  }
  int64_t taken() const { return taken_; }

 private:
  void Replace(void* from, void* to) {
    const std::lock_guard lock(mutex_);
    const auto place = std::ranges::find(pieces_, from);
    if (place == pieces_.end()) {
      if (to != nullptr) std::abort();
      return;
    }
    *place = to;
    if (to != nullptr) ++taken_;
  }

  std::mutex mutex_;
  std::array<void*, 256> pieces_ = {};
  std::atomic<int64_t> taken_ = 0;
};
constinit LibraryPieces library_pieces;

}  // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCounts = false;
#else
constexpr bool kCounts = true;
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);

void* malloc(size_t size) {
  Count(size);
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  Count(count * size);
  return __libc_calloc(count, size);
}
void* realloc(void* memory, size_t size) {
  Count(size);
  return __libc_realloc(memory, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  Count(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, size_t alignment, size_t size) {
  *memory = __libc_memalign(alignment, size);
  if (*memory == nullptr) return ENOMEM;
  if (size >= kLarge) library_pieces.Add(*memory);
  return 0;
}
void free(void* memory) {
  if (memory != nullptr && malloc_usable_size(memory) >= kLarge) library_pieces.Remove(memory);
  __libc_free(memory);
}
void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) noexcept {
  Count(size);
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
}
void* mmap64(void* address, size_t size, int protection, int flags, int file,
             off_t offset) noexcept {
  return mmap(address, size, protection, flags, file, offset);
}
}
#endif

namespace swinfleet {
namespace {

// With 32 channels and pictures of 64 pixels every tensor of a block has more than kLarge bytes.
JobConfig Larger(JobConfig job) {
  job.model.image_h = job.model.image_w = 64;
  job.model.embed_dim = 32;
  // With it other numbers of rows come in each step, with products of their own.
  job.model.drop_path_rate = 0;
  job.parallel.threads_per_rank = 3;
  return TwoLeaves(job);
}

// Masks that differ from batch to batch.
Batch MaskedBatch(const JobConfig& job, uint64_t number) {
  Batch batch = RandomBatch(job, number);
  if (!job.pretrain.on()) return batch;
  const MaskConfig mask = MaskConfigFor(job.model, job.pretrain);
  const int64_t units = mask.units();
  std::vector<int64_t> scratch;
  const bool shared = job.pretrain.method == PretrainConfig::Method::kGreenMim;
  for (int64_t i = 0; i < batch.pictures; ++i) {
    const CounterRng rng(1, RandomPurpose::kMask, number, shared ? 0 : static_cast<uint32_t>(i));
    DrawMask(mask, rng, &scratch, std::span(batch.mask).subspan(i * units, units));
  }
  return batch;
}

void ExpectNothingTaken(const JobConfig& job) {
  Trainer trainer(job);
  std::vector<Batch> batches;
  for (int i = 0; i < 8; ++i) batches.push_back(MaskedBatch(job, i));
  trainer.Step(0, {&batches[0], &batches[1]});
  const int64_t blocks = Arena::HostBlocks(), products = CpuProductsMade();
  const int64_t before = large_pieces;
  const int held = library_pieces.held();
  for (int step = 1; step < 4; ++step) {
    const StepResult result = trainer.Step(step, {&batches[2 * step], &batches[2 * step + 1]});
    EXPECT_FALSE(result.skipped);
    EXPECT_EQ(large_pieces, before) << "pieces of 64 KiB or more taken up to step " << step + 1;
    EXPECT_EQ(library_pieces.held(), held) << "kept by products up to step " << step + 1;
  }
  EXPECT_EQ(Arena::HostBlocks(), blocks);
  EXPECT_EQ(CpuProductsMade(), products);
}

TEST(StepAllocation, TheCountSeesWhatItIsFor) {
  const int64_t before = large_pieces;
  { const std::vector<char> small(1000); }
  EXPECT_EQ(large_pieces, before);
  { const std::vector<char> large(kLarge); }
  { const Arena arena = Arena::OnHost("a", kLarge); }
  EXPECT_EQ(large_pieces, before + (kCounts ? 2 : 0));
}

TEST(StepAllocation, NoneFromTheSecondStepOn) {
  for (const Architecture arch :
       {Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << ArchitectureName(arch) << " " << NameOf(dtype));
      JobConfig job = Larger(SmallJob(arch));
      job.train.dtype = dtype;
      ExpectNothingTaken(job);
    }
  }
}

TEST(StepAllocation, NoneOfFrugalSteps) {
  JobConfig job = Larger(SmallJob(Architecture::kSwinV2));
  job.train.accumulation = Accumulation::kSplit;
  ExpectNothingTaken(job);
  job.train.accumulation = Accumulation::kLowPrecision;
  job.memory.checkpointing = {MemoryConfig::Checkpointing::kBlock,
                              MemoryConfig::Checkpointing::kBlock};
  job.memory.sequential_windows = {3, 3};
  ExpectNothingTaken(job);
}

TEST(StepAllocation, NoneInPretraining) {
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kMae,
                            PretrainConfig::Method::kGreenMim}) {
    SCOPED_TRACE(static_cast<int>(method));
    ExpectNothingTaken(Larger(SmallPretraining(method)));
  }
}

TEST(StepAllocationDeathTest, AStepThatTakesSomethingDies) {
  const JobConfig job = TwoLeaves(SmallJob(Architecture::kSwinV2));
  Trainer trainer(job);
  Batch batch = RandomBatch(job, 0), other = RandomBatch(job, 1);
  trainer.Step(0, {&batch, &other});
  EXPECT_DEATH(trainer.Step(1, {&batch, &other}, [] { Arena::OnHost("another", 1); }),
               "step 1 reserved tensor memory");
}

}  // namespace
}  // namespace swinfleet
