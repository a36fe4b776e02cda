#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// max|x - reference| / max|reference|: infinite when anything is not finite, and when the reference
// is all zero and x is not.
template <typename Value, typename Reference>
double RelativeToMax(std::span<const Value> values, std::span<const Reference> reference) {
  double largest = 0;
  double difference = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto x = static_cast<double>(values[i]);
    const auto r = static_cast<double>(reference[i]);
    if (!std::isfinite(x) || !std::isfinite(r)) return kInfinity;
    largest = std::max(largest, std::abs(r));
    difference = std::max(difference, std::abs(x - r));
  }
  if (difference == 0) return 0;
  return largest == 0 ? kInfinity : difference / largest;
}

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2g", value);
  return text;
}

bool IsResult(const std::string& name) {
  return name.starts_with("output/") || name.starts_with("grad/") ||
         name.starts_with("after_steps/");
}

}  // namespace

Comparison::Comparison(const Golden& golden, const Tolerances& tolerances, bool verbose,
                       std::ostream& out)
    : golden_(golden), tolerances_(tolerances), verbose_(verbose), out_(out) {}

double Comparison::ToleranceOf(const std::string& name) const {
  if (name.starts_with("grad/")) return tolerances_.gradients;
  if (name.starts_with("after_steps/")) return tolerances_.after_steps;
  return tolerances_.outputs;
}

void Comparison::Record(const std::string& name, double error, double tolerance,
                        const std::string& note) {
  ++comparisons_;
  const std::string label = note.empty() ? name : name + " (" + note + ")";
  const bool passed = error <= tolerance;
  if (!passed) ++failures_;
  if (verbose_ || !passed) {
    char text[64];
    std::snprintf(text, sizeof(text), "  %s  error %-8.2g tolerance %-8.2g ",
                  passed ? "ok  " : "FAIL", error, tolerance);
    out_ << text << label << "\n";
  }
  const double part = tolerance > 0 ? error / tolerance : (error > 0 ? kInfinity : 0);
  if (part > worst_.part) worst_ = Worst{part, error, tolerance, label};
}

void Comparison::Fail(const std::string& name, const std::string& why) {
  ++failures_;
  out_ << "  FAIL  " << name << ": " << why << "\n";
}

void Comparison::Compare(const std::string& name, std::span<const double> values,
                         const std::string& note, double tolerance) {
  compared_.insert(name);
  if (!golden_.Has(name)) {
    Fail(name, "the golden lacks this tensor");
    return;
  }
  const Tensor reference = golden_.Load(name);
  if (reference.values.size() != values.size()) {
    Fail(name, "has " + std::to_string(values.size()) + " elements, and the golden's shape is " +
                   reference.shape.ToString());
    return;
  }
  const std::span<const float> expected(reference.values);
  Record(name, RelativeToMax(values, expected), tolerance < 0 ? ToleranceOf(name) : tolerance,
         note);
}

void Comparison::Compare(const std::string& name, std::span<const float> values,
                         const std::string& note, double tolerance) {
  const std::vector<double> wide(values.begin(), values.end());
  Compare(name, std::span<const double>(wide), note, tolerance);
}

void Comparison::CompareExact(const std::string& name, std::span<const float> values) {
  compared_.insert(name);
  if (!golden_.Has(name)) {
    Fail(name, "the golden lacks this tensor");
    return;
  }
  const Tensor reference = golden_.Load(name);
  if (std::ranges::equal(values, reference.values)) {
    Record(name, 0, 0, "exact");
    return;
  }
  Fail(name, "must be matched exactly, and isn't");
}

void Comparison::CompareExact(const std::string& name, std::span<const int64_t> values) {
  compared_.insert(name);
  if (!golden_.Has(name)) {
    Fail(name, "the golden lacks this tensor");
    return;
  }
  if (std::ranges::equal(values, golden_.LoadIntegers(name))) {
    Record(name, 0, 0, "exact");
    return;
  }
  Fail(name, "must be matched exactly, and isn't");
}

void Comparison::CompareNumbers(const std::string& name, std::span<const double> values,
                                std::span<const double> reference, double tolerance) {
  if (values.size() != reference.size()) {
    Fail(name, std::to_string(values.size()) + " numbers, and the golden has " +
                   std::to_string(reference.size()));
    return;
  }
  Record(name, RelativeToMax(values, reference), tolerance, "metadata");
}

void Comparison::CompareMovement(const std::vector<Moved>& parameters) {
  double total_difference = 0;
  double total_reference = 0;
  double worst = 0;
  std::string worst_name = "none";
  for (const Moved& moved : parameters) {
    const Tensor reference = golden_.Load("after_steps/" + moved.name);
    if (reference.values.size() != moved.after.size()) return;  // Compare has said so.
    double difference = 0;
    double length = 0;
    for (size_t i = 0; i < moved.after.size(); ++i) {
      const double start = moved.before[i];
      const double mine = moved.after[i] - start;
      const double theirs = reference.values[i] - start;
      difference += (mine - theirs) * (mine - theirs);
      length += theirs * theirs;
    }
    total_difference += difference;
    total_reference += length;
    double error = difference == 0 ? 0 : std::sqrt(difference) / std::sqrt(length);
    if (!std::isfinite(error)) error = kInfinity;
    if (error <= worst) continue;
    worst = error;
    worst_name = moved.name;
  }
  double all = total_difference == 0 ? 0 : std::sqrt(total_difference / total_reference);
  if (!std::isfinite(all)) all = kInfinity;
  Record("movement of all parameters", all, tolerances_.movement, "");
  Record("movement of the worst tensor", worst, tolerances_.movement_worst, worst_name);
}

void Comparison::Expect(bool holds, const std::string& name, const std::string& failure) {
  ++comparisons_;
  if (!holds) {
    Fail(name, failure);
  } else if (verbose_) {
    out_ << "  ok    " << name << "\n";
  }
}

bool Comparison::Finish() {
  for (const StoredTensor& tensor : golden_.tensors()) {
    const std::string& name = tensor.name;
    if (IsResult(name)) {
      if (!compared_.contains(name)) Fail(name, "nothing was compared with this tensor");
    } else if (!golden_.WasRead(name)) {
      Fail(name, "this tensor has no part in what the config describes");
    }
  }
  if (comparisons_ == 0) Fail(golden_.name(), "holds nothing to compare");
  out_ << (failures_ == 0 ? "PASS " : "FAIL ") << golden_.name() << " (" << golden_.kind()
       << "): " << comparisons_ << " comparisons, " << failures_ << " failures";
  if (worst_.part >= 0) {
    out_ << ", closest to its tolerance " << worst_.name << " with " << Short(worst_.error)
         << " of " << Short(worst_.tolerance);
  }
  out_ << "; tolerances: " << tolerances_.source << "\n";
  return failures_ == 0;
}

}  // namespace swinfleet::golden
