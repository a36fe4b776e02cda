// GPUs and their memory: what the backend is besides its operations.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/accelerator.h"
#include "kernels/cuda/collectives.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/nccl_library.h"

namespace swinfleet::cuda {
namespace {

// The oldest that the sources are compiled for.
constexpr int kLeastMajor = 8;

// Copies pass through pinned memory of this size, in pieces where they are larger: without it the
// driver would copy beside the stream, in an order that it alone knows.
constexpr size_t kStagingBytes = size_t{8} << 20;
// Of a piece's start there.
constexpr size_t kStagingAlignment = 64;

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

class OpenGpu final : public Accelerator {
 public:
  explicit OpenGpu(const Gpu& gpu) : name_(gpu.name), number_(gpu.number) {
    CheckCuda(cudaSetDevice(gpu.number), ("opening GPU " + std::to_string(gpu.number)).c_str());
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    void* staging = nullptr;
    CheckCuda(cudaMallocHost(&staging, kStagingBytes), "taking pinned memory");
    staging_ = static_cast<char*>(staging);
  }
  ~OpenGpu() override {
    cudaFreeHost(staging_);
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
    // The next call is not to report this one's error.
    cudaGetLastError();
    throw Error(MiB(bytes) + " of memory needed on the GPU, which has " + MiB(free) + " free of " +
                MiB(total) + " (" + cudaGetErrorString(error) +
                "); use a smaller model or micro-batch, more ranks with a higher ZeRO stage, or " +
                "checkpointing");
  }
  void Free(void* memory) override {
    // A GPU that has failed has said so to somebody else.
    cudaStreamSynchronize(stream_);
    cudaFree(memory);
  }

  void CopyIn(const void* from, void* to, size_t bytes) override {
    for (size_t done = 0; done < bytes;) {
      const size_t size = std::min(bytes - done, kStagingBytes);
      char* place = TakeStaging(size);
      std::memcpy(place, static_cast<const char*>(from) + done, size);
      CheckCuda(cudaMemcpyAsync(static_cast<char*>(to) + done, place, size, cudaMemcpyHostToDevice,
                                stream_),
                "a copy to the GPU");
      done += size;
    }
  }

  void CopyOut(const void* from, void* to, size_t bytes) override {
    for (size_t done = 0; done < bytes;) {
      const size_t size = std::min(bytes - done, kStagingBytes);
      char* place = TakeStaging(size);
      CheckCuda(cudaMemcpyAsync(place, static_cast<const char*>(from) + done, size,
                                cudaMemcpyDeviceToHost, stream_),
                "a copy from the GPU");
      Wait();
      std::memcpy(static_cast<char*>(to) + done, place, size);
      done += size;
    }
  }

  void Wait() override {
    CheckCuda(cudaStreamSynchronize(stream_), "computing on the GPU");
    staged_ = 0;
    if (aborted_) throw Error("what the GPU has computed means nothing: its exchange was given up");
  }

  CollectivesId NewCollectivesId() override { return NewNcclId(); }
  std::unique_ptr<DeviceCollectives> Join(const CollectivesId& id, int place,
                                          int processes) override {
    aborted_ = false;
    return JoinNccl({.gpu = number_, .computing = stream_, .aborted = &aborted_}, id, place,
                    processes);
  }

 private:
  // Pinned memory that no copy under way uses.
  char* TakeStaging(size_t bytes) {
    if (staged_ + bytes > kStagingBytes) Wait();
    char* place = staging_ + staged_;
    staged_ += (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
    return place;
  }

  const std::string name_;
  const int number_;
  cudaStream_t stream_ = nullptr;
  char* staging_ = nullptr;
  // Of it, what copies may still be under way from.
  size_t staged_ = 0;
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
