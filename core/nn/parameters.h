// The parameters of a model: their names, shapes and places in memory, and the interface through
// which modules reach them.
#ifndef SWINFLEET_CORE_NN_PARAMETERS_H_
#define SWINFLEET_CORE_NN_PARAMETERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/tensor.h"

namespace swinfleet {

// How a parameter starts (the official code's initialisation).
struct Initializer {
  enum class Kind {
    kZeros,
    kOnes,
    // Normal with standard deviation `value`, cut off at +-2 (as timm's trunc_normal_).
    kTruncatedNormal,
    // Uniform in [-value, value].
    kUniform,
    // All elements `value`.
    kConstant,
    // A class token's row of zeros, and the fixed position embedding of MAE (SinCosPositions) for a
    // grid `value` patches wide: (1, 1 + patches, C).
    kSinCosPositions
  };
  Kind kind = Kind::kZeros;
  double value = 0;
};

struct ParameterInfo {
  // The official state_dict name, "layers.0.blocks.1.attn.qkv.weight".
  std::string name;
  Shape shape;
  Initializer init;
  int unit = 0;
  // Elements from the start of the unit.
  int64_t offset = 0;
  // Its gradient is made by linear_backward_weight alone: ParameterAccess::TakeUnwritten.
  bool product_weight = false;
  int64_t size() const { return shape.NumElements(); }
};

// The parameters of one block (or of the embedding, of a merging, of the head), contiguous: what is
// gathered, reduced and released together.
struct Unit {
  std::string name;
  // Indices of its parameters, in order of offset.
  std::vector<int> parameters;
  // Elements in use; the rest of the last chunk of kNormChunk elements is zero.
  int64_t size = 0;
  int64_t padded_size = 0;
};

// All parameters of a model, unit by unit, in the order of the forward pass.
class ParameterTable {
 public:
  // Starts a new unit; later parameters belong to it.
  int BeginUnit(const std::string& name);
  // Adds a parameter to the newest unit and returns its index.
  int Add(const std::string& name, const Shape& shape, const Initializer& init);
  // A weight of which modules ask TakeUnwritten before each product that makes its gradient.
  int AddProductWeight(const std::string& name, const Shape& shape, const Initializer& init);

  // Makes a parameter start in another way.
  void SetInitializer(int parameter, const Initializer& init) {
    parameters_[parameter].init = init;
  }

  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  const std::vector<Unit>& units() const { return units_; }
  // The index of the parameter of that name, -1 if there is none.
  int Find(const std::string& name) const;
  int64_t TotalElements() const;

 private:
  std::vector<ParameterInfo> parameters_;
  std::vector<Unit> units_;
  std::map<std::string, int> by_name_;
};

// What modules know of where parameters live. Implementations: all in this process
// (LocalParameters), or shards over ranks (distributed/zero_engine.h).
class ParameterAccess {
 public:
  virtual ~ParameterAccess() = default;
  // The unit's parameters, (padded_size), valid until Release.
  virtual TensorView Acquire(int unit) = 0;
  virtual void Release(int unit) = 0;
  // Where this micro-batch's gradient of the unit is summed, (padded_size): zero at first, but for
  // product weights.
  virtual TensorView Gradient(int unit) = 0;
  // Whether the gradient of a product weight has no contents yet, so that the product which asks
  // has to write it; later ones add to it. Large models gain by this: their gradients fit no cache,
  // and zeroing and adding go through them once more each.
  virtual bool TakeUnwritten(int parameter) = 0;
  // The unit's gradient of this micro-batch is complete; the caller touches it no more.
  virtual void GradientReady(int unit) = 0;
};

// Which product weights have no gradient yet: what implementations of ParameterAccess answer with.
class UnwrittenWeights {
 public:
  explicit UnwrittenWeights(const ParameterTable& table)
      : table_(table), unwritten_(table.parameters().size(), 0) {}

  // A new gradient of the unit.
  void Begin(int unit) {
    for (const int parameter : table_.units()[unit].parameters) {
      unwritten_[parameter] = table_.parameters()[parameter].product_weight ? 1 : 0;
    }
  }
  bool Has(int parameter) const { return unwritten_[parameter] != 0; }
  bool Take(int parameter) { return std::exchange(unwritten_[parameter], 0) != 0; }

 private:
  const ParameterTable& table_;
  std::vector<char> unwritten_;
};

// One unit acquired for a scope.
class AcquiredUnit {
 public:
  AcquiredUnit(const ParameterTable& table, ParameterAccess& access, int unit)
      : table_(table), access_(access), unit_(unit), values_(access.Acquire(unit)) {}
  ~AcquiredUnit() { access_.Release(unit_); }
  AcquiredUnit(const AcquiredUnit&) = delete;
  AcquiredUnit& operator=(const AcquiredUnit&) = delete;

  // A parameter's values; index -1 (a parameter that the model lacks) gives an absent view.
  TensorView operator[](int parameter) const { return At(values_, parameter); }
  // Whether a product that makes the weight's gradient adds to what is there.
  bool Accumulates(int parameter) const { return !access_.TakeUnwritten(parameter); }
  // A part of `unit_memory` (the unit's values or gradient) with the parameter's shape.
  TensorView At(const TensorView& unit_memory, int parameter) const {
    if (parameter < 0) return TensorView{};
    const ParameterInfo& info = table_.parameters()[parameter];
    CHECK_EQ(info.unit, unit_) << info.name;
    TensorView view = unit_memory;
    view.data = static_cast<char*>(unit_memory.data) +
                info.offset * static_cast<int64_t>(SizeOf(unit_memory.dtype));
    view.shape = info.shape;
    return view;
  }

 private:
  const ParameterTable& table_;
  ParameterAccess& access_;
  int unit_;
  TensorView values_;
};

// Fills `values` (the unit's padded_size elements) with the initial parameters: a function of the
// seed and each parameter's name alone, whatever the number of ranks.
void InitializeUnit(const ParameterTable& table, int unit, uint64_t seed, std::span<float> values);

// Parameters and gradients of the whole model in this process, without any summing over
// micro-batches beyond plain addition: for tests, goldens and evaluation.
class LocalParameters : public ParameterAccess {
 public:
  // With `gradients` false, Gradient is a broken invariant.
  LocalParameters(const ParameterTable& table, bool gradients);

  TensorView Acquire(int unit) override;
  void Release(int unit) override {}
  TensorView Gradient(int unit) override;
  bool TakeUnwritten(int parameter) override { return false; }
  void GradientReady(int unit) override {}

  void ZeroGradients();
  std::span<float> Value(int parameter);
  std::span<float> GradientOf(int parameter);

 private:
  const ParameterTable& table_;
  std::vector<int64_t> unit_begin_;
  std::vector<float> values_;
  std::vector<float> gradients_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_PARAMETERS_H_
