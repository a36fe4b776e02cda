#include "worker/processor.h"

#include "kernels/error.h"
#include "kernels/ops.h"

namespace swinfleet {

void RequireNative(DType dtype, bool allow_emulation, const std::string& remedy) {
  if (CpuHasNative(dtype) || allow_emulation) return;
  throw Error(std::string("this processor has no ") + NameOf(dtype) + " arithmetic (" +
              CpuInstructionSet() + "), so it would be emulated, slower than fp32: " + remedy);
}

}  // namespace swinfleet
