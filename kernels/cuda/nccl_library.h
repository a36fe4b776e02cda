// NCCL, opened at run time: only processes that exchange something need it.
#ifndef SWINFLEET_KERNELS_CUDA_NCCL_LIBRARY_H_
#define SWINFLEET_KERNELS_CUDA_NCCL_LIBRARY_H_

#include <nccl.h>

namespace swinfleet::cuda {

// What is used of it, by the names that nccl.h has after "nccl".
struct NcclLibrary {
  decltype(&ncclGetVersion) GetVersion;
  decltype(&ncclGetUniqueId) GetUniqueId;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError;
  decltype(&ncclCommFinalize) CommFinalize;
  decltype(&ncclCommDestroy) CommDestroy;
  decltype(&ncclCommAbort) CommAbort;
  decltype(&ncclGetErrorString) GetErrorString;
  decltype(&ncclGetLastError) GetLastError;
  decltype(&ncclGroupStart) GroupStart;
  decltype(&ncclGroupEnd) GroupEnd;
  decltype(&ncclSend) Send;
  decltype(&ncclRecv) Recv;
  decltype(&ncclAllReduce) AllReduce;
  decltype(&ncclReduceScatter) ReduceScatter;
  decltype(&ncclAllGather) AllGather;
};

// Opened once, for the process's life. Throws Error that says why there is none that is new enough.
const NcclLibrary& Nccl();

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_NCCL_LIBRARY_H_
