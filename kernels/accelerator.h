// A device with memory of its own, beside the host that calls it, and the library that knows such
// devices (docs/cuda.md).
#ifndef SWINFLEET_KERNELS_ACCELERATOR_H_
#define SWINFLEET_KERNELS_ACCELERATOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace swinfleet {

struct OpTable;

// One device, opened. All calls come from the thread that opened it. What goes wrong on the device
// throws Error, in whatever call comes next.
class Accelerator {
 public:
  virtual ~Accelerator() = default;

  // "NVIDIA H100 80GB HBM3".
  virtual const std::string& name() const = 0;
  virtual const OpTable& ops() const = 0;
  // Context::stream: operations and copies are done in the order in which they are called.
  virtual void* stream() const = 0;

  // Memory at a multiple of 256 bytes. Throws Error that says how much there is when there is too
  // little. Free waits until nothing uses it, and never throws.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // From the host's memory to the device's. The host's may be used for something else at once.
  virtual void CopyIn(const void* from, void* to, size_t bytes) = 0;
  // From the device's memory to the host's; there when it returns.
  virtual void CopyOut(const void* from, void* to, size_t bytes) = 0;
  // Returns when all that was called is done.
  virtual void Wait() = 0;
};

// A GPU that can compute for us.
struct Gpu {
  // "NVIDIA H100 80GB HBM3".
  std::string name;
  // Tells it from all others, also those of other machines.
  std::string uuid;
  size_t memory_bytes = 0;
  // As this process counts.
  int number = 0;
};

// The most dimensions of an attention head that the CUDA backend computes.
inline constexpr int64_t kMostCudaHeadDim = 64;

// The CUDA backend, as a program opens it at run time.
class CudaBackend {
 public:
  virtual ~CudaBackend() = default;
  // The GPUs that this process may use, in the order of their numbers. Throws Error that says why
  // there are none (no driver, an old one, no GPU, none that is new enough).
  virtual std::vector<Gpu> Gpus() const = 0;
  virtual std::unique_ptr<Accelerator> Open(const Gpu& gpu) const = 0;
};

// The backend of libswinfleet_cuda.so, which is looked for beside the program and in lib/ beside
// its folder. Opened once, for the process's life. Throws Error that says why there is none: no
// library (of a build without the CUDA toolkit), no driver, a library of another build, or one that
// lacks a library of CUDA's.
const CudaBackend& OpenCudaBackend();
// The same of a file.
const CudaBackend& OpenCudaBackend(const std::string& path);

// What the library shows. It and the program that opens it exchange structures of C++, so both have
// to be of one state of the headers that define these: both are built with a name of that state.
inline constexpr char kCudaBackendSymbol[] = "SwinfleetCudaBackend";
inline constexpr char kCudaInterfaceSymbol[] = "SwinfleetCudaInterface";
using CudaBackendFunction = const CudaBackend* (*)();
using CudaInterfaceFunction = const char* (*)();

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_ACCELERATOR_H_
