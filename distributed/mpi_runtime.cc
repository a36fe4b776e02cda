#include "distributed/mpi_runtime.h"

#include <cstdlib>

#include "distributed/mpi_communicator.h"
#include "distributed/mpi_thread.h"

namespace swinfleet {
namespace {

// Groups of callers use smaller tags.
constexpr int kWorldTag = 32767;

}  // namespace

struct MpiRuntime::Impl {
  MpiThread thread;
};

MpiRuntime::MpiRuntime() : impl_(std::make_unique<Impl>()) {}

MpiRuntime::~MpiRuntime() = default;

int MpiRuntime::world_rank() const { return impl_->thread.world_rank(); }

int MpiRuntime::world_size() const { return impl_->thread.world_size(); }

int MpiRuntime::local_rank() const { return impl_->thread.local_rank(); }

int MpiRuntime::local_size() const { return impl_->thread.local_size(); }

std::unique_ptr<Communicator> MpiRuntime::World() { return Group(world_size(), kWorldTag); }

std::unique_ptr<Communicator> MpiRuntime::Group(int ranks, int tag) {
  return std::make_unique<MpiCommunicator>(&impl_->thread, ranks, tag);
}

bool MpiRuntime::StartedByLauncher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace swinfleet
