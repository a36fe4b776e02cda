// Device memory and streams that tests own.
#ifndef SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_BUFFER_H_
#define SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_BUFFER_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "tests/cuda_emulator/emulator.h"

namespace swinfleet::cuda_testing {

class Stream {
 public:
  explicit Stream(int priority = 0) {
    EXPECT_EQ(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), cudaSuccess);
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void Wait() const { EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }

 private:
  cudaStream_t stream_ = nullptr;
};

// n elements in device memory.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t n) : n_(n) {
    void* data = emulator::AllocateDevice(n * sizeof(T), 0);
    EXPECT_NE(data, nullptr);
    data_ = static_cast<T*>(data);
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  T* data() const { return data_; }
  // What it holds, after all streams have come to their ends.
  std::vector<T> Read() const {
    cudaDeviceSynchronize();
    std::vector<T> values(n_);
    cudaMemcpy(values.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t n_ = 0;
};

}  // namespace swinfleet::cuda_testing

#endif  // SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_BUFFER_H_
