#include <algorithm>
#include <cmath>
#include <functional>

#include "core/optim/optimizer.h"
#include "core/optim/parameter_groups.h"
#include "core/optim/schedule.h"
#include "tests/golden/golden_check.h"
#include "tests/golden/golden_check_trainer.h"

namespace swinfleet::golden {
namespace {

// What a training run of a golden is made of.
struct Recipe {
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  double clip = 0;
  int64_t epochs = 0;
  int64_t steps_per_epoch = 0;
};

Recipe ParseRecipe(const Json& train) {
  Recipe recipe;
  recipe.optimizer = ParseOptimizer(train);
  recipe.schedule = ParseSchedule(train);
  if (train.contains("clip_grad") && !train.at("clip_grad").is_null()) {
    recipe.clip = train.at("clip_grad").get<double>();
  }
  if (train.value("layer_decay", 1.0) != 1) {
    throw Unsupported("layer_decay is not supported yet");
  }
  recipe.epochs = train.at("epochs").get<int64_t>();
  recipe.steps_per_epoch = train.at("steps_per_epoch").get<int64_t>();
  return recipe;
}

// Groups of parameters of the golden's task.
using MakeGroups = std::vector<ParameterHyper> (*)(const ParameterTable&, double weight_decay);

void CompareNoWeightDecay(const Golden& golden, const ParameterTable& table,
                          const MakeGroups make_groups, Comparison& comparison) {
  const Json listed = golden.Parsed("no_weight_decay");
  if (listed.is_null()) return;
  const std::set<std::string> expected = listed.get<std::set<std::string>>();
  // Any decay but 0 tells the groups apart, also where the recipe itself has none.
  const std::vector<ParameterHyper> groups = make_groups(table, 1);
  for (size_t i = 0; i < groups.size(); ++i) {
    const std::string& name = table.parameters()[i].name;
    const bool decays = groups[i].weight_decay != 0;
    if (decays != expected.contains(name)) continue;
    comparison.Expect(false, "no_weight_decay",
                      name + (decays ? " decays, and must not" : " does not decay, and must"));
  }
  for (const std::string& name : expected) {
    comparison.Expect(table.Find(name) >= 0, "no_weight_decay: " + name,
                      "the model has no such parameter");
  }
}

void CompareAfterSteps(const ParameterTable& table, const std::vector<std::vector<float>>& before,
                       Trainer& trainer, const Golden& golden, Comparison& comparison) {
  std::vector<Comparison::Moved> moved;
  const std::vector<ParameterInfo>& infos = table.parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    const std::vector<float> value = trainer.Value(i);
    comparison.Compare("after_steps/" + infos[i].name, std::span<const float>(value));
    if (!golden.Has("after_steps/" + infos[i].name)) continue;
    moved.push_back({infos[i].name, before[i], value});
  }
  comparison.CompareMovement(moved);
}

// The norm of the step's gradients. The reference took one of the two signs of SimMIM's pixels at
// the kink; where its norm says that it was the other one, the step is run again with that.
double StepNorm(const SimMimCase& simmim, double reference, Trainer& trainer,
                const Comparison& comparison) {
  const double norm = trainer.GradientNorm();
  const auto fits = [&](double x) {
    return std::abs(x - reference) <= comparison.tolerances().outputs * reference;
  };
  if (simmim.kink == nullptr || simmim.kink->count == 0 || fits(norm)) return norm;
  simmim.kink->flip = true;
  trainer.RunStep();
  simmim.kink->flip = false;
  return trainer.GradientNorm();
}

using MakeTrainer = std::function<std::unique_ptr<Trainer>(const Training&)>;

// What a golden trains, and by which groups it expects no decay.
struct Case {
  Training training;
  SimMimCase masked;
  MakeGroups make_groups = nullptr;
};

Case LoadCase(const Golden& golden, const Recipe& recipe) {
  const auto task = golden.config().value("task", std::string("classification"));
  const bool simmim = task == "simmim";
  if (!simmim && task != "classification") {
    throw Unsupported("task \"" + task + "\" is not supported yet");
  }
  Case found;
  Training& training = found.training;
  if (simmim) found.masked = LoadSimMim(golden);
  training.model = simmim ? found.masked.model : ParseModel(golden.config().at("model"));
  training.pretrain = found.masked.pretrain;
  training.batch = simmim ? found.masked.pass : LoadBatch(golden, training.model);
  training.micro_batches = golden.config().value("accumulation_steps", int64_t{1});
  training.optimizer = recipe.optimizer;
  found.make_groups = simmim ? SimMimGroups : ClassificationGroups;
  const int64_t micro_batches = training.micro_batches;
  if (micro_batches < 1 || training.batch.pictures % micro_batches != 0 ||
      (simmim && micro_batches > 1)) {
    throw Error(golden.path() + ": accumulation_steps " + std::to_string(micro_batches));
  }
  return found;
}

void Check(const Golden& golden, const MakeTrainer& make_trainer, Comparison& comparison) {
  const Recipe recipe = ParseRecipe(golden.config().at("train"));
  Case trained = LoadCase(golden, recipe);
  Training& training = trained.training;
  const std::unique_ptr<Model> model = MakeModel(training.model, training.pretrain, MemoryConfig());
  const ParameterTable& table = model->parameters();
  training.groups = trained.make_groups(table, recipe.optimizer.weight_decay);
  CompareNoWeightDecay(golden, table, trained.make_groups, comparison);
  const std::unique_ptr<Trainer> trainer = make_trainer(training);
  const auto count = static_cast<int>(training.groups.size());
  std::vector<std::vector<float>> before;
  for (int i = 0; i < count; ++i) before.push_back(trainer->Value(i));

  std::vector<double> losses, norms, rates, all_rates(count);
  const std::vector<float> reference_norms = golden.Load("output/grad_norm").values;
  for (size_t step = 0; step < reference_norms.size(); ++step) {
    losses.push_back(trainer->RunStep());
    norms.push_back(StepNorm(trained.masked, reference_norms[step], *trainer, comparison));
    const auto rate_from = [&](double base) {
      return RateOfUpdate(recipe.schedule, base, recipe.epochs, recipe.steps_per_epoch,
                          static_cast<int64_t>(step));
    };
    rates.push_back(rate_from(recipe.optimizer.learning_rate));
    if (!std::isfinite(norms.back())) {
      throw Error("the gradient of step " + std::to_string(step) + " is not finite");
    }
    for (int i = 0; i < count; ++i) {
      all_rates[i] = rate_from(BaseRate(recipe.optimizer, training.groups[i]));
      if (step > 0) continue;
      const std::vector<float> gradient = trainer->Gradient(i);
      comparison.Compare("grad/" + table.parameters()[i].name, std::span<const float>(gradient));
    }
    trainer->Update(static_cast<int64_t>(step), all_rates, ClipFactor(norms.back(), recipe.clip));
  }
  comparison.Compare("output/loss", std::span<const double>(losses));
  comparison.Compare("output/grad_norm", std::span<const double>(norms));
  comparison.Compare("output/lr", std::span<const double>(rates), "", kStoredRate);
  CompareExactLoss(golden, losses, comparison);
  const Json exact = golden.Parsed("lr_exact");
  if (!exact.is_null()) {
    comparison.CompareNumbers("lr_exact", rates, exact.get<std::vector<double>>(), kExactRate);
  }
  CompareAfterSteps(table, before, *trainer, golden, comparison);
}

}  // namespace

void CheckTrajectory(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const auto make = [&](const Training& training) {
    return MakeLocalTrainer(golden, training, machine);
  };
  Check(golden, make, comparison);
}

void CheckTrajectoryOverRanks(const Golden& golden, const Machine& machine,
                              const EngineRanks& ranks, Comparison& comparison) {
  const auto make = [&](const Training& training) {
    return MakeEngineTrainer(golden, training, machine, ranks);
  };
  Check(golden, make, comparison);
}

}  // namespace swinfleet::golden
