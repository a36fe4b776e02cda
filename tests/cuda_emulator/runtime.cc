// The part of the CUDA run time that the backend uses: streams, events, copies and launches.
//
// Who is before whom is known when something is put on a stream: each kernel or copy has a number
// on its stream, and a clock, which says for every stream up to which number all is over before it
// begins. The clock joins what was on the stream before, the events that the stream was told to
// wait for, and what the host's thread had waited for: what another one has waited for orders
// nothing.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "tests/cuda_emulator/internal.h"

namespace {

using Clock = std::vector<uint32_t>;  // by stream; what is beyond its end is 0

void Join(Clock* into, const Clock& other) {
  if (into->size() < other.size()) into->resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) (*into)[i] = std::max((*into)[i], other[i]);
}

uint32_t At(const Clock& clock, size_t stream) { return stream < clock.size() ? clock[stream] : 0; }

}  // namespace

// One recording of an event.
struct EventRecord {
  bool passed = false;
  // Of its stream.
  std::shared_ptr<cudaError_t> error;
  std::chrono::steady_clock::time_point time;
  Clock clock;
};

struct CUevent_st {
  bool has_time = false;
  std::shared_ptr<EventRecord> record;  // null: never recorded
};

struct StreamEntry {
  uint32_t operation = 0;
  // Runs it, and says whether it is over; of an entry that waits, null.
  std::function<bool()> run;
  std::shared_ptr<EventRecord> wait;
};

struct CUstream_st {
  size_t index = 0;
  int priority = 0;
  std::deque<StreamEntry> queue;
  Clock clock;
  // Of what has run, until somebody is told who waits for the stream or an event of it.
  std::shared_ptr<cudaError_t> error = std::make_shared<cudaError_t>(cudaSuccess);
};

namespace swinfleet::emulator {
namespace {

struct OperationInfo {
  size_t stream;
  uint32_t number;
  Clock clock;
  // Of many threads; else what is done in several goes is done one after the other.
  bool is_kernel = false;
};

struct Runtime {
  std::vector<CUstream_st*> streams;
  size_t streams_made = 0;
  std::set<cudaEvent_t> events;
  // Operations of the host's own.
  uint32_t host_operations = 0;
  std::vector<OperationInfo> operations{{}};  // number 0 is none
  uint32_t current = 0;
  // From cudaMallocHost, and by cudaHostRegister.
  std::map<const char*, size_t> pinned, registered;
  // Calls of what was asked to fail.
  std::map<std::string, int> asked;
  std::map<void (*)(), int> shared_limits;
  int64_t launches = 0;
  int64_t library_preparations = 0;
};

Runtime& TheRuntime() {
  static auto* runtime = new Runtime;
  return *runtime;
}

std::recursive_mutex& Mutex() {
  static auto* mutex = new std::recursive_mutex;
  return *mutex;
}

// What this thread has waited for.
thread_local Clock host;

thread_local int locks = 0;

// Whether SWINFLEET_CUDA_FAULT names this.
bool IsAsked(const char* fault) {
  const char* asked = std::getenv("SWINFLEET_CUDA_FAULT");
  return asked != nullptr && std::strcmp(asked, fault) == 0;
}

// Lets other threads have the lock, for a moment.
void Pause() {
  const int held = IsAsked("silence") ? 0 : locks;
  for (int i = 0; i < held; ++i) Mutex().unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(100));
  for (int i = 0; i < held; ++i) Mutex().lock();
}

// When the host called something last that puts things on streams or waits for them.
std::chrono::steady_clock::time_point last_call;
void NoteCall() { last_call = std::chrono::steady_clock::now(); }

CUstream_st* Checked(cudaStream_t stream) {
  const auto& streams = TheRuntime().streams;
  if (std::find(streams.begin(), streams.end(), stream) == streams.end()) {
    Fail("a stream that there is not; the default stream is not used");
  }
  return stream;
}

cudaEvent_t Checked(cudaEvent_t event) {
  if (!TheRuntime().events.contains(event)) Fail("an event that there is not");
  return event;
}

void WaitForRoom(cudaStream_t stream);

void Push(cudaStream_t stream, std::function<bool()> run, bool is_kernel = false) {
  const Lock lock;
  NoteCall();
  Runtime& r = TheRuntime();
  WaitForRoom(stream);
  Join(&stream->clock, host);
  const uint32_t number = At(stream->clock, stream->index) + 1;
  stream->clock.resize(std::max(stream->clock.size(), stream->index + 1));
  stream->clock[stream->index] = number;
  const auto operation = static_cast<uint32_t>(r.operations.size());
  r.operations.push_back({stream->index, number, stream->clock, is_kernel});
  stream->queue.push_back({operation, std::move(run), nullptr});
}

bool CanRun(const CUstream_st& stream) {
  return !stream.queue.empty() &&
         (stream.queue.front().wait == nullptr || stream.queue.front().wait->passed);
}

// False where it can't be over yet.
bool RunFront(CUstream_st* stream) {
  const StreamEntry& entry = stream->queue.front();
  if (entry.run) {
    TheRuntime().current = entry.operation;
    const bool over = entry.run();
    TheRuntime().current = 0;
    if (!over) return false;
  }
  stream->queue.pop_front();
  return true;
}

std::vector<CUstream_st*> AbleStreams() {
  std::vector<CUstream_st*> able;
  for (CUstream_st* stream : TheRuntime().streams) {
    if (CanRun(*stream)) able.push_back(stream);
  }
  return able;
}

// Lets one of the streams go on, in any order.
bool RunOneOf(std::vector<CUstream_st*> able) {
  while (!able.empty()) {
    const size_t chosen = InOrder() ? 0 : Order()() % able.size();
    if (RunFront(able[chosen])) return true;
    able.erase(able.begin() + chosen);
  }
  return false;
}

// Lets streams go on, in any order that events allow, until `done`.
template <typename Done>
void RunUntil(const Done& done) {
  CheckNoOpenGroup();
  NoteCall();
  while (!done()) {
    const std::vector<CUstream_st*> able = AbleStreams();
    if (able.empty()) Fail("streams wait for events that nothing brings about");
    if (!RunOneOf(able)) Pause();
  }
  NoteCall();
}

// As CUDA does when a stream has all that it takes: in the midst of whatever call comes next.
void WaitForRoom(cudaStream_t stream) {
  Checked(stream);
  if (!HasRoom(stream)) RunUntil([stream] { return HasRoom(stream); });
}

bool IsWithin(const std::map<const char*, size_t>& memory, const void* address, size_t bytes) {
  const auto* at = static_cast<const char*>(address);
  return std::any_of(memory.begin(), memory.end(), [&](const auto& piece) {
    return at >= piece.first && at + bytes <= piece.first + piece.second;
  });
}

bool IsRegistered(const void* address, size_t bytes) {
  return IsWithin(TheRuntime().registered, address, bytes);
}

void CheckPinned(const void* to, const void* from, size_t bytes, const char* problem) {
  for (const void* memory : {to, from}) {
    if (InArena(memory) || IsRegistered(memory, bytes)) continue;
    if (!IsWithin(TheRuntime().pinned, memory, bytes)) Fail(problem);
  }
}

// What cudaGetLastError tells.
thread_local cudaError_t last_error = cudaSuccess;

// The error that SWINFLEET_CUDA_FAULT asks for, at the call of that number since it does.
cudaError_t AskedError(const char* name, int call) {
  const Lock lock;
  if (std::getenv("SWINFLEET_CUDA_FAULT") == nullptr) TheRuntime().asked.clear();
  if (!IsAsked(name)) return cudaSuccess;
  return ++TheRuntime().asked[name] == call ? cudaErrorLaunchFailure : cudaSuccess;
}

void CheckDirection(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = InArena(to), from_device = InArena(from);
  const cudaMemcpyKind right =
      to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  if (kind != right) Fail("a copy in another direction than its pointers say");
  if (to_device) CheckAllocated(to, bytes, "a copy to a place");
  if (from_device) CheckAllocated(from, bytes, "a copy from a place");
}

void Copy(void* to, const void* from, size_t bytes) {
  const ArenaAccess access;
  const void* here = __builtin_return_address(0);
  if (InArena(from)) RecordAccess(from, bytes, AccessKind::kRead, {}, here);
  if (InArena(to)) RecordAccess(to, bytes, AccessKind::kWrite, {}, here);
  std::memcpy(to, from, bytes);
}

void Fill(void* to, int value, size_t bytes) {
  const ArenaAccess access;
  RecordAccess(to, bytes, AccessKind::kWrite, {}, __builtin_return_address(0));
  std::memset(to, value, bytes);
}

// What the host does itself: an operation of its own that comes after all that it has waited for.
void RunOnHost(const std::function<void()>& run) {
  Runtime& r = TheRuntime();
  // Streams that nobody made have no number; the host's operations have a stream of their own, 0.
  host.resize(std::max<size_t>(host.size(), 1));
  host[0] = ++r.host_operations;
  r.current = static_cast<uint32_t>(r.operations.size());
  r.operations.push_back({0, host[0], host});
  run();
  r.current = 0;
}

cudaError_t CheckLaunch(const KernelLaunch& l) {
  const uint64_t threads = uint64_t{l.block.x} * l.block.y * l.block.z;
  const bool possible = threads >= 1 && threads <= 1024 && l.block.z <= 64 && l.grid.x >= 1 &&
                        l.grid.y >= 1 && l.grid.z >= 1 && l.grid.x < 1u << 31 &&
                        l.grid.y <= 65535 && l.grid.z <= 65535;
  if (!possible) return cudaErrorInvalidConfiguration;
  const auto limit = TheRuntime().shared_limits.find(l.kernel);
  const size_t allowed =
      limit == TheRuntime().shared_limits.end() ? 48 << 10 : static_cast<size_t>(limit->second);
  return l.shared_bytes <= allowed ? cudaSuccess : cudaErrorInvalidValue;
}

// Of what is over at once.
std::function<bool()> AtOnce(std::function<void()> work) {
  return [work = std::move(work)] {
    work();
    return true;
  };
}

}  // namespace

Lock::Lock() {
  Mutex().lock();
  ++locks;
}

Lock::~Lock() {
  --locks;
  Mutex().unlock();
}

void CheckMayReserve(Reserved kind, const char* what) {
  const char* reserved = std::getenv("SWINFLEET_CUDA_RESERVED");
  if (reserved == nullptr) return;
  const bool all = std::strcmp(reserved, "all") == 0;
  if (!all && std::strcmp(reserved, "memory") != 0) {
    Fail("SWINFLEET_CUDA_RESERVED is nothing known");
  }
  if (all || kind == Reserved::kMemory) {
    Fail(std::string(what) + " is reserved where all had been reserved");
  }
}

bool HasRoom(cudaStream_t stream) { return stream->queue.size() < kQueueEntries; }

bool RunSome() { return RunOneOf(AbleStreams()); }

bool HostIsQuiet() {
  return std::chrono::steady_clock::now() - last_call > std::chrono::milliseconds(10);
}

uint32_t CurrentOperation() { return TheRuntime().current; }

bool IsBeforeCurrent(uint32_t operation) {
  const Runtime& r = TheRuntime();
  if (operation == r.current) return !r.operations[operation].is_kernel;
  const OperationInfo& info = r.operations[operation];
  return At(r.operations[r.current].clock, info.stream) >= info.number;
}

cudaError_t Enqueue(KernelLaunch launch, cudaStream_t stream) {
  const Lock lock;
  // Whoever launches asks for the last error, whoever made it.
  if (last_error != cudaSuccess) return cudaGetLastError();
  const cudaError_t error = CheckLaunch(launch);
  if (error != cudaSuccess) return error;
  ++TheRuntime().launches;
  Push(stream, AtOnce([launch = std::move(launch)] { RunKernel(launch); }), /*is_kernel=*/true);
  return cudaSuccess;
}

bool HasGreatestPriority(cudaStream_t stream) { return stream->priority == kGreatestPriority; }

void EnqueueWork(cudaStream_t stream, std::function<void()> work) {
  const Lock lock;
  ++TheRuntime().launches;
  Push(stream, AtOnce(std::move(work)));
}

void EnqueueWaiting(cudaStream_t stream, std::function<bool()> try_work) {
  Push(stream, std::move(try_work));
}

cudaError_t WaitForEvent(cudaStream_t stream, cudaEvent_t event, Site site) {
  const Lock lock;
  return Skipped(site) ? cudaSuccess : cudaStreamWaitEvent(stream, event, 0);
}

int64_t Launches() { return TheRuntime().launches; }
int64_t LibraryPreparations() { return TheRuntime().library_preparations; }
void NoteLibraryPreparation() { ++TheRuntime().library_preparations; }

size_t Events() {
  const Lock lock;
  return TheRuntime().events.size();
}

cudaError_t WaitOnHost(cudaEvent_t event, Site site) {
  const Lock lock;
  return Skipped(site) ? cudaSuccess : cudaEventSynchronize(event);
}

cudaError_t AllowShared(void (*kernel)(), int bytes) {
  const Lock lock;
  if (bytes > static_cast<int>(kMaxSharedBytes)) return cudaErrorInvalidValue;
  TheRuntime().shared_limits[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace swinfleet::emulator

namespace emulator = swinfleet::emulator;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  emulator::CheckMayReserve(emulator::Reserved::kHandle, "a stream");
  const emulator::Lock lock;
  if (flags != cudaStreamNonBlocking) emulator::Fail("a stream that the default stream blocks");
  auto& r = emulator::TheRuntime();
  *stream = new CUstream_st;
  (*stream)->index = ++r.streams_made;
  r.streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = emulator::kGreatestPriority;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
  const cudaError_t error = cudaStreamCreateWithFlags(stream, flags);
  // As documented: what lies outside of the range becomes its end.
  (*stream)->priority = std::clamp(priority, emulator::kGreatestPriority, 0);
  return error;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const emulator::Lock lock;
  cudaStreamSynchronize(stream);
  std::erase(emulator::TheRuntime().streams, stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const emulator::Lock lock;
  emulator::Checked(stream);
  emulator::RunUntil([&] { return stream->queue.empty(); });
  Join(&emulator::host, stream->clock);
  return std::exchange(*stream->error, cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
  const emulator::Lock lock;
  for (CUstream_st* stream : emulator::TheRuntime().streams) cudaStreamSynchronize(stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  const emulator::Lock lock;
  emulator::CheckMayReserve(emulator::Reserved::kHandle, "an event");
  if ((flags & ~(cudaEventBlockingSync | cudaEventDisableTiming)) != 0) {
    return cudaErrorInvalidValue;
  }
  *event = new CUevent_st;
  (*event)->has_time = (flags & cudaEventDisableTiming) == 0;
  emulator::TheRuntime().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const emulator::Lock lock;
  emulator::TheRuntime().events.erase(emulator::Checked(event));
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const emulator::Lock lock;
  emulator::Checked(event);
  emulator::WaitForRoom(stream);
  const auto record = std::make_shared<EventRecord>();
  record->clock = stream->clock;
  record->error = stream->error;
  event->record = record;
  stream->queue.push_back({0,
                           [record] {
                             record->passed = true;
                             record->time = std::chrono::steady_clock::now();
                             return true;
                           },
                           nullptr});
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  const emulator::Lock lock;
  emulator::Checked(stream);
  if (emulator::Checked(event)->record == nullptr) return cudaSuccess;
  emulator::WaitForRoom(stream);
  stream->queue.push_back({0, nullptr, event->record});
  Join(&stream->clock, event->record->clock);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const emulator::Lock lock;
  if (emulator::Checked(event)->record == nullptr) return cudaSuccess;
  const auto record = event->record;
  emulator::RunUntil([&] { return record->passed; });
  Join(&emulator::host, record->clock);
  return std::exchange(*record->error, cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const emulator::Lock lock;
  if (emulator::Checked(event)->record == nullptr) return cudaSuccess;
  if (!event->record->passed) return cudaErrorNotReady;
  Join(&emulator::host, event->record->clock);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const emulator::Lock lock;
  for (const cudaEvent_t event : {begin, end}) {
    const bool is_time = emulator::Checked(event)->has_time && event->record != nullptr;
    if (!is_time) return cudaErrorInvalidResourceHandle;
  }
  if (!begin->record->passed || !end->record->passed) return cudaErrorNotReady;
  *milliseconds =
      std::chrono::duration<float, std::milli>(end->record->time - begin->record->time).count();
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  emulator::CheckMayReserve(emulator::Reserved::kMemory, "pinned memory");
  const emulator::Lock lock;
  *pointer = std::malloc(bytes);
  emulator::FillUnwritten(*pointer, bytes);
  emulator::TheRuntime().pinned[static_cast<char*>(*pointer)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  const emulator::Lock lock;
  cudaDeviceSynchronize();
  if (emulator::TheRuntime().pinned.erase(static_cast<char*>(pointer)) == 0) {
    emulator::Fail("cudaFreeHost of what is no allocation");
  }
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int) {
  emulator::CheckMayReserve(emulator::Reserved::kMemory, "pinned memory");
  const emulator::Lock lock;
  if (bytes == 0) return cudaErrorInvalidValue;
  if (emulator::IsRegistered(pointer, 1)) return cudaErrorHostMemoryAlreadyRegistered;
  const cudaError_t error = emulator::AskedError("pinning", 1);
  if (error != cudaSuccess) return emulator::last_error = error;
  emulator::TheRuntime().registered[static_cast<char*>(pointer)] = bytes;
  return cudaSuccess;
}

// Waits for nothing: what still uses the memory then fails.
cudaError_t cudaHostUnregister(void* pointer) {
  const emulator::Lock lock;
  if (emulator::TheRuntime().registered.erase(static_cast<char*>(pointer)) == 0) {
    emulator::Fail("cudaHostUnregister of what was not registered");
  }
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }

// The host waits for this copy and for nothing else.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const emulator::Lock lock;
  emulator::CheckDirection(to, from, bytes, kind);
  emulator::RunOnHost([&] { emulator::Copy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const emulator::Lock lock;
  emulator::CheckDirection(to, from, bytes, kind);
  emulator::CheckPinned(to, from, bytes,
                        "an asynchronous copy with host memory that is not pinned");
  cudaError_t later = cudaSuccess;
  if (emulator::IsRegistered(to, bytes)) {
    const cudaError_t now = emulator::AskedError("copying", 2);
    if (now != cudaSuccess) return emulator::last_error = now;
    later = emulator::AskedError("copy", 1);
  }
  emulator::Push(stream, emulator::AtOnce([=] {
                   emulator::CheckPinned(to, from, bytes,
                                         "a copy's host memory is no longer pinned");
                   if (later == cudaSuccess) emulator::Copy(to, from, bytes);
                   if (later != cudaSuccess) *stream->error = later;
                 }));
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  emulator::CheckAllocated(to, bytes, "a fill of a place");
  emulator::Push(stream, emulator::AtOnce([=] { emulator::Fill(to, value, bytes); }));
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    emulator::Fail("an attribute of kernels that the emulator does not know");
  }
  return emulator::AllowShared(reinterpret_cast<void (*)()>(const_cast<void*>(kernel)), value);
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    default:
      return "an error that the emulator does not know";
  }
}
