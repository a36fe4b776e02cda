#include "kernels/cuda/nccl_library.h"

#include <dlfcn.h>

#include <string>

#include "kernels/error.h"

namespace swinfleet::cuda {
namespace {

constexpr char kLibrary[] = "libnccl.so.2";
// The first whose calls return before other processes have come.
constexpr int kLeastVersion = NCCL_VERSION(2, 14, 3);

template <typename Function>
void Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr) throw Error(std::string(kLibrary) + " has no " + name);
}

NcclLibrary Open() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(
        std::string("GPUs of several ranks exchange through NCCL, which can't be opened: ") +
        dlerror() + "; install it, or start one rank");
  }
  NcclLibrary nccl = {};
  Find(library, "ncclGetVersion", &nccl.GetVersion);
  Find(library, "ncclGetUniqueId", &nccl.GetUniqueId);
  Find(library, "ncclCommInitRankConfig", &nccl.CommInitRankConfig);
  Find(library, "ncclCommGetAsyncError", &nccl.CommGetAsyncError);
  Find(library, "ncclCommFinalize", &nccl.CommFinalize);
  Find(library, "ncclCommDestroy", &nccl.CommDestroy);
  Find(library, "ncclCommAbort", &nccl.CommAbort);
  Find(library, "ncclGetErrorString", &nccl.GetErrorString);
  Find(library, "ncclGetLastError", &nccl.GetLastError);
  Find(library, "ncclGroupStart", &nccl.GroupStart);
  Find(library, "ncclGroupEnd", &nccl.GroupEnd);
  Find(library, "ncclSend", &nccl.Send);
  Find(library, "ncclRecv", &nccl.Recv);
  Find(library, "ncclAllReduce", &nccl.AllReduce);
  Find(library, "ncclReduceScatter", &nccl.ReduceScatter);
  Find(library, "ncclAllGather", &nccl.AllGather);
  int version = 0;
  nccl.GetVersion(&version);
  if (version < kLeastVersion) {
    throw Error(std::string(kLibrary) + " is of version " + std::to_string(version) +
                ", older than 2.14.3: install a newer one");
  }
  return nccl;
}

}  // namespace

const NcclLibrary& Nccl() {
  static const NcclLibrary nccl = Open();
  return nccl;
}

}  // namespace swinfleet::cuda
