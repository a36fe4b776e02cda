#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// The widest tolerances of each kind's cases, as the goldens' README tabulates them.
struct KindTolerances {
  const char* kind;
  double outputs;
  double gradients;
  double after_steps;
};
constexpr KindTolerances kByKind[] = {
    {"classification", 5e-5, 2e-4, 0},
    {"grad_accumulation", 5e-6, 5e-5, 0},
    {"ops", 2e-5, 2e-5, 1e-6},
    {"param_groups", 1e-6, 0, 0},
    {"schedule", 1e-6, 0, 0},
    {"trajectory", 1e-4, 1e-4, 4e-4},
    {"video", 6e-6, 2e-5, 0},
    {"simmim", 3e-5, 2e-4, 0},
    {"mae", 2e-6, 5e-6, 0},
    {"greenmim", 3e-6, 2e-5, 0},
};

Tolerances ByKind(const std::string& kind) {
  for (const KindTolerances& row : kByKind) {
    if (kind != row.kind) continue;
    Tolerances tolerances;
    tolerances.outputs = row.outputs;
    tolerances.gradients = row.gradients;
    tolerances.after_steps = row.after_steps;
    tolerances.source = "table by kind";
    return tolerances;
  }
  throw Unsupported("kind \"" + kind + "\" is not supported yet");
}

// The manifest's entry for the golden, or null.
Json FindEntry(const Json& manifest, const Golden& golden) {
  const std::string file = std::filesystem::path(golden.path()).filename().string();
  for (const Json& entry : manifest.at("cases")) {
    if (entry.value("file", "") == file) return entry;
  }
  for (const Json& entry : manifest.at("cases")) {
    if (entry.value("case", "") == golden.name()) return entry;
  }
  return Json();
}

void Override(const Json& tolerances, const char* key, double* value) {
  if (!tolerances.contains(key)) return;
  *value = tolerances.at(key).get<double>();
  if (!(*value >= 0) || !std::isfinite(*value)) {
    throw Error("the manifest's tolerance \"" + std::string(key) + "\" is " +
                std::to_string(*value));
  }
}

}  // namespace

Tolerances FindTolerances(const Golden& golden) {
  Tolerances result = ByKind(golden.kind());
  const std::filesystem::path path =
      std::filesystem::path(golden.path()).parent_path() / "MANIFEST.json";
  if (!std::filesystem::exists(path)) return result;
  std::ifstream file(path);
  const Json manifest = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) throw Error(path.string() + ": is not a JSON object");
  try {
    const Json entry = FindEntry(manifest, golden);
    if (entry.is_null()) {
      result.source = "table by kind (not in MANIFEST.json)";
      return result;
    }
    const Json& tolerances = entry.at("tolerance");
    Override(tolerances, "outputs", &result.outputs);
    Override(tolerances, "gradients", &result.gradients);
    Override(tolerances, "after_steps", &result.after_steps);
    Override(tolerances, "update_l2", &result.movement);
    Override(tolerances, "update_l2_tensor", &result.movement_worst);
  } catch (const Json::exception& e) {
    throw Error(path.string() + ": is not a manifest of goldens: " + e.what());
  }
  result.source = "MANIFEST.json";
  return result;
}

}  // namespace swinfleet::golden
