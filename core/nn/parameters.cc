#include "core/nn/parameters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/nn/sin_cos_positions.h"
#include "core/rng/counter_rng.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

// Parameters start at multiples of 64 bytes, so that vector loads of weights don't straddle cache
// lines. The gaps are zero in values and gradients, and belong to no parameter.
constexpr int64_t kParameterAlignment = 16;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// FNV-1a: the same on every machine, as std::hash is not.
uint64_t StableHash(const std::string& text) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ull;
  }
  return hash;
}

void FillTruncatedNormal(double deviation, CounterRng& rng, std::span<float> values) {
  for (float& value : values) {
    double x = 0;
    do {
      x = deviation * rng.Normal();
    } while (std::abs(x) > 2);
    value = static_cast<float>(x);
  }
}

void FillUniform(double bound, CounterRng& rng, std::span<float> values) {
  for (float& value : values) value = static_cast<float>(bound * (2 * rng.Uniform() - 1));
}

void InitializeParameter(const ParameterInfo& info, uint64_t seed, std::span<float> values) {
  switch (info.init.kind) {
    case Initializer::Kind::kZeros:
      std::ranges::fill(values, 0.0f);
      return;
    case Initializer::Kind::kOnes:
      std::ranges::fill(values, 1.0f);
      return;
    case Initializer::Kind::kConstant:
      std::ranges::fill(values, static_cast<float>(info.init.value));
      return;
    case Initializer::Kind::kSinCosPositions: {
      const auto width = static_cast<int64_t>(info.init.value);
      std::ranges::copy(
          SinCosPositions(info.shape[2], (info.shape[1] - 1) / width, width, /*class_token=*/true),
          values.begin());
      return;
    }
    case Initializer::Kind::kTruncatedNormal:
    case Initializer::Kind::kUniform:
      break;
  }
  // A stream for each chunk, so that chunks can be drawn in any order or by anybody alone.
  const uint64_t key = StableHash(info.name);
  for (size_t begin = 0, chunk = 0; begin < values.size(); begin += kNormChunk, ++chunk) {
    CHECK_LE(chunk, std::numeric_limits<uint32_t>::max()) << info.name;
    CounterRng rng(seed, RandomPurpose::kInitialWeights, key, static_cast<uint32_t>(chunk));
    const std::span<float> part =
        values.subspan(begin, std::min<size_t>(kNormChunk, values.size() - begin));
    if (info.init.kind == Initializer::Kind::kTruncatedNormal) {
      FillTruncatedNormal(info.init.value, rng, part);
    } else {
      FillUniform(info.init.value, rng, part);
    }
  }
}

}  // namespace

int ParameterTable::BeginUnit(const std::string& name) {
  Unit unit;
  unit.name = name;
  units_.push_back(std::move(unit));
  return static_cast<int>(units_.size()) - 1;
}

int ParameterTable::Add(const std::string& name, const Shape& shape, const Initializer& init) {
  CHECK(!units_.empty()) << "parameter " << name << " before any unit";
  const int index = static_cast<int>(parameters_.size());
  CHECK(by_name_.emplace(name, index).second) << "two parameters named " << name;
  Unit& unit = units_.back();
  ParameterInfo info;
  info.name = name;
  info.shape = shape;
  info.init = init;
  info.unit = static_cast<int>(units_.size()) - 1;
  info.offset = RoundUp(unit.size, kParameterAlignment);
  unit.parameters.push_back(index);
  unit.size = info.offset + info.size();
  unit.padded_size = RoundUp(unit.size, kNormChunk);
  parameters_.push_back(std::move(info));
  return index;
}

int ParameterTable::AddProductWeight(const std::string& name, const Shape& shape,
                                     const Initializer& init) {
  const int index = Add(name, shape, init);
  parameters_[index].product_weight = true;
  return index;
}

int ParameterTable::Find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? -1 : found->second;
}

int64_t ParameterTable::TotalElements() const {
  int64_t total = 0;
  for (const ParameterInfo& info : parameters_) total += info.size();
  return total;
}

void InitializeUnit(const ParameterTable& table, int unit, uint64_t seed, std::span<float> values) {
  const Unit& of = table.units()[unit];
  CHECK_GE(static_cast<int64_t>(values.size()), of.size) << of.name;
  std::ranges::fill(values, 0.0f);
  for (const int index : of.parameters) {
    const ParameterInfo& info = table.parameters()[index];
    InitializeParameter(info, seed, values.subspan(info.offset, info.size()));
  }
}

LocalParameters::LocalParameters(const ParameterTable& table, bool gradients) : table_(table) {
  int64_t total = 0;
  for (const Unit& unit : table.units()) {
    unit_begin_.push_back(total);
    total += unit.padded_size;
  }
  values_.assign(total, 0.0f);
  if (gradients) gradients_.assign(total, 0.0f);
}

TensorView LocalParameters::Acquire(int unit) {
  return ViewOf(values_.data() + unit_begin_[unit], Shape{table_.units()[unit].padded_size});
}

TensorView LocalParameters::Gradient(int unit) {
  CHECK_EQ(gradients_.size(), values_.size()) << "made without gradients";
  return ViewOf(gradients_.data() + unit_begin_[unit], Shape{table_.units()[unit].padded_size});
}

void LocalParameters::ZeroGradients() { std::ranges::fill(gradients_, 0.0f); }

std::span<float> LocalParameters::Value(int parameter) {
  const ParameterInfo& info = table_.parameters()[parameter];
  return std::span(values_).subspan(unit_begin_[info.unit] + info.offset, info.size());
}

std::span<float> LocalParameters::GradientOf(int parameter) {
  CHECK_EQ(gradients_.size(), values_.size()) << "made without gradients";
  const ParameterInfo& info = table_.parameters()[parameter];
  return std::span(gradients_).subspan(unit_begin_[info.unit] + info.offset, info.size());
}

}  // namespace swinfleet
