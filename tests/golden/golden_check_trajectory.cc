#include <algorithm>
#include <cmath>

#include "core/optim/optimizer.h"
#include "core/optim/parameter_groups.h"
#include "core/optim/schedule.h"
#include "tests/golden/golden_check.h"

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

// What the optimizer keeps of each parameter.
struct States {
  std::vector<std::vector<float>> first, second;

  States(const ParameterTable& table, OptimizerConfig::Kind kind) {
    for (const ParameterInfo& info : table.parameters()) {
      first.emplace_back(info.size());
      second.emplace_back(OptimizerStateTensors(kind) > 1 ? info.size() : 0);
    }
  }
  OptimizerState Of(int parameter) {
    OptimizerState state;
    const auto view = [](std::vector<float>& values) {
      return values.empty() ? TensorView{}
                            : ViewOf(values.data(), Shape{static_cast<int64_t>(values.size())});
    };
    state.first = view(first[parameter]);
    state.second = view(second[parameter]);
    return state;
  }
};

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

void Update(const Recipe& recipe, const std::vector<ParameterHyper>& groups, int64_t step,
            float grad_scale, ModelRunner& runner, States& states) {
  const std::vector<ParameterInfo>& infos = runner.table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    const Shape shape{infos[i].size()};
    const TensorView value = ViewOf(runner.parameters().Value(i).data(), shape);
    const TensorView gradient = ViewOf(runner.parameters().GradientOf(i).data(), shape);
    const double rate = RateOfUpdate(recipe.schedule, BaseRate(recipe.optimizer, groups[i]),
                                     recipe.epochs, recipe.steps_per_epoch, step);
    OpRunner(runner.threads()).WithContext([&](Context& context) {
      UpdateSegment(recipe.optimizer, groups[i], rate, step, grad_scale, value, gradient,
                    states.Of(i), context);
    });
  }
}

void CompareAfterSteps(const std::vector<std::vector<float>>& before, ModelRunner& runner,
                       const Golden& golden, Comparison& comparison) {
  std::vector<Comparison::Moved> moved;
  const std::vector<ParameterInfo>& infos = runner.table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    const std::span<float> value = runner.parameters().Value(i);
    comparison.Compare("after_steps/" + infos[i].name, value);
    if (!golden.Has("after_steps/" + infos[i].name)) continue;
    moved.push_back({infos[i].name, before[i], std::vector<float>(value.begin(), value.end())});
  }
  comparison.CompareMovement(moved);
}

// Forward and backward of one step; returns the loss.
double RunStep(const ModelRunner::Pass& batch, int64_t micro_batches, ModelRunner& runner) {
  runner.parameters().ZeroGradients();
  const int64_t size = batch.pictures / micro_batches;
  double loss = 0;
  for (int64_t i = 0; i < micro_batches; ++i) {
    const ModelRunner::Result result =
        runner.Run(micro_batches == 1 ? batch : Slice(batch, i * size, size));
    loss += result.MeanLoss() / static_cast<double>(micro_batches);
  }
  return loss;
}

// The norm of the step's gradients. The reference took one of the two signs of SimMIM's pixels at
// the kink; where its norm says that it was the other one, the step is run again with that.
double StepNorm(const SimMimCase& simmim, double reference, ModelRunner& runner,
                const Comparison& comparison) {
  const double norm = runner.GradientNorm();
  const auto fits = [&](double x) {
    return std::abs(x - reference) <= comparison.tolerances().outputs * reference;
  };
  if (simmim.kink == nullptr || simmim.kink->count == 0 || fits(norm)) return norm;
  simmim.kink->flip = true;
  RunStep(simmim.pass, 1, runner);
  simmim.kink->flip = false;
  return runner.GradientNorm();
}

}  // namespace

void CheckTrajectory(const Golden& golden, int threads, Comparison& comparison) {
  const auto task = golden.config().value("task", std::string("classification"));
  const bool simmim = task == "simmim";
  if (!simmim && task != "classification") {
    throw Unsupported("task \"" + task + "\" is not supported yet");
  }
  const SimMimCase masked = simmim ? LoadSimMim(golden) : SimMimCase();
  const ModelConfig config = simmim ? masked.model : ParseModel(golden.config().at("model"));
  const MakeGroups make_groups = simmim ? SimMimGroups : ClassificationGroups;
  const Recipe recipe = ParseRecipe(golden.config().at("train"));
  ModelRunner runner(golden, MakeModel(config, masked.pretrain, MemoryConfig()), threads);
  const ModelRunner::Pass batch = simmim ? masked.pass : LoadBatch(golden, config);
  const std::vector<ParameterHyper> groups =
      make_groups(runner.table(), recipe.optimizer.weight_decay);
  CompareNoWeightDecay(golden, runner.table(), make_groups, comparison);
  std::vector<std::vector<float>> before;
  for (int i = 0; i < static_cast<int>(groups.size()); ++i) {
    const std::span<float> value = runner.parameters().Value(i);
    before.emplace_back(value.begin(), value.end());
  }

  States states(runner.table(), recipe.optimizer.kind);
  std::vector<double> losses, norms, rates;
  const std::vector<float> reference_norms = golden.Load("output/grad_norm").values;
  const auto steps = static_cast<int64_t>(reference_norms.size());
  const int64_t micro_batches = golden.config().value("accumulation_steps", int64_t{1});
  if (micro_batches < 1 || batch.pictures % micro_batches != 0 || (simmim && micro_batches > 1)) {
    throw Error(golden.path() + ": accumulation_steps " + std::to_string(micro_batches));
  }
  for (int64_t step = 0; step < steps; ++step) {
    losses.push_back(RunStep(batch, micro_batches, runner));
    norms.push_back(StepNorm(masked, reference_norms[step], runner, comparison));
    rates.push_back(RateOfUpdate(recipe.schedule, recipe.optimizer.learning_rate, recipe.epochs,
                                 recipe.steps_per_epoch, step));
    if (!std::isfinite(norms.back())) {
      throw Error("the gradient of step " + std::to_string(step) + " is not finite");
    }
    for (size_t i = 0; step == 0 && i < groups.size(); ++i) {
      comparison.Compare("grad/" + runner.table().parameters()[i].name,
                         runner.parameters().GradientOf(static_cast<int>(i)));
    }
    Update(recipe, groups, step, ClipFactor(norms.back(), recipe.clip), runner, states);
  }
  comparison.Compare("output/loss", std::span<const double>(losses));
  comparison.Compare("output/grad_norm", std::span<const double>(norms));
  comparison.Compare("output/lr", std::span<const double>(rates), "", kStoredRate);
  CompareExactLoss(golden, losses, comparison);
  const Json exact = golden.Parsed("lr_exact");
  if (!exact.is_null()) {
    comparison.CompareNumbers("lr_exact", rates, exact.get<std::vector<double>>(), kExactRate);
  }
  CompareAfterSteps(before, runner, golden, comparison);
}

}  // namespace swinfleet::golden
