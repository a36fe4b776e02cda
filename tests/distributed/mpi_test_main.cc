#include "tests/distributed/mpi_test_main.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <vector>

namespace swinfleet {
namespace {

MpiRuntime* runtime = nullptr;
Communicator* world = nullptr;

// Of the ranks other than 0 only failures are shown.
class FailurePrinter : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::cerr << "rank " << world->rank() << " of " << world->size() << ": "
              << (result.file_name() ? result.file_name() : "") << ":" << result.line_number()
              << ": " << result.message() << std::endl;
  }
};

int Main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  MpiRuntime the_runtime;
  runtime = &the_runtime;
  const std::unique_ptr<Communicator> the_world = the_runtime.World();
  world = the_world.get();
  if (world->rank() != 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  const double failed = RUN_ALL_TESTS();
  std::vector<double> results(world->size());
  world->AllGather(std::span(&failed, 1), results, "results of the tests");
  return *std::ranges::max_element(results) == 0 ? 0 : 1;
}

}  // namespace

MpiRuntime& TestRuntime() { return *runtime; }

Communicator& TestWorld() { return *world; }

}  // namespace swinfleet

int main(int argc, char** argv) { return swinfleet::Main(argc, argv); }
