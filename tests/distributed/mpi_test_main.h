// What the tests that run under mpirun share: MPI is started once for the whole program.
#ifndef SWINFLEET_TESTS_DISTRIBUTED_MPI_TEST_MAIN_H_
#define SWINFLEET_TESTS_DISTRIBUTED_MPI_TEST_MAIN_H_

#include "distributed/mpi_runtime.h"

namespace swinfleet {

MpiRuntime& TestRuntime();
// All ranks.
Communicator& TestWorld();

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_DISTRIBUTED_MPI_TEST_MAIN_H_
