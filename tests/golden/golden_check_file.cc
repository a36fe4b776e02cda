#include <exception>

#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

using KindCheck = void (*)(const Golden&, const Machine&, Comparison&);

KindCheck FindKind(const std::string& kind) {
  static const std::map<std::string, KindCheck> kinds = {
      {"classification", CheckClassification},
      {"grad_accumulation", CheckAccumulation},
      {"trajectory", CheckTrajectory},
      {"schedule", CheckSchedule},
      {"param_groups", CheckParameterGroups},
      {"ops", CheckOp},
      {"video", CheckVideo},
      {"simmim", CheckSimMim},
      {"mae", CheckMae},
      {"greenmim", CheckGreenMim},
  };
  const auto found = kinds.find(kind);
  if (found == kinds.end()) throw Unsupported("kind \"" + kind + "\" is not supported yet");
  return found->second;
}

Outcome RunKind(const Golden& golden, const Machine& machine, bool verbose, std::ostream& out,
                const EngineRanks* ranks) {
  const KindCheck check = FindKind(golden.kind());
  Comparison comparison(golden, FindTolerances(golden), verbose, out);
  if (ranks != nullptr && check == CheckTrajectory) {
    CheckTrajectoryOverRanks(golden, machine, *ranks, comparison);
  } else if (ranks == nullptr || machine.gpu != nullptr) {
    check(golden, machine, comparison);
  } else {
    throw Unsupported("kind \"" + golden.kind() + "\" trains nothing");
  }
  return comparison.Finish() ? Outcome::kPassed : Outcome::kFailed;
}

}  // namespace

Outcome CheckFile(const std::string& path, const Machine& machine, bool verbose, std::ostream& out,
                  const EngineRanks* ranks) {
  std::unique_ptr<Golden> golden;
  try {
    golden = std::make_unique<Golden>(path);
  } catch (const Error& e) {
    out << "UNREADABLE " << path << ": " << e.what() << "\n";
    return Outcome::kUnreadable;
  }
  if (verbose) out << golden->name() << " (" << golden->kind() << ")\n";
  try {
    return RunKind(*golden, machine, verbose, out, ranks);
  } catch (const Unsupported& e) {
    out << "UNSUPPORTED " << golden->name() << " (" << golden->kind() << "): " << e.what() << "\n";
    return Outcome::kUnsupported;
  } catch (const Error& e) {
    out << "FAIL " << golden->name() << " (" << golden->kind() << "): " << e.what() << "\n";
    return Outcome::kFailed;
  } catch (const std::exception& e) {
    // Metadata of the wrong type, a number that isn't one.
    out << "UNREADABLE " << path << ": its metadata doesn't describe a golden: " << e.what()
        << "\n";
    return Outcome::kUnreadable;
  }
}

}  // namespace swinfleet::golden
