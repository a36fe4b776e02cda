// Learning rates and parameter groups, and how goldens write them down.
#include "core/optim/schedule.h"

#include <cmath>

#include "core/optim/optimizer.h"
#include "core/optim/parameter_groups.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

constexpr int64_t kMaxUpdates = 10'000'000;

void CompareRates(const Golden& golden, const std::string& what, const std::vector<double>& rates,
                  Comparison& comparison) {
  comparison.Compare("output/" + what, std::span<const double>(rates), "", kStoredRate);
  const Json exact = golden.Parsed(what + "_exact");
  if (exact.is_null()) return;
  std::vector<double> reference;
  for (const Json& group : exact) {
    for (const Json& rate : group) reference.push_back(rate.get<double>());
  }
  comparison.CompareNumbers(what + "_exact", rates, reference, kExactRate);
}

// The goldens of MAE's schedule name no scheduler, and hold the rates that updates used alone.
void CheckMaeSchedule(const Golden& golden, Comparison& comparison) {
  Json config = golden.config();
  config["scheduler"] = "mae_cosine";
  const ScheduleConfig schedule = ParseSchedule(config);
  const auto epochs = config.at("epochs").get<int64_t>();
  const auto steps = config.at("steps_per_epoch").get<int64_t>();
  if (epochs > kMaxUpdates / steps) {
    throw Error(golden.path() + ": has " + std::to_string(epochs) + " epochs of " +
                std::to_string(steps) + " updates");
  }
  std::vector<double> used;
  for (int64_t i = 0; i < epochs * steps; ++i) {
    used.push_back(RateOfUpdate(schedule, config.at("lr").get<double>(), epochs, steps, i));
  }
  CompareRates(golden, "lr_used", used, comparison);
}

// The golden's own parameters, in one unit: groups follow from names and shapes alone.
ParameterTable ListedParameters(const Json& names, const Json& described) {
  ParameterTable table;
  table.BeginUnit("all");
  for (const Json& entry : names) {
    const auto name = entry.get<std::string>();
    if (table.Find(name) >= 0) throw Error("the golden names " + name + " twice");
    Shape shape;
    for (const Json& dim : described.at(name).at("shape")) shape.Append(dim.get<int64_t>());
    table.Add(name, shape, Initializer{});
  }
  return table;
}

std::vector<ParameterHyper> GroupsOfMode(const Json& config, const OptimizerConfig& optimizer,
                                         const ParameterTable& table) {
  const auto mode = config.at("mode").get<std::string>();
  if (mode == "classification") return ClassificationGroups(table, optimizer.weight_decay);
  if (mode == "simmim_pretrain") return SimMimGroups(table, optimizer.weight_decay);
  if (mode != "finetune") {
    throw Unsupported("parameter groups of mode \"" + mode + "\" are not supported");
  }
  const Json& described = config.at("model");
  ModelConfig model;
  model.arch = described.at("arch") == "swin_v1" ? Architecture::kSwinV1 : Architecture::kSwinV2;
  model.depths = described.at("depths").get<std::vector<int64_t>>();
  return FinetuneGroups(table, model, optimizer.weight_decay,
                        config.at("train").at("layer_decay").get<double>());
}

}  // namespace

ScheduleConfig ParseSchedule(const Json& config) {
  ScheduleConfig schedule;
  const auto name = config.at("scheduler").get<std::string>();
  if (name == "cosine") {
    schedule.kind = ScheduleConfig::Kind::kCosine;
  } else if (name == "linear") {
    schedule.kind = ScheduleConfig::Kind::kLinear;
  } else if (name == "step") {
    schedule.kind = ScheduleConfig::Kind::kStep;
  } else if (name == "multistep") {
    schedule.kind = ScheduleConfig::Kind::kMultistep;
  } else if (name == "mae_cosine") {
    schedule.kind = ScheduleConfig::Kind::kMaeCosine;
  } else {
    throw Unsupported("schedule \"" + name + "\" is not supported yet");
  }
  schedule.warmup_epochs = config.value("warmup_epochs", 0.0);
  schedule.warmup_learning_rate = config.value("warmup_lr", schedule.warmup_learning_rate);
  schedule.min_learning_rate = config.value("min_lr", schedule.min_learning_rate);
  schedule.warmup_prefix = config.value("warmup_prefix", true);
  schedule.decay_epochs = config.value("decay_epochs", schedule.decay_epochs);
  schedule.multisteps = config.value("multisteps", std::vector<double>());
  // One field of ours for the official code's DECAY_RATE (step) and GAMMA (multistep).
  const char* rate = schedule.kind == ScheduleConfig::Kind::kMultistep ? "gamma" : "decay_rate";
  schedule.decay_rate = config.value(rate, schedule.decay_rate);
  const auto epochs = config.at("epochs").get<int64_t>();
  const auto steps = config.at("steps_per_epoch").get<int64_t>();
  if (epochs < 1 || steps < 1 || !(schedule.warmup_epochs >= 0) ||
      schedule.warmup_epochs >= static_cast<double>(epochs)) {
    throw Unsupported("a schedule of " + std::to_string(epochs) + " epochs of " +
                      std::to_string(steps) + " steps with a warm-up of " +
                      std::to_string(schedule.warmup_epochs) + " epochs can't be run");
  }
  return schedule;
}

OptimizerConfig ParseOptimizer(const Json& config) {
  OptimizerConfig optimizer;
  const auto name = config.at("optimizer").get<std::string>();
  if (name == "adamw") {
    optimizer.kind = OptimizerConfig::Kind::kAdamW;
    const auto betas = config.at("betas").get<std::vector<double>>();
    optimizer.beta1 = betas.at(0);
    optimizer.beta2 = betas.at(1);
    optimizer.eps = config.at("eps").get<double>();
  } else if (name == "sgd") {
    optimizer.kind = OptimizerConfig::Kind::kSgd;
    optimizer.momentum = config.at("momentum").get<double>();
    if (!config.value("nesterov", true)) {
      throw Unsupported("SGD without Nesterov momentum is not supported");
    }
  } else {
    throw Unsupported("optimizer \"" + name + "\" is not supported yet");
  }
  // Schedules' goldens call it base_lr, single operations lr.
  optimizer.learning_rate = config.at(config.contains("base_lr") ? "base_lr" : "lr").get<double>();
  optimizer.weight_decay = config.value("weight_decay", 0.0);
  return optimizer;
}

void CheckSchedule(const Golden& golden, const Machine& machine, Comparison& comparison) {
  if (!golden.config().contains("schedule")) return CheckMaeSchedule(golden, comparison);
  const Json& config = golden.config().at("schedule");
  const ScheduleConfig schedule = ParseSchedule(config);
  const auto base = config.at("base_lr").get<double>();
  const auto epochs = config.at("epochs").get<int64_t>();
  const auto steps = config.at("steps_per_epoch").get<int64_t>();
  const auto updates = golden.config().at("num_updates").get<int64_t>();
  const auto scales = golden.config().value("group_lr_scales", std::vector<double>{1.0});
  if (updates < 1 || updates > kMaxUpdates) {
    throw Error(golden.path() + ": num_updates is " + std::to_string(updates));
  }
  std::vector<double> rates, used;
  for (const double scale : scales) {
    for (int64_t t = 0; t < updates; ++t) {
      rates.push_back(ScheduledRate(schedule, base * scale, epochs, steps, t));
      used.push_back(RateOfUpdate(schedule, base * scale, epochs, steps, t));
    }
  }
  CompareRates(golden, "lr", rates, comparison);
  CompareRates(golden, "lr_used", used, comparison);
}

void CheckParameterGroups(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const Json described = golden.Parsed("parameters");
  const Json names = golden.Parsed("names");
  comparison.Expect(names.size() == described.size(), "number of parameters",
                    std::to_string(names.size()) + " names, " + std::to_string(described.size()) +
                        " descriptions");
  const ParameterTable table = ListedParameters(names, described);
  const OptimizerConfig optimizer = ParseOptimizer(golden.config().at("train"));
  const std::vector<ParameterHyper> groups = GroupsOfMode(golden.config(), optimizer, table);
  std::vector<double> scales, decays;
  for (size_t p = 0; p < groups.size(); ++p) {
    const std::string& name = table.parameters()[p].name;
    const Json& wanted = described.at(name);
    const ParameterHyper& hyper = groups[p];
    scales.push_back(hyper.lr_scale);
    decays.push_back(hyper.weight_decay);
    const bool same = wanted.at("weight_decay").get<double>() == hyper.weight_decay &&
                      wanted.value("lr_scale", 1.0) == hyper.lr_scale &&
                      wanted.at("lr").get<double>() == BaseRate(optimizer, hyper);
    comparison.Expect(same, name, "must have " + wanted.dump());
  }
  comparison.Compare("output/lr_scale", std::span<const double>(scales));
  comparison.Compare("output/weight_decay", std::span<const double>(decays));
}

}  // namespace swinfleet::golden
