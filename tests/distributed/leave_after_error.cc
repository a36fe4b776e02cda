// Rank 1 leaves with an error while its collective is under way and its peers never join: it must
// not wait for them, neither for the collective nor in MPI's end. Run by mpirun, which then ends
// the others.
#include <chrono>
#include <iostream>
#include <thread>
#include <vector>

#include "distributed/mpi_runtime.h"
#include "kernels/error.h"

int main() {
  try {
    swinfleet::MpiRuntime runtime;
    const auto world = runtime.World();
    std::vector<float> values(1 << 20, 1.0f);
    if (world->rank() != 1) std::this_thread::sleep_for(std::chrono::minutes(10));
    const auto handle = world->AllReduce(values, "gradients");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    throw swinfleet::Error("the disk is full");
  } catch (const swinfleet::Error& error) {
    std::cout << "rank 1 left: " << error.what() << std::endl;
    return 1;
  }
}
