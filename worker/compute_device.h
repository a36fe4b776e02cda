// What a rank computes on: the CPU, or a GPU of its own.
#ifndef SWINFLEET_WORKER_COMPUTE_DEVICE_H_
#define SWINFLEET_WORKER_COMPUTE_DEVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "distributed/communicator.h"
#include "kernels/accelerator.h"

namespace swinfleet {

// kAuto: GPUs where every rank can have one, else the CPU.
enum class DeviceRequest { kAuto, kCpu, kCuda };
// Of "auto", "cpu" or "cuda".
DeviceRequest DeviceRequestOf(const std::string& text);
// For the command line.
std::vector<std::string> DeviceRequestTexts();

// A rank's device, for its process's life.
struct ComputeDevice {
  DeviceRequest request = DeviceRequest::kCpu;
  // Null: the CPU.
  std::unique_ptr<Accelerator> gpu;
  // What was taken, and why where nobody asked for that.
  std::string text;
};

// Each rank of a host takes the next GPU that none has taken, in the order of the ranks; they are
// told apart by what they are, so that it does not matter which of them a launcher shows to whom.
// Collective, with the same outcome on all ranks. Throws Error, on all of them, where GPUs are
// asked for and a rank can have none, and where ranks ask for different things.
ComputeDevice TakeDevice(DeviceRequest request, Communicator* communicator);

// The same, with another way to come by the backend.
ComputeDevice TakeDevice(DeviceRequest request, Communicator* communicator,
                         const CudaBackend& (*open)());

// Why a job can't compute on GPUs; empty when it can.
std::string WhyNotOnGpu(const JobConfig& config);
// The same of the CPU.
std::string WhyNotOnCpu(const JobConfig& config);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_COMPUTE_DEVICE_H_
