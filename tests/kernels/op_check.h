// The one harness that every operation's test uses.
//
// A test describes an operation once, as a function from a seed to an OpCase: inputs, outputs with
// what the reference expects in them, and how to call the backend. CheckOp runs it in every way
// that the backend names (op_backend.h: on the CPU with every instruction set that this machine
// has, one to three threads, aligned and not; on CUDA in several orders of the emulator), and
// checks
//  * the values, within the tolerance of tests/reference/tolerance.h;
//  * that outputs that are overwritten do not depend on what was there (NaN), and that outputs that
//    are added to hold the sum of two micro-steps with different data;
//  * that inputs, and the bytes around every tensor, are as they were;
//  * that the workspace is left as found, and that the dry run takes exactly as much of it;
//  * that a repetition gives the same bits.
#ifndef SWINFLEET_TESTS_KERNELS_OP_CHECK_H_
#define SWINFLEET_TESTS_KERNELS_OP_CHECK_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/reference/reference.h"
#include "tests/reference/tolerance.h"

namespace swinfleet::testing {

using reference::Vec;
using Floats = std::vector<float>;
using Views = std::vector<TensorView>;

// Deterministic test data.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  Floats Normal(int64_t n, double mean = 0, double deviation = 1);
  Floats Uniform(int64_t n, double low, double high);

 private:
  std::mt19937_64 engine_;
};

Vec ToDouble(const Floats& values);
Floats ToFloat(const Vec& values);

// The floating dtypes.
inline constexpr DType kFloating[] = {DType::kF32, DType::kBF16, DType::kF16};

// Each value's nearest number of a floating dtype.
Floats Rounded(Floats values, DType dtype);
Vec Rounded(Vec values, DType dtype);

// The table of tests/reference/tolerance.h.
using reference::Tolerance;

// The table's float32 entry.
inline double F32(double terms = 1, double amplification = 1) {
  return reference::Tolerance(DType::kF32, terms, amplification);
}

enum class OutputMode {
  kOverwrite,   // holds NaN before; `expected` after
  kAccumulate,  // holds random values before; those plus `expected` after
  kUpdate       // holds `initial` before; `expected` after
};

struct OpInput {
  std::string name;
  Shape shape;
  // Numbers that the dtype holds exactly.
  Floats values;
  DType dtype = DType::kF32;
};

struct OpOutput {
  std::string name;
  Shape shape;
  OutputMode mode = OutputMode::kOverwrite;
  Vec expected;
  // Largest allowed max|x - expected| / max(|expected|, |size|); 0 for exact.
  double tolerance = 0;
  // kUpdate only.
  Floats initial = {};
  // Index of the input that is the same memory, or -1.
  int alias = -1;
  // The group of each element, if they are to be measured against their own group's largest value.
  std::vector<int> group = {};
  // Where terms cancel: how large the element would be if they did not. Absent otherwise.
  Vec size = {};
  // The output is an array of double in host memory: `data` of its view, of twice the floats.
  bool is_double = false;
  // `initial` has numbers that the dtype holds exactly.
  DType dtype = DType::kF32;
};

struct OpCase {
  std::vector<OpInput> inputs;
  std::vector<OpOutput> outputs;
  // Calls the operation; the views are in the order of the lists above, default-made where absent.
  std::function<void(const OpTable&, const Views& in, const Views& out, Context&)> call;

  // Add a tensor; an absent one has no values.
  void In(const std::string& name, const Shape& shape, const Floats& values,
          DType dtype = DType::kF32) {
    inputs.push_back({name, values.empty() ? Shape{} : shape, values, dtype});
  }
  OpOutput& Out(const std::string& name, const Shape& shape, const Vec& expected, double tolerance,
                OutputMode mode = OutputMode::kOverwrite, DType dtype = DType::kF32) {
    outputs.push_back({.name = name,
                       .shape = shape,
                       .mode = mode,
                       .expected = expected,
                       .tolerance = tolerance,
                       .dtype = dtype});
    return outputs.back();
  }
};

void CheckOp(const std::function<OpCase(uint64_t seed)>& make);

// What one dry run of the case counts.
WorkCount CountOp(const OpCase& op);

// Calls the operation once, with all threads and the best instruction set, and returns the outputs.
std::vector<Floats> RunOp(const OpCase& op, int threads = 2);

// Holds the outcome of RunOp against what the reference expects: of what takes too long for
// CheckOp. All outputs are overwritten.
void CheckOnce(const OpCase& op);

// Compares `gradients` with central differences of `loss` at `inputs`, in double precision, to
// `tolerance` relative to the largest element of each tensor. An empty gradient is not checked.
void CheckGradients(const std::function<double(const std::vector<Vec>&)>& loss,
                    const std::vector<Vec>& inputs, const std::vector<Vec>& gradients,
                    double tolerance = 1e-8);

// sum(x y).
double Dot(const Vec& x, const Vec& y);

// The instruction sets compiled into the kernels that this machine has, best first; of the CUDA
// backend one order of the emulator.
std::vector<int64_t> InstructionSets();

// Whether running takes so long here, in the emulator, that tests take few sizes.
bool TakesFewSizes();

// `few` come to every path of a kernel: tiles that are whole and not, one and several, and so on.
template <typename T>
std::vector<T> SizesToRun(const std::vector<T>& all, const std::vector<T>& few) {
  return TakesFewSizes() ? few : all;
}

// Runs the kernels with one instruction set while it lives.
class UseInstructionSet {
 public:
  explicit UseInstructionSet(int64_t target);
  ~UseInstructionSet();
  UseInstructionSet(const UseInstructionSet&) = delete;
  UseInstructionSet& operator=(const UseInstructionSet&) = delete;
};

}  // namespace swinfleet::testing

#endif  // SWINFLEET_TESTS_KERNELS_OP_CHECK_H_
