#include "worker/reporter.h"

#include <glog/logging.h>

namespace swinfleet {

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
      return "idle";
    case Phase::kLoad:
      return "load";
    case Phase::kTrain:
      return "train";
    case Phase::kEvaluate:
      return "evaluate";
    case Phase::kSave:
      return "save";
  }
  LOG(FATAL) << "phase " << static_cast<int>(phase);
  return "";
}

}  // namespace swinfleet
