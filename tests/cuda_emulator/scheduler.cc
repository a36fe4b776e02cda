// Fibers, and the order in which they run: a block's threads, its barriers and its warps'
// rendezvous.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#include <boost/context/fiber.hpp>

#include "tests/cuda_emulator/internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace swinfleet::emulator {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kMaxThreads = 1024;

struct Worker;

// Nearly always the same literal.
bool Same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

// What a thread waits for.
struct Wait {
  const char* what = nullptr;  // null: it runs
  Site site;
  unsigned mask = 0;  // 0: the whole block
  void* arguments = nullptr;

  bool operator==(const Wait& other) const {
    if (what == nullptr || other.what == nullptr) return what == other.what;
    return mask == other.mask && site.line() == other.site.line() && Same(what, other.what) &&
           Same(site.file_name(), other.site.file_name());
  }
};

struct Thread {
  unsigned rank = 0;
  uint3 index = {};
  bool finished = false;
  Wait wait;
  Worker* worker = nullptr;
  AsyncCopies copies;
};

struct Warp {
  unsigned exists = 0;   // lanes
  unsigned waiting = 0;  // lanes
  uint32_t epoch = 0;
};

struct Block {
  const KernelLaunch* launch = nullptr;
  uint3 index = {};
  uint32_t number = 0;
  uint32_t epoch = 0;
  unsigned threads = 0;
  unsigned at_barrier = 0;
  unsigned unfinished = 0;
  std::array<Thread, kMaxThreads> thread;
  std::array<Warp, kMaxThreads / 32> warp;
  std::vector<unsigned> unstarted;  // the next one last
  std::vector<Thread*> ready;
};

// A stack, and where what ran on it goes on: the host's, or a fiber that runs one thread after the
// other until one has to wait.
struct Worker {
  boost::context::fiber fiber;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// A stack that its worker keeps for good.
struct KeptStack {
  char* bottom;
  boost::context::stack_context allocate() {
    boost::context::stack_context context;
    context.size = kStackBytes;
    context.sp = bottom + kStackBytes;
    return context;
  }
  void deallocate(boost::context::stack_context&) {}
};

struct Scheduler {
  Block block;
  Thread* current = nullptr;
  Worker host;
  Worker* running = &host;
  Worker* left = nullptr;  // the one that ran before
  std::vector<Worker*> idle;
  char* stacks = nullptr;
  char* shared = nullptr;
  size_t workers = 0;
  std::mt19937_64 order;
  bool in_order = true;
};

// Made when first needed; lives until the process ends.
Scheduler* scheduler = nullptr;

void MakeScheduler() {
  scheduler = new Scheduler;
  scheduler->stacks =
      static_cast<char*>(Reserve(kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE));
  scheduler->shared = static_cast<char*>(Reserve(kMaxSharedBytes, PROT_READ | PROT_WRITE));
  if (const char* order = std::getenv("SWINFLEET_CUDA_ORDER")) SetOrder(std::atoi(order));
}

// Asked for at every access of a kernel.
inline Scheduler& TheScheduler() {
  if (scheduler == nullptr) MakeScheduler();
  return *scheduler;
}

void Leave([[maybe_unused]] Worker* self, [[maybe_unused]] const Worker& next) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&self->fake_stack, next.stack, next.stack_bytes);
#endif
}

// What a worker does first where it begins or goes on; `from` is where the one before it goes on.
void Arrive(boost::context::fiber&& from, [[maybe_unused]] void* fake_stack) {
  Worker* left = TheScheduler().left;
  left->fiber = std::move(from);
#if defined(__SANITIZE_ADDRESS__)
  // Also tells where the host's stack is, which is not known before.
  __sanitizer_finish_switch_fiber(fake_stack, &left->stack, &left->stack_bytes);
#endif
}

// Goes over to another worker, until one comes back to this.
void SwitchTo(Worker* next) {
  Scheduler& s = TheScheduler();
  Worker* self = s.running;
  s.left = self;
  s.running = next;
  Leave(self, *next);
  Arrive(std::move(next->fiber).resume(), self->fake_stack);
}

// Runs threads that have not begun, until none is left. Never inlined into its fiber's loop, which
// may go on for another thread of the host than before: it would keep that one's variables.
__attribute__((noinline)) void RunThreads(Worker* self) {
  Scheduler& s = TheScheduler();
  Block& block = s.block;
  while (!block.unstarted.empty()) {
    Thread& thread = block.thread[block.unstarted.back()];
    block.unstarted.pop_back();
    thread.worker = self;
    s.current = &thread;
    OutOfKernel::Begin();
    block.launch->run(block.launch->kernel, block.launch->arguments.get());
    OutOfKernel::End();
    if (!thread.copies.waiting.empty()) {
      Fail("a thread ends with copies (cp.async) that it never waited for");
    }
    thread.finished = true;
    --block.unfinished;
  }
  s.idle.push_back(self);
}

Worker* Next();

Worker* TakeWorker() {
  Scheduler& s = TheScheduler();
  if (!s.idle.empty()) {
    Worker* worker = s.idle.back();
    s.idle.pop_back();
    return worker;
  }
  auto* worker = new Worker;
  char* stack = s.stacks + s.workers++ * kStackBytes;
  worker->stack = stack;
  worker->stack_bytes = kStackBytes;
  worker->fiber = boost::context::fiber(std::allocator_arg, KeptStack{stack},
                                        [worker](boost::context::fiber&& from) {
                                          Arrive(std::move(from), nullptr);
                                          for (;;) {
                                            RunThreads(worker);
                                            SwitchTo(Next());
                                          }
                                          return boost::context::fiber();
                                        });
  return worker;
}

std::string NameOf(const Thread& thread) {
  return "thread (" + std::to_string(thread.index.x) + ", " + std::to_string(thread.index.y) +
         ", " + std::to_string(thread.index.z) + ")";
}

// Nobody can go on: says where the threads are, one of each kind.
[[noreturn]] void FailDivergence() {
  const Block& block = TheScheduler().block;
  std::string text = "threads wait for others that never come, in block (" +
                     std::to_string(block.index.x) + ", " + std::to_string(block.index.y) + ", " +
                     std::to_string(block.index.z) + ")";
  std::vector<const Thread*> kinds;
  for (unsigned i = 0; i < block.threads; ++i) {
    const Thread& thread = block.thread[i];
    const bool known = std::any_of(kinds.begin(), kinds.end(), [&](const Thread* other) {
      return other->finished == thread.finished && (thread.finished || other->wait == thread.wait);
    });
    if (known) continue;
    kinds.push_back(&thread);
    text += "\n  " + NameOf(thread);
    if (thread.finished) {
      text += " has ended";
    } else {
      text += " waits in " + std::string(thread.wait.what) + " at " + Describe(thread.wait.site);
      if (thread.wait.mask != 0) text += " with the mask " + std::to_string(thread.wait.mask);
    }
  }
  Fail(text);
}

void MakeReady(Thread* thread) {
  thread->wait.what = nullptr;
  TheScheduler().block.ready.push_back(thread);
}

// A number below n, which is at most the number of threads.
size_t Draw(size_t n) { return (TheScheduler().order() >> 32) * n >> 32; }

Thread* TakeReady() {
  Scheduler& s = TheScheduler();
  std::vector<Thread*>& ready = s.block.ready;
  Thread* thread;
  if (s.in_order) {
    thread = ready.front();
    ready.erase(ready.begin());
  } else {
    std::swap(ready[Draw(ready.size())], ready.back());
    thread = ready.back();
    ready.pop_back();
  }
  return thread;
}

// Who goes on: a thread that has what it waited for, or one that has not begun; the host, when all
// have ended.
Worker* Next() {
  Scheduler& s = TheScheduler();
  const bool can_start = !s.block.unstarted.empty(), can_resume = !s.block.ready.empty();
  if (can_start && (!can_resume || s.in_order || Draw(2) == 0)) return TakeWorker();
  if (can_resume) {
    s.current = TakeReady();
    return s.current->worker;
  }
  if (s.block.unfinished > 0) FailDivergence();
  s.current = nullptr;
  return &s.host;
}

// The running thread lets others go on, until it is its turn.
void Suspend() {
  Worker* next = Next();
  if (next != TheScheduler().running) SwitchTo(next);
}

void PrepareBlock(const KernelLaunch& launch, uint32_t number) {
  Scheduler& s = TheScheduler();
  Block& block = s.block;
  block.launch = &launch;
  block.number = number;
  block.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y,
                 number / launch.grid.x / launch.grid.y};
  block.epoch = 0;
  block.at_barrier = 0;
  block.threads = launch.block.x * launch.block.y * launch.block.z;
  block.unfinished = block.threads;
  block.ready.clear();
  block.unstarted.resize(block.threads);
  for (unsigned i = 0; i < block.threads; ++i) {
    Thread& thread = block.thread[i];
    thread.rank = i;
    thread.index = {i % launch.block.x, i / launch.block.x % launch.block.y,
                    i / launch.block.x / launch.block.y};
    thread.finished = false;
    thread.wait.what = nullptr;
    thread.copies.group = 0;
    block.unstarted[block.threads - 1 - i] = i;
  }
  if (!s.in_order) std::shuffle(block.unstarted.begin(), block.unstarted.end(), s.order);
  for (unsigned w = 0; w * 32 < block.threads; ++w) {
    const unsigned lanes = std::min(32u, block.threads - w * 32);
    block.warp[w] = {lanes == 32 ? ~0u : (1u << lanes) - 1, 0, 0};
  }
  FillUnwritten(s.shared, launch.shared_bytes);
}

// What lies behind the shared memory that a launch asked for is guarded like device memory.
void GuardShared(const KernelLaunch& launch) {
  char* end = TheScheduler().shared + launch.shared_bytes;
  const size_t rest = kMaxSharedBytes - launch.shared_bytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(TheScheduler().shared, launch.shared_bytes);
  __asan_poison_memory_region(end, rest);
#else
  FillUnwritten(end, std::min<size_t>(rest, 256));
#endif
}

void CheckSharedGuard([[maybe_unused]] const KernelLaunch& launch) {
#if !defined(__SANITIZE_ADDRESS__)
  const char* end = TheScheduler().shared + launch.shared_bytes;
  char expected[256];
  FillUnwritten(expected, sizeof(expected));
  const size_t bytes = std::min(kMaxSharedBytes - launch.shared_bytes, sizeof(expected));
  if (std::memcmp(end, expected, bytes) != 0) {
    Fail("a kernel wrote beyond its " + std::to_string(launch.shared_bytes) +
         " bytes of shared memory");
  }
#endif
}

Warp& CurrentWarp() { return TheScheduler().block.warp[TheScheduler().current->rank / 32]; }

// The lanes of the mask go on, when all have come to the same place.
void ReleaseWarp(Execute execute, bool orders_memory, const Wait& wait) {
  Block& block = TheScheduler().block;
  Warp& warp = CurrentWarp();
  const unsigned first = TheScheduler().current->rank / 32 * 32;
  void* lanes[32] = {};
  for (unsigned rest = wait.mask; rest != 0; rest &= rest - 1) {
    const unsigned lane = std::countr_zero(rest);
    Thread& thread = block.thread[first + lane];
    if (!(thread.wait == wait)) return;
    lanes[lane] = thread.wait.arguments;
  }
  if (execute != nullptr) execute(lanes, wait.mask);
  // Among some of the lanes alone nothing is known to be ordered: that may cost a false alarm.
  if (orders_memory && wait.mask == warp.exists) ++warp.epoch;
  const unsigned mask = wait.mask;
  warp.waiting &= ~mask;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    MakeReady(&block.thread[first + std::countr_zero(rest)]);
  }
}

std::string ShortName(const Site& site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

}  // namespace

thread_local bool OutOfKernel::in_kernel_ = false;

std::string Describe(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

bool Skipped(const Site& site) {
  static const char* const skip = std::getenv("SWINFLEET_CUDA_SKIP");
  static const char* const sites = std::getenv("SWINFLEET_CUDA_SITES");
  if (skip == nullptr && sites == nullptr) return false;
  const std::string name = ShortName(site);
  if (sites != nullptr) {
    static std::set<std::string> known;
    if (known.insert(name).second) std::ofstream(sites, std::ios::app) << name << "\n";
  }
  return skip != nullptr && name == skip;
}

// Where a warp operation's mask is to lack its last lane.
bool LacksALane(const Site& site) {
  static const char* const lacking = std::getenv("SWINFLEET_CUDA_MASK");
  return lacking != nullptr && ShortName(site) == lacking;
}

void SetOrder(uint64_t seed) {
  TheScheduler().in_order = seed == 0;
  TheScheduler().order.seed(seed);
}

std::mt19937_64& Order() { return TheScheduler().order; }
bool InOrder() { return TheScheduler().in_order; }

uint3 ThreadIndex() { return TheScheduler().current->index; }
uint3 BlockIndex() { return TheScheduler().block.index; }
dim3 BlockSize() { return TheScheduler().block.launch->block; }
dim3 GridSize() { return TheScheduler().block.launch->grid; }
unsigned Lane() { return TheScheduler().current->rank % 32; }
unsigned char* SharedMemory() { return reinterpret_cast<unsigned char*>(TheScheduler().shared); }
char* SharedBase() { return TheScheduler().shared; }
size_t SharedBytes() { return TheScheduler().block.launch->shared_bytes; }
AsyncCopies& CurrentCopies() { return TheScheduler().current->copies; }

Position PositionOfLane(unsigned lane) {
  const Scheduler& s = TheScheduler();
  const unsigned warp = s.current->rank / 32;
  return {s.block.number, warp * 32 + lane, s.block.epoch, s.block.warp[warp].epoch};
}

Position CurrentPosition() {
  const Thread* current = TheScheduler().current;
  return current == nullptr ? Position{} : PositionOfLane(current->rank % 32);
}

bool OnFiberStack(const void* address) {
  const auto offset =
      static_cast<size_t>(static_cast<const char*>(address) - TheScheduler().stacks);
  return offset < kMaxThreads * kStackBytes;
}

bool InArguments(const void* address) {
  const KernelLaunch& launch = *TheScheduler().block.launch;
  const auto offset = static_cast<size_t>(static_cast<const char*>(address) -
                                          static_cast<const char*>(launch.arguments.get()));
  return offset < launch.argument_bytes;
}

void SyncThreads(Site site) {
  const OutOfKernel out;
  if (Skipped(site)) return;
  Scheduler& s = TheScheduler();
  Block& block = s.block;
  s.current->wait = {"__syncthreads", site, 0, nullptr};
  if (++block.at_barrier == block.threads) {
    for (unsigned i = 0; i < block.threads; ++i) {
      if (!(block.thread[i].wait == s.current->wait)) FailDivergence();
    }
    ++block.epoch;
    block.at_barrier = 0;
    for (unsigned i = 0; i < block.threads; ++i) MakeReady(&block.thread[i]);
  }
  Suspend();
}

void MeetWarp(const char* what, unsigned mask, void* arguments, Execute execute, bool orders_memory,
              Site site) {
  const OutOfKernel out;
  if (Skipped(site)) return;
  Scheduler& s = TheScheduler();
  Warp& warp = CurrentWarp();
  // A warp that the block does not fill has only the lanes that there are: __syncwarp may name all.
  if (orders_memory) mask &= warp.exists;
  if (LacksALane(site)) mask &= ~std::bit_floor(mask);
  if ((mask >> Lane() & 1) == 0 || (mask & ~warp.exists) != 0) {
    Fail(std::string(what) + " at " + Describe(site) + ": the mask " + std::to_string(mask) +
         " of lane " + std::to_string(Lane()) +
         " leaves the lane out or names lanes that there are not");
  }
  s.current->wait = {what, site, mask, arguments};
  warp.waiting |= 1u << Lane();
  if ((warp.waiting & mask) == mask) ReleaseWarp(execute, orders_memory, s.current->wait);
  Suspend();
}

unsigned Ballot(const char* what, unsigned mask, bool predicate, Site site) {
  struct Arguments {
    bool predicate;
    unsigned result;
  } arguments{predicate, 0};
  MeetWarp(
      what, mask, &arguments,
      [](void* const lanes[32], unsigned among) {
        unsigned result = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if (lanes[lane] == nullptr) continue;
          result |= static_cast<unsigned>(static_cast<Arguments*>(lanes[lane])->predicate) << lane;
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
          if (lanes[lane] != nullptr) static_cast<Arguments*>(lanes[lane])->result = result;
        }
      },
      false, site);
  return arguments.result;
}

void RunKernel(const KernelLaunch& launch) {
  Scheduler& s = TheScheduler();
  const uint32_t blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  std::vector<uint32_t> numbers(blocks);
  for (uint32_t i = 0; i < blocks; ++i) numbers[i] = i;
  if (!s.in_order) std::shuffle(numbers.begin(), numbers.end(), s.order);
  GuardShared(launch);
  {
    const ArenaAccess access;
    for (const uint32_t number : numbers) {
      PrepareBlock(launch, number);
      SwitchTo(Next());
    }
  }
  CheckSharedGuard(launch);
  CheckGuards();
}

}  // namespace swinfleet::emulator
