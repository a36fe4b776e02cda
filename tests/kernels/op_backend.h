// What the harness (op_check.h) needs of the backend whose operations it checks. A program links
// one: op_backend_cpu.cc, or the one of tests/cuda/.
#ifndef SWINFLEET_TESTS_KERNELS_OP_BACKEND_H_
#define SWINFLEET_TESTS_KERNELS_OP_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet::testing {

Device BackendDevice();
const OpTable& BackendOps();
const OpTable& BackendDryRunOps();

// One way of running an operation that must come out the same.
struct Variant {
  int64_t target = 0;  // for UseInstructionSet
  int threads = 1;
  size_t offset = 0;  // of tensors, in bytes past a multiple of 64
  std::string name;
  // Once more, for the same bits.
  bool repeat = true;
};
std::vector<Variant> Variants();

// A quiet NaN that no kernel makes: reading it spoils a result, writing over it shows. Its upper
// half is one in bfloat16 and in float16.
inline constexpr uint32_t kGuardWord = 0xFFE5A5A5;
inline constexpr uint16_t kGuardHalf = 0xFFE5;

// Memory of one tensor between guards.
class TensorMemory {
 public:
  virtual ~TensorMemory() = default;
  virtual void* data() const = 0;
  // All of it; the backend has nothing under way.
  virtual void Store(const std::string& bytes) = 0;
  virtual std::string Bytes() const = 0;
  virtual bool GuardsIntact() const = 0;
};
// `offset` bytes past a multiple of 64, in memory of the backend's device or of the host.
std::unique_ptr<TensorMemory> MakeTensorMemory(size_t bytes, size_t offset, Device device);

// An operation's workspace.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Context MakeContext(int threads);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Kernels that operations have started on a GPU so far; 0 without one, -1 where nobody counts.
int64_t BackendLaunches();

// Returns when what was called with this context is done.
void WaitForBackend(const Context& context);

}  // namespace swinfleet::testing

#endif  // SWINFLEET_TESTS_KERNELS_OP_BACKEND_H_
