// What the operations' tests run on: a device that the emulator makes up (emulated_device.cc), or a
// GPU (gpu_device.cc).
#ifndef SWINFLEET_TESTS_CUDA_TEST_DEVICE_H_
#define SWINFLEET_TESTS_CUDA_TEST_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/kernels/op_backend.h"

namespace swinfleet::testing {

// Memory of the device, `offset` bytes past a multiple of 256.
std::unique_ptr<TensorMemory> MakeDeviceMemory(size_t bytes, size_t offset);

// The ways of running an operation, told apart by UseInstructionSet's target and by alignment.
std::vector<Variant> DeviceVariants();
// Of what runs from here on, where there is a choice.
void SetDeviceOrder(int64_t target);

// Kernels put on streams so far; -1 where nobody counts them.
int64_t DeviceLaunches();
// Events that there are; -1 where nobody counts them.
int64_t DeviceEvents();
// Whether tests take only the sizes that come to all that a kernel does differently.
bool DeviceTakesFewSizes();

}  // namespace swinfleet::testing

#endif  // SWINFLEET_TESTS_CUDA_TEST_DEVICE_H_
