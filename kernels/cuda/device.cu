// GPUs and their memory: what the backend is besides its operations.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/cuda/collectives.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/event_clock.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/nccl_library.h"

namespace swinfleet::cuda {
namespace {

// The oldest that the sources are compiled for.
constexpr int kLeastMajor = 8;

std::string MiB(size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::string UuidText(const cudaUUID_t& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (const char byte : uuid.bytes) {
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// Pinned memory that copies on one stream pass through, in pieces where they are larger: without it
// the driver would copy beside the stream, in an order that it alone knows. It is used in turn, a
// part of it again when the copies through it are done.
class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {
    void* memory = nullptr;
    CheckCuda(cudaMallocHost(&memory, kParts * kPartBytes), "taking pinned memory");
    memory_ = static_cast<char*>(memory);
    for (Part& part : parts_) {
      CheckCuda(cudaEventCreateWithFlags(&part.passed, cudaEventDisableTiming), "making an event");
    }
  }
  ~Staging() {
    for (const Part& part : parts_) cudaEventDestroy(part.passed);
    cudaFreeHost(memory_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void CopyIn(const void* from, void* to, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
      const size_t size = std::min(bytes - done, kPartBytes);
      char* place = Take(size);
      std::memcpy(place, static_cast<const char*>(from) + done, size);
      CheckCuda(cudaMemcpyAsync(static_cast<char*>(to) + done, place, size, cudaMemcpyHostToDevice,
                                stream_),
                "a copy to the GPU");
      done += size;
    }
  }
  // There at the next Land.
  void CopyOut(const void* from, void* to, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
      const size_t size = std::min(bytes - done, kPartBytes);
      char* place = Take(size);
      CheckCuda(cudaMemcpyAsync(place, static_cast<const char*>(from) + done, size,
                                cudaMemcpyDeviceToHost, stream_),
                "a copy from the GPU");
      parts_[part_].reads.push_back({place, static_cast<char*>(to) + done, size});
      done += size;
    }
  }
  // All that was put on the stream is done.
  void Land() {
    for (Part& part : parts_) Land(&part);
  }

 private:
  static constexpr int kParts = 4;
  static constexpr size_t kPartBytes = size_t{2} << 20;
  // Of a copy's start there.
  static constexpr size_t kAlignment = 64;

  // What has been copied from the GPU, and where it goes from here.
  struct Read {
    const char* place;
    char* to;
    size_t bytes;
  };
  struct Part {
    cudaEvent_t passed = nullptr;
    std::vector<Read> reads;
  };

  static void Land(Part* part) {
    for (const Read& read : part->reads) std::memcpy(read.to, read.place, read.bytes);
    part->reads.clear();
  }

  // Pinned memory that no copy under way uses.
  char* Take(size_t bytes) {
    if (used_ + bytes > kPartBytes) {
      CheckCuda(cudaEventRecord(parts_[part_].passed, stream_), "recording an event");
      part_ = (part_ + 1) % kParts;
      used_ = 0;
      WaitOnHost(parts_[part_].passed);
      Land(&parts_[part_]);
    }
    char* place = memory_ + part_ * kPartBytes + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }

  cudaStream_t stream_;
  char* memory_ = nullptr;
  std::array<Part, kParts> parts_;
  // The part that copies pass through at present, and what of it they have been given.
  int part_ = 0;
  size_t used_ = 0;
};

cudaStream_t MakeStream() {
  cudaStream_t stream = nullptr;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return stream;
}

// What lanes share with their GPU.
struct LaneSetting {
  int gpu = 0;  // its number
  cudaStream_t computing = nullptr;
  const std::atomic<bool>* aborted = nullptr;
};

// The next call is not to report this one's error. One that the GPU can't recover from comes again
// by itself.
void ForgetError() { cudaGetLastError(); }

void RequireExchange(const std::atomic<bool>& aborted) {
  if (aborted) throw Error("what the GPU has computed means nothing: its exchange was given up");
}

class Lane final : public DeviceLane {
 public:
  Lane(const LaneSetting& setting, int marks)
      : setting_(setting), stream_(MakeStream()), marks_(marks) {
    for (cudaEvent_t& mark : marks_) {
      CheckCuda(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "making an event");
    }
    CheckCuda(cudaEventCreateWithFlags(&computed_, cudaEventDisableTiming), "making an event");
    // Who waits for it leaves the processor to others.
    CheckCuda(cudaEventCreateWithFlags(&ended_, cudaEventDisableTiming | cudaEventBlockingSync),
              "making an event");
  }
  ~Lane() override {
    cudaStreamSynchronize(stream_);
    for (const cudaEvent_t mark : marks_) cudaEventDestroy(mark);
    cudaEventDestroy(computed_);
    cudaEventDestroy(ended_);
    cudaStreamDestroy(stream_);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void* stream() const override { return stream_; }
  void CopyIn(const void* from, void* to, size_t bytes) override {
    Copy(from, to, bytes, cudaMemcpyHostToDevice, "a copy to the GPU");
  }
  void CopyOut(const void* from, void* to, size_t bytes) override {
    Copy(from, to, bytes, cudaMemcpyDeviceToHost, "a copy from the GPU");
  }
  void SetMark(int mark) override {
    ChooseGpu();
    CheckCuda(cudaEventRecord(marks_[mark], stream_), "recording an event");
  }
  void Wait() override {
    ChooseGpu();
    CheckCuda(cudaEventRecord(ended_, stream_), "recording an event");
    WaitOnHost(ended_);
    RequireExchange(*setting_.aborted);
  }
  void StartAfterComputing() override {
    CheckCuda(cudaEventRecord(computed_, setting_.computing), "recording an event");
    WaitForEvent(stream_, computed_);
  }
  void ComputeAfter(int mark) override { WaitForEvent(setting_.computing, marks_[mark]); }

 private:
  void Copy(const void* from, void* to, size_t bytes, cudaMemcpyKind kind, const char* what) {
    ChooseGpu();
    const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, stream_);
    if (error != cudaSuccess) ForgetError();
    CheckCuda(error, what);
  }
  // A thread that has never said so would wake up the first one.
  void ChooseGpu() const { CheckCuda(cudaSetDevice(setting_.gpu), "choosing a GPU"); }

  const LaneSetting setting_;
  const cudaStream_t stream_;
  std::vector<cudaEvent_t> marks_;
  cudaEvent_t computed_ = nullptr;
  cudaEvent_t ended_ = nullptr;
};

class OpenGpu final : public Accelerator {
 public:
  explicit OpenGpu(const Gpu& gpu) : name_(gpu.name), number_(gpu.number) {
    CheckCuda(cudaSetDevice(gpu.number), ("opening GPU " + std::to_string(gpu.number)).c_str());
    stream_ = MakeStream();
    copies_ = MakeStream();
    copies_out_ = MakeStream();
    staging_ = std::make_unique<Staging>(stream_);
    beside_ = std::make_unique<Staging>(copies_);
    for (cudaEvent_t* event : {&used_[0], &used_[1], &copied_, &computed_}) {
      CheckCuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "making an event");
    }
    // Who waits for it on the host leaves the processor to others: it may take seconds.
    CheckCuda(
        cudaEventCreateWithFlags(&copied_out_, cudaEventDisableTiming | cudaEventBlockingSync),
        "making an event");
  }
  ~OpenGpu() override {
    staging_.reset();
    beside_.reset();
    for (const cudaEvent_t event : {used_[0], used_[1], copied_, computed_, copied_out_}) {
      cudaEventDestroy(event);
    }
    cudaStreamDestroy(copies_out_);
    cudaStreamDestroy(copies_);
    cudaStreamDestroy(stream_);
  }

  const std::string& name() const override { return name_; }
  const OpTable& ops() const override { return Ops(); }
  void* stream() const override { return stream_; }

  void* Allocate(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes);
    if (error == cudaSuccess) return memory;
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    ForgetError();
    throw Error(MiB(bytes) + " of memory needed on the GPU, which has " + MiB(free) + " free of " +
                MiB(total) + " (" + cudaGetErrorString(error) +
                "); use a smaller model or micro-batch, more ranks with a higher ZeRO stage, or " +
                "checkpointing");
  }
  void Free(void* memory) override {
    // A GPU that has failed has said so to somebody else.
    cudaStreamSynchronize(stream_);
    cudaStreamSynchronize(copies_out_);
    cudaFree(memory);
  }

  void CopyIn(const void* from, void* to, size_t bytes) override {
    staging_->CopyIn(from, to, bytes);
  }
  void CopyOutLater(const void* from, void* to, size_t bytes) override {
    staging_->CopyOut(from, to, bytes);
  }
  void Wait() override {
    CheckCuda(cudaStreamSynchronize(stream_), "computing on the GPU");
    staging_->Land();
    RequireExchange(aborted_);
  }

  void CopyInBeside(int turn, const void* from, void* to, size_t bytes) override {
    WaitForEvent(copies_, used_[turn]);
    beside_->CopyIn(from, to, bytes);
    CheckCuda(cudaEventRecord(copied_, copies_), "recording an event");
    WaitForEvent(stream_, copied_);
  }
  void NoteUse(int turn) override {
    CheckCuda(cudaEventRecord(used_[turn], stream_), "recording an event");
  }

  void Pin(void* memory, size_t bytes) override {
    const cudaError_t error = cudaHostRegister(memory, bytes, cudaHostRegisterDefault);
    if (error == cudaSuccess) return;
    ForgetError();
    throw Error(MiB(bytes) + " of the host's memory can't be pinned for copies from the GPU (" +
                cudaGetErrorString(error) + ")");
  }
  void Unpin(void* memory) override {
    cudaStreamSynchronize(copies_out_);
    cudaHostUnregister(memory);
  }
  void CopyOutBeside(std::span<const DeviceRead> reads) override {
    CheckCuda(cudaEventRecord(computed_, stream_), "recording an event");
    WaitForEvent(copies_out_, computed_);
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < reads.size() && error == cudaSuccess; ++i) {
      error = cudaMemcpyAsync(reads[i].to, reads[i].from, reads[i].bytes, cudaMemcpyDeviceToHost,
                              copies_out_);
    }
    if (error != cudaSuccess) ForgetError();
    // After those that were begun before one failed too.
    CheckCuda(cudaEventRecord(copied_out_, copies_out_), "recording an event");
    CheckCuda(error, "a copy from the GPU");
  }
  void ComputeAfterCopies() override { WaitForEvent(stream_, copied_out_); }
  void WaitForCopies() override {
    // A thread that has never said so would wake up the first GPU.
    CheckCuda(cudaSetDevice(number_), "choosing a GPU");
    WaitOnHost(copied_out_);
    RequireExchange(aborted_);
  }

  std::unique_ptr<DeviceLane> NewLane(int marks) override {
    return std::make_unique<Lane>(
        LaneSetting{.gpu = number_, .computing = stream_, .aborted = &aborted_}, marks);
  }

  std::unique_ptr<DeviceClock> MakeClock(size_t moments) override {
    return MakeEventClock(moments);
  }

  CollectivesId NewCollectivesId() override { return NewNcclId(); }
  std::unique_ptr<DeviceCollectives> Join(const CollectivesId& id, int place,
                                          int processes) override {
    aborted_ = false;
    return JoinNccl({.gpu = number_, .computing = stream_, .aborted = &aborted_}, id, place,
                    processes);
  }

 private:
  const std::string name_;
  const int number_;
  cudaStream_t stream_ = nullptr;
  // Of copies beside computing, to the GPU and from it: it does both at once.
  cudaStream_t copies_ = nullptr;
  cudaStream_t copies_out_ = nullptr;
  std::unique_ptr<Staging> staging_, beside_;
  // Of the turns; and the last copy beside.
  std::array<cudaEvent_t, kTurns> used_{};
  cudaEvent_t copied_ = nullptr;
  // What CopyOutBeside waits for, and its end.
  cudaEvent_t computed_ = nullptr;
  cudaEvent_t copied_out_ = nullptr;
  // By another thread.
  std::atomic<bool> aborted_ = false;
};

class Backend final : public CudaBackend {
 public:
  std::vector<Gpu> Gpus() const override {
    const int count = Count();
    std::vector<Gpu> gpus;
    std::string old;
    for (int number = 0; number < count; ++number) {
      cudaDeviceProp properties = {};
      CheckCuda(cudaGetDeviceProperties(&properties, number), "asking for a GPU's properties");
      if (properties.major >= kLeastMajor) {
        gpus.push_back(
            {properties.name, UuidText(properties.uuid), properties.totalGlobalMem, number});
        continue;
      }
      old += (old.empty() ? "" : ", ") + std::string(properties.name) + " (" +
             std::to_string(properties.major) + "." + std::to_string(properties.minor) + ")";
    }
    if (gpus.empty()) {
      throw Error("no GPU has compute capability " + std::to_string(kLeastMajor) +
                  ".0 or higher: " + old);
    }
    return gpus;
  }

  std::unique_ptr<Accelerator> Open(const Gpu& gpu) const override {
    return std::make_unique<OpenGpu>(gpu);
  }

  void RequireCollectives() const override { Nccl(); }

 private:
  // Not 0.
  static int Count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    if (error == cudaErrorInsufficientDriver) {
      int driver = 0;
      cudaDriverGetVersion(&driver);
      throw Error("the NVIDIA driver is for CUDA " + VersionText(driver) + ", older than CUDA " +
                  VersionText(CUDART_VERSION) + ", which this program needs: install a newer one");
    }
    if (error == cudaSuccess || error == cudaErrorNoDevice) {
      throw Error("there is no GPU on this machine that this process may use");
    }
    throw Error(std::string("the GPUs can't be asked for: ") + cudaGetErrorString(error));
  }
  // CUDA's numbers: 1000 for the major part, 10 for the minor one.
  static std::string VersionText(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  }
};

}  // namespace
}  // namespace swinfleet::cuda

extern "C" __attribute__((visibility("default"))) const char* SwinfleetCudaInterface() {
  return SWINFLEET_CUDA_INTERFACE;
}

extern "C" __attribute__((visibility("default"))) const swinfleet::CudaBackend*
SwinfleetCudaBackend() {
  static const swinfleet::cuda::Backend backend;
  return &backend;
}
