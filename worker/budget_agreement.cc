#include "worker/budget_agreement.h"

#include <glog/logging.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "kernels/error.h"

namespace swinfleet {
namespace {

// A choice in numbers, which all are exact in float64, such that the cheaper of two is the lesser:
// FLOPs, bytes touched, and for each stage its checkpointing and its windows in a group.
std::vector<double> NumbersOf(const MemoryChoice& choice) {
  std::vector<double> numbers = {choice.step.matrix_flops, choice.step.bytes};
  for (size_t stage = 0; stage < choice.memory.checkpointing.size(); ++stage) {
    numbers.push_back(static_cast<double>(choice.memory.checkpointing[stage]));
    numbers.push_back(static_cast<double>(choice.memory.sequential_windows[stage]));
  }
  return numbers;
}

MemoryConfig MemoryOf(std::span<const double> numbers, int64_t budget) {
  MemoryConfig memory;
  memory.budget = budget;
  for (size_t i = 2; i < numbers.size(); i += 2) {
    memory.checkpointing.push_back(
        static_cast<MemoryConfig::Checkpointing>(static_cast<int>(numbers[i])));
    memory.sequential_windows.push_back(static_cast<int64_t>(numbers[i + 1]));
  }
  return memory;
}

// What the ranks chose, and the most frugal way that each of them has, in case that no choice fits
// elsewhere; each once, the cheapest first.
std::vector<MemoryConfig> Proposals(const ChoiceSearch& own, int64_t budget,
                                    Communicator* communicator) {
  std::vector<double> numbers = NumbersOf(*own.cheapest);
  const auto one = static_cast<std::ptrdiff_t>(numbers.size());
  std::ranges::copy(NumbersOf(own.least), std::back_inserter(numbers));
  CHECK_EQ(std::ssize(numbers), 2 * one);
  std::vector<double> gathered(numbers.size() * communicator->size());
  communicator->AllGather(std::span<const double>(numbers), gathered, "memory choices");
  std::vector<std::vector<double>> all;
  for (auto it = gathered.begin(); it != gathered.end(); it += one) all.emplace_back(it, it + one);
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  std::vector<MemoryConfig> proposals;
  for (const std::vector<double>& choice : all) proposals.push_back(MemoryOf(choice, budget));
  return proposals;
}

}  // namespace

std::string AgreeOnChoice(const ChoiceSearch& own, const PlanOptions& options,
                          Communicator* communicator, JobConfig* config) {
  CHECK(own.cheapest.has_value());
  const auto budget = static_cast<size_t>(config->memory.budget);
  std::vector<MemoryChoice> choices;
  // Ranks on which each of them fits.
  std::vector<double> fits;
  for (const MemoryConfig& memory : Proposals(own, config->memory.budget, communicator)) {
    choices.push_back(RunChoiceDry(*config, memory, communicator->size(), options));
    fits.push_back(choices.back().process_bytes <= budget ? 1 : 0);
  }
  communicator->AllReduceSum(fits, "memory choices that fit");
  for (size_t i = 0; i < choices.size(); ++i) {
    if (fits[i] == communicator->size()) return TakeChoice(choices[i], own.plain, config);
  }
  throw Error("nothing that keeps memory.budget " + BytesText(budget) +
              " on one of the ranks does so on all of them: they are on processors of different "
              "kinds, which need different amounts of memory. Raise memory.budget, or set "
              "memory.checkpointing and memory.sequential_windows instead");
}

}  // namespace swinfleet
