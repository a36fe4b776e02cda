// The GPUs of the emulated machine: as many as SWINFLEET_CUDA_GPUS says, 2 without it, each of them
// with the memory and the one thread of the process. "old driver" says what else may be wrong with
// a machine.
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/cuda_emulator/internal.h"

namespace swinfleet::emulator {
namespace {

std::string Machine() {
  const char* text = std::getenv("SWINFLEET_CUDA_GPUS");
  return text == nullptr ? "2" : text;
}

int Count() { return std::atoi(Machine().c_str()); }

// -1: none yet.
int current = -1;

}  // namespace

int CurrentDevice() { return current; }

}  // namespace swinfleet::emulator

namespace emulator = swinfleet::emulator;

cudaError_t cudaGetDeviceCount(int* count) {
  // The argument keeps what it held.
  if (emulator::Machine() == "old driver") return cudaErrorInsufficientDriver;
  if (emulator::Count() == 0) return cudaErrorNoDevice;
  *count = emulator::Count();
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 11040;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulator::Count()) return cudaErrorInvalidDevice;
  const emulator::Lock lock;
  // Memory and streams are those of one device.
  if (emulator::current >= 0 && emulator::current != device) {
    emulator::Fail("a second device in one process");
  }
  emulator::current = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= emulator::Count()) return cudaErrorInvalidDevice;
  *properties = {};
  std::strcpy(properties->name, "emulated GPU");
  properties->uuid.bytes[0] = static_cast<char>(device + 1);
  properties->totalGlobalMem = emulator::kArenaBytes;
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = emulator::kArenaBytes;
  *free = *total - emulator::AllocatedBytes();
  return cudaSuccess;
}
