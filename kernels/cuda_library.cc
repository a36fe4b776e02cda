// Opens the CUDA backend. Nothing else in a program knows whether there is one.
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "kernels/accelerator.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr char kLibrary[] = "libswinfleet_cuda.so";
// What every NVIDIA driver has. Looked for first, because the backend brings large libraries with
// it.
constexpr char kDriver[] = "libcuda.so.1";

// The folder that this program is in.
std::string ProgramFolder() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  if (size <= 0) throw Error(std::string("/proc/self/exe: ") + std::strerror(errno));
  const std::string program(path, static_cast<size_t>(size));
  return program.substr(0, program.rfind('/'));
}

void* Symbol(void* library, const char* name, const std::string& path) {
  void* symbol = dlsym(library, name);
  if (symbol != nullptr) return symbol;
  throw Error(path + " is no CUDA backend of this program: it has no " + name);
}

}  // namespace

const CudaBackend& OpenCudaBackend(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Error(std::string("the CUDA backend can't be opened: ") + dlerror());
  const auto interface =
      reinterpret_cast<CudaInterfaceFunction>(Symbol(library, kCudaInterfaceSymbol, path));
  if (std::strcmp(interface(), SWINFLEET_CUDA_INTERFACE) != 0) {
    throw Error(path + " is of another build than this program: build or install both together");
  }
  const auto backend =
      reinterpret_cast<CudaBackendFunction>(Symbol(library, kCudaBackendSymbol, path));
  return *backend();
}

const CudaBackend& OpenCudaBackend() {
  static const CudaBackend& backend = []() -> const CudaBackend& {
    const std::string folder = ProgramFolder();
    for (const std::string& place : {folder, folder + "/../lib"}) {
      const std::string path = place + "/" + kLibrary;
      if (access(path.c_str(), F_OK) != 0) continue;
      if (dlopen(kDriver, RTLD_LAZY | RTLD_LOCAL) == nullptr) {
        throw Error(std::string("there is no NVIDIA driver on this machine: ") + dlerror());
      }
      return OpenCudaBackend(path);
    }
    throw Error(std::string("there is no ") + kLibrary + " in " + folder + " or " + folder +
                "/../lib: build with the CUDA toolkit, or install the library there");
  }();
  return backend;
}

}  // namespace swinfleet
