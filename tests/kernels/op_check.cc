#include "tests/kernels/op_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>

#include "tests/kernels/op_backend.h"
#include "tests/reference/rounding.h"

namespace swinfleet::testing {
namespace {

// Writes numbers as elements of a dtype, which holds them exactly.
void Write(const Floats& values, DType dtype, void* data) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(data, values.data(), values.size() * 4);
      return;
    case DType::kI32:
      for (size_t i = 0; i < values.size(); ++i) {
        static_cast<int32_t*>(data)[i] = static_cast<int32_t>(values[i]);
      }
      return;
    case DType::kU16:
      for (size_t i = 0; i < values.size(); ++i) {
        static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(values[i]);
      }
      return;
    case DType::kBF16:
    case DType::kF16:
      for (size_t i = 0; i < values.size(); ++i) {
        static_cast<uint16_t*>(data)[i] = reference::ToBits(values[i], dtype);
      }
      return;
  }
}

std::string BytesOf(const Floats& values, DType dtype) {
  std::string bytes(values.size() * SizeOf(dtype), 0);
  Write(values, dtype, bytes.data());
  return bytes;
}

// What an output holds that is overwritten: the guards' NaN.
std::string UnwrittenBytes(size_t bytes, size_t element) {
  std::string text(bytes, 0);
  for (size_t i = 0; i < bytes; i += element) {
    if (element == 2) {
      std::memcpy(text.data() + i, &kGuardHalf, 2);
    } else {
      std::memcpy(text.data() + i, &kGuardWord, 4);
    }
  }
  return text;
}

// The elements of a view of host memory.
Vec Read(const TensorView& view) {
  Vec values;
  for (int64_t i = 0; i < view.NumElements(); ++i) {
    switch (view.dtype) {
      case DType::kF32:
        values.push_back(view.f32()[i]);
        break;
      case DType::kI32:
        values.push_back(view.i32()[i]);
        break;
      case DType::kU16:
        values.push_back(view.u16()[i]);
        break;
      case DType::kBF16:
      case DType::kF16:
        values.push_back(reference::FromBits(view.u16()[i], view.dtype));
        break;
    }
  }
  return values;
}

// Outputs of doubles have doubles' alignment.
size_t OffsetOf(const OpOutput& output, size_t offset) { return output.is_double ? 0 : offset; }

// A shape that a view of floats has; doubles count twice.
Shape ViewShape(const OpOutput& output) {
  return output.is_double ? Shape{2 * output.shape.NumElements()} : output.shape;
}

// `offset` is that of the tensors' addresses.
Views DryViews(const OpCase& op, bool outputs, size_t offset) {
  // Never read: the dry run has no memory. Not null, for null is "absent".
  void* const somewhere = reinterpret_cast<void*>(uintptr_t{64} + offset);
  Views views;
  const auto add = [&](bool present, const Shape& shape, DType dtype) {
    views.push_back(present ? TensorView{somewhere, shape, dtype, Device::kDryRun} : TensorView{});
  };
  if (outputs) {
    for (const OpOutput& o : op.outputs) add(true, ViewShape(o), o.dtype);
  } else {
    for (const OpInput& i : op.inputs) add(!i.values.empty(), i.shape, i.dtype);
  }
  return views;
}

size_t DryRunWorkspace(const OpCase& op, int threads, size_t offset, WorkCount* count) {
  Arena workspace = Arena::DryRun("workspace");
  Context context{
      .ops = &BackendDryRunOps(), .workspace = &workspace, .threads = threads, .count = count};
  op.call(BackendDryRunOps(), DryViews(op, false, offset), DryViews(op, true, offset), context);
  EXPECT_EQ(workspace.used(), 0u) << "the dry run keeps some of the workspace";
  return workspace.high_water();
}

// The tensors of a case in guarded memory.
class Instance {
 public:
  Instance(const OpCase& op, size_t offset) {
    for (const OpInput& input : op.inputs) {
      inputs_.push_back(
          MakeTensorMemory(input.values.size() * SizeOf(input.dtype), offset, BackendDevice()));
      in_.push_back(input.values.empty() ? TensorView{}
                                         : TensorView{inputs_.back()->data(), input.shape,
                                                      input.dtype, BackendDevice()});
    }
    for (const OpOutput& output : op.outputs) {
      const size_t size = output.is_double ? 8 : SizeOf(output.dtype);
      const Device device = output.is_double ? Device::kCpu : BackendDevice();
      outputs_.push_back(MakeTensorMemory(output.alias >= 0 ? 0 : output.expected.size() * size,
                                          OffsetOf(output, offset), device));
      out_.push_back(
          TensorView{MemoryOf(op, out_.size()).data(), ViewShape(output), output.dtype, device});
    }
  }
  // Writes a step's inputs, and outputs as they are before it. What is added to stays.
  void Load(const OpCase& op, bool first) {
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (in_[i].empty()) continue;
      inputs_[i]->Store(BytesOf(op.inputs[i].values, op.inputs[i].dtype));
    }
    for (size_t i = 0; i < op.outputs.size(); ++i) LoadOutput(op.outputs[i], first, i);
  }
  void Call(const OpCase& op, Context& context) {
    op.call(BackendOps(), in_, out_, context);
    WaitForBackend(context);
  }
  void ExpectUntouched(const OpCase& op) const {
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      const OpInput& input = op.inputs[i];
      EXPECT_TRUE(inputs_[i]->GuardsIntact()) << "wrote outside of " << input.name;
      const bool aliased = std::any_of(op.outputs.begin(), op.outputs.end(), [i](const auto& o) {
        return o.alias == static_cast<int>(i);
      });
      if (in_[i].empty() || aliased) continue;
      EXPECT_TRUE(inputs_[i]->Bytes() == BytesOf(input.values, input.dtype))
          << "changed its input " << input.name;
    }
    for (size_t i = 0; i < op.outputs.size(); ++i) {
      EXPECT_TRUE(outputs_[i]->GuardsIntact()) << "wrote outside of " << op.outputs[i].name;
    }
  }
  Vec Values(const OpCase& op, size_t output) const {
    std::string bytes = MemoryOf(op, output).Bytes();
    if (op.outputs[output].is_double) {
      const auto* values = reinterpret_cast<const double*>(bytes.data());
      return Vec(values, values + op.outputs[output].expected.size());
    }
    TensorView view = out_[output];
    view.data = bytes.data();
    view.device = Device::kCpu;
    return Read(view);
  }
  // All bytes of all outputs.
  std::string Bits(const OpCase& op) const {
    std::string bits;
    for (size_t i = 0; i < out_.size(); ++i) bits += MemoryOf(op, i).Bytes();
    return bits;
  }

  // What an accumulating output holds before the first step.
  static Floats InitialOf(const OpOutput& output) {
    double largest = 0;
    for (double x : output.expected) largest = std::max(largest, std::abs(x));
    const int64_t n = static_cast<int64_t>(output.expected.size());
    return Rounded(Random(99).Normal(n, 0, largest / 2), output.dtype);
  }

 private:
  TensorMemory& MemoryOf(const OpCase& op, size_t output) const {
    const int alias = op.outputs[output].alias;
    return alias >= 0 ? *inputs_[alias] : *outputs_[output];
  }
  void LoadOutput(const OpOutput& output, bool first, size_t i) {
    if (output.alias >= 0) return;
    if (output.mode == OutputMode::kUpdate) {
      outputs_[i]->Store(BytesOf(output.initial, output.dtype));
    } else if (output.mode == OutputMode::kAccumulate) {
      if (first) outputs_[i]->Store(BytesOf(InitialOf(output), output.dtype));
    } else {
      outputs_[i]->Store(UnwrittenBytes(out_[i].Bytes(), SizeOf(output.dtype)));
    }
  }

  std::vector<std::unique_ptr<TensorMemory>> inputs_;
  std::vector<std::unique_ptr<TensorMemory>> outputs_;
  Views in_;
  Views out_;
};

// Prints every measured error beside its tolerance when SWINFLEET_PRINT_ERRORS is set.
void PrintError(const std::string& name, double error, double tolerance) {
  static const bool print = std::getenv("SWINFLEET_PRINT_ERRORS") != nullptr;
  if (!print) return;
  const ::testing::TestInfo* info = ::testing::UnitTest::GetInstance()->current_test_info();
  std::cout << "error " << info->test_suite_name() << "." << info->name() << " " << name << " "
            << error << " of " << tolerance << "\n";
}

void ExpectNear(const OpOutput& output, const Vec& expected, const Vec& got) {
  ASSERT_EQ(expected.size(), got.size());
  ASSERT_EQ(static_cast<int64_t>(expected.size()), output.shape.NumElements()) << output.name;
  std::map<int, double> largest;
  const auto group = [&](size_t i) { return output.group.empty() ? 0 : output.group[i]; };
  for (size_t i = 0; i < expected.size(); ++i) {
    const double size = output.size.empty() ? 0 : output.size.at(i);
    largest[group(i)] = std::max({largest[group(i)], std::abs(expected[i]), size});
  }
  double worst = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]);
    // Against a group of zeros only zero will do.
    const double relative = error == 0 ? 0 : error / largest[group(i)];
    if (std::isnan(worst) || !(relative > worst || std::isnan(relative))) continue;
    worst = relative;
    worst_at = i;
  }
  PrintError(output.name, worst, output.tolerance);
  EXPECT_TRUE(worst <= output.tolerance)
      << output.name << " " << output.shape << " at " << worst_at << ": " << got[worst_at]
      << ", the reference says " << expected[worst_at] << "; relative error " << worst
      << ", tolerance " << output.tolerance;
}

// What an output must hold after step 1 (`second` null) or step 2.
Vec ExpectedAfter(const OpOutput& first, const OpOutput* second) {
  if (first.mode != OutputMode::kAccumulate) return second ? second->expected : first.expected;
  const Vec initial = ToDouble(Instance::InitialOf(first));
  Vec sum = reference::Add(initial, first.expected);
  return second ? reference::Add(sum, second->expected) : sum;
}

// Two steps in the same memory, each checked; returns the bits of all outputs after each. The dry
// run of a step counted `launches`.
std::string RunTwoSteps(const OpCase& first, const OpCase& second, const Variant& variant,
                        size_t workspace_bytes, int64_t launches) {
  Workspace workspace(std::max<size_t>(workspace_bytes, 64));
  Context context = workspace.MakeContext(variant.threads);
  Instance instance(first, variant.offset);
  std::string bits;
  for (const OpCase* step : {&first, &second}) {
    SCOPED_TRACE(step == &first ? "first micro-step" : "second micro-step");
    instance.Load(*step, step == &first);
    const int64_t launches_before = BackendLaunches();
    instance.Call(*step, context);
    if (launches_before >= 0) {
      EXPECT_EQ(BackendLaunches() - launches_before, launches) << "kernels, and those counted dry";
    }
    instance.ExpectUntouched(*step);
    for (size_t i = 0; i < first.outputs.size(); ++i) {
      const Vec expected =
          ExpectedAfter(first.outputs[i], step == &first ? nullptr : &second.outputs[i]);
      ExpectNear(step->outputs[i], expected, instance.Values(*step, i));
    }
    bits += instance.Bits(*step);
    EXPECT_EQ(context.workspace->used(), 0u) << "some of the workspace was kept";
  }
  EXPECT_EQ(context.workspace->high_water(), workspace_bytes)
      << "the dry run took another amount of workspace";
  return bits;
}

}  // namespace

Floats Random::Normal(int64_t n, double mean, double deviation) {
  std::normal_distribution<double> distribution;
  Floats values(n);
  for (float& v : values) v = static_cast<float>(mean + deviation * distribution(engine_));
  return values;
}

Floats Random::Uniform(int64_t n, double low, double high) {
  std::uniform_real_distribution<double> distribution(low, high);
  Floats values(n);
  for (float& v : values) v = static_cast<float>(distribution(engine_));
  return values;
}

Vec ToDouble(const Floats& values) { return Vec(values.begin(), values.end()); }

Floats ToFloat(const Vec& values) { return Floats(values.begin(), values.end()); }

Floats Rounded(Floats values, DType dtype) {
  for (float& v : values) v = static_cast<float>(reference::Round(v, dtype));
  return values;
}

Vec Rounded(Vec values, DType dtype) {
  for (double& v : values) v = reference::Round(v, dtype);
  return values;
}

void CheckOp(const std::function<OpCase(uint64_t seed)>& make) {
  const OpCase first = make(1);
  const OpCase second = make(2);
  for (const Variant& variant : Variants()) {
    SCOPED_TRACE(variant.name);
    UseInstructionSet use(variant.target);
    WorkCount count;
    const size_t workspace = DryRunWorkspace(first, variant.threads, variant.offset, &count);
    EXPECT_GE(count.calls, 1);
    EXPECT_GT(count.bytes, 0);
    const std::string bits = RunTwoSteps(first, second, variant, workspace, count.launches);
    if (variant.repeat) {
      const bool same = bits == RunTwoSteps(first, second, variant, workspace, count.launches);
      EXPECT_TRUE(same) << "a repetition gives other bits";
    }
    if (::testing::Test::HasFailure()) return;
  }
}

WorkCount CountOp(const OpCase& op) {
  WorkCount count;
  DryRunWorkspace(op, 1, 0, &count);
  return count;
}

std::vector<Floats> RunOp(const OpCase& op, int threads) {
  WorkCount count;
  const size_t bytes = DryRunWorkspace(op, threads, 0, &count);
  Workspace workspace(std::max<size_t>(bytes, 64));
  Context context = workspace.MakeContext(threads);
  Instance instance(op, 0);
  instance.Load(op, true);
  instance.Call(op, context);
  std::vector<Floats> results;
  for (size_t i = 0; i < op.outputs.size(); ++i) results.push_back(ToFloat(instance.Values(op, i)));
  return results;
}

void CheckOnce(const OpCase& op) {
  const std::vector<Floats> results = RunOp(op);
  for (size_t i = 0; i < results.size(); ++i) {
    ExpectNear(op.outputs[i], ExpectedAfter(op.outputs[i], nullptr), ToDouble(results[i]));
  }
}

void CheckGradients(const std::function<double(const std::vector<Vec>&)>& loss,
                    const std::vector<Vec>& inputs, const std::vector<Vec>& gradients,
                    double tolerance) {
  constexpr double kStep = 1e-4;
  // Elements of a larger tensor are sampled evenly.
  constexpr size_t kMaxElements = 150;
  std::vector<Vec> at = inputs;
  for (size_t t = 0; t < gradients.size(); ++t) {
    if (gradients[t].empty()) continue;
    ASSERT_EQ(gradients[t].size(), inputs[t].size());
    double largest = 0;
    for (double g : gradients[t]) largest = std::max(largest, std::abs(g));
    const size_t stride = (inputs[t].size() + kMaxElements - 1) / kMaxElements;
    for (size_t i = 0; i < inputs[t].size(); i += stride) {
      const auto moved = [&](double by) {
        at[t][i] = inputs[t][i] + by;
        const double value = loss(at);
        at[t][i] = inputs[t][i];
        return value;
      };
      // Five points: the error is of the fourth order in the step.
      const double difference =
          (8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) /
          (12 * kStep);
      ASSERT_NEAR(gradients[t][i], difference, tolerance * std::max(largest, 1e-30))
          << "tensor " << t << ", element " << i;
    }
  }
}

double Dot(const Vec& x, const Vec& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y.at(i);
  return sum;
}

}  // namespace swinfleet::testing
