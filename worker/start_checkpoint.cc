#include "worker/start_checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/run_checkpoints.h"
#include "kernels/error.h"
#include "worker/model_json.h"
#include "worker/reproducibility.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

// Before the first attempt.
constexpr int kStartAttempt = 0;

std::vector<std::string> StateNames(OptimizerConfig::Kind kind) {
  if (kind == OptimizerConfig::Kind::kAdamW) return {"adamw_m/", "adamw_v/"};
  return {"sgd_momentum/"};
}

// Makes room for the checkpoint, or throws.
void ClearPlace(const std::string& run_dir, const std::string& dir, bool force) {
  if (NextAttempt(run_dir) > 1) {
    throw Error("the run in " + run_dir + " has begun already; choose another run_dir");
  }
  std::error_code code;
  const std::string manifest = dir + "/manifest.json";
  if (fs::exists(manifest, code)) {
    if (!force) {
      throw Error(dir +
                  " holds a checkpoint already; choose another run_dir, or overwrite it "
                  "with --force");
    }
    // The manifest first: half a checkpoint must never look whole.
    if (!fs::remove(manifest, code) || code) {
      throw FileError(code.value(), "delete", manifest);
    }
    SyncFolder(dir);
  }
  fs::remove_all(dir, code);
  if (code) throw FileError(code.value(), "delete", dir);
}

// Without the data set's identity: the weights have seen no data of this run.
CheckpointMeta MakeMeta(const JobConfig& config, const std::string& spec_text) {
  CheckpointMeta meta;
  meta.job_spec = spec_text;
  meta.attempt = kStartAttempt;
  meta.seed = config.train.seed;
  meta.normalisation = Normalisation{config.data.mean, config.data.std};
  meta.reproducibility = MakeReproducibilityKey(config);
  meta.model = ModelConfigToJson(config.model, config.pretrain);
  meta.zero_stage = config.parallel.zero_stage;
  return meta;
}

// The weights; of skipped parameters what the job's seed gives.
std::vector<std::vector<float>> InitialValues(const JobConfig& config, const ParameterTable& table,
                                              const WeightsFile& weights) {
  std::vector<std::vector<float>> values(table.parameters().size());
  for (int unit = 0; unit < static_cast<int>(table.units().size()); ++unit) {
    std::vector<float> initial(table.units()[unit].padded_size);
    InitializeUnit(table, unit, config.train.seed, initial);
    for (const int i : table.units()[unit].parameters) {
      const ParameterInfo& info = table.parameters()[i];
      const std::span<const float> part = std::span(initial).subspan(info.offset, info.size());
      values[i].assign(part.begin(), part.end());
      if (!weights.skipped(i)) weights.Read(i, 0, values[i]);
    }
  }
  return values;
}

}  // namespace

std::string WriteStartCheckpoint(const JobConfig& config, const std::string& spec_text,
                                 const ParameterTable& table, const WeightsFile& weights,
                                 bool force) {
  const CheckpointMeta meta = MakeMeta(config, spec_text);
  const std::string dir = CheckpointDir(config.run_dir, kStartAttempt, 0);
  const std::vector<std::vector<float>> values = InitialValues(config, table, weights);
  size_t largest = 0;
  for (const std::vector<float>& value : values) largest = std::max(largest, value.size());
  // Every optimizer starts from zeros: one piece of them serves all.
  const std::vector<float> zeros(largest, 0.0f);
  std::vector<TensorPiece> pieces;
  for (size_t i = 0; i < values.size(); ++i) {
    const ParameterInfo& info = table.parameters()[i];
    pieces.push_back(PieceInMemory("param/" + info.name, info.shape, 0, values[i]));
    for (const std::string& state : StateNames(config.train.optimizer.kind)) {
      pieces.push_back(
          PieceInMemory(state + info.name, info.shape, 0,
                        std::span<const float>(zeros).first(static_cast<size_t>(info.size()))));
    }
  }
  ClearPlace(config.run_dir, dir, force);
  try {
    CommitManifest(dir, meta, {WriteShard(dir, 0, 1, pieces)});
  } catch (const Error&) {
    std::error_code code;
    fs::remove_all(dir, code);
    throw;
  }
  return dir;
}

}  // namespace swinfleet
