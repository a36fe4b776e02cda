// That the library behind the CUDA backend has products for the linear layers of all preset models
// (core/config/presets.cc), with their epilogues: on a GPU all of them, in the emulator, whose
// substitute has one way for all sizes, those of the narrowest blocks.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/cuda/test_device.h"
#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Layer {
  int64_t outputs, inputs;
};

// What a block of so many channels has.
void AppendBlock(int64_t c, std::vector<Layer>* layers) {
  layers->insert(layers->end(), {{3 * c, c}, {c, c}, {4 * c, c}, {c, 4 * c}});
}

std::vector<Layer> LayersOfPresets() {
  std::vector<Layer> layers;
  if (DeviceTakesFewSizes()) {
    AppendBlock(96, &layers);
    return layers;
  }
  for (const int64_t width : {96, 128, 192, 352, 512}) {
    for (const int64_t c : {width, 2 * width, 4 * width, 8 * width}) AppendBlock(c, &layers);
    for (const int64_t c : {width, 2 * width, 4 * width}) layers.push_back({2 * c, 4 * c});
    for (const int64_t classes : {174, 400, 600, 1000, 21841}) {
      layers.push_back({classes, 8 * width});
    }
    // SimMIM's decoder makes 32 x 32 pixels of a token.
    layers.push_back({3072, 8 * width});
  }
  // MAE's encoders and their patches, its decoder on each, and pixels of patches.
  for (const int64_t c : {768, 1024, 1280}) {
    AppendBlock(c, &layers);
    layers.insert(layers.end(), {{c, 768}, {c, 588}, {512, c}, {1000, c}});
  }
  AppendBlock(512, &layers);
  layers.insert(layers.end(), {{768, 512}, {588, 512}});
  return layers;
}

// A tensor that is full of one number.
class Constant {
 public:
  Constant(const Shape& shape, DType dtype, float value, Context& context)
      : memory_(MakeDeviceMemory(shape.NumElements() * SizeOf(dtype), 0)),
        view_{memory_->data(), shape, dtype, Device::kCuda} {
    cuda::Fill({.x = view_, .value = value}, context);
  }
  const TensorView& view() const { return view_; }
  std::string Bytes(const Context& context) const {
    WaitForBackend(context);
    return memory_->Bytes();
  }

 private:
  const std::unique_ptr<TensorMemory> memory_;
  const TensorView view_;
};

// Whether a result is full of the number of its dtype that is nearest to `value`.
bool Is(const Constant& result, float value, Context& context) {
  const Constant expected(result.view().shape, result.view().dtype, value, context);
  return result.Bytes(context) == expected.Bytes(context);
}

// All factors are multiples of 1/4 whose sums float32 holds exactly, in any order.
void Check(const Layer& layer, int64_t rows, DType dtype, Context& context) {
  SCOPED_TRACE(std::to_string(rows) + " rows, " + std::to_string(layer.inputs) + " -> " +
               std::to_string(layer.outputs) + ", " + NameOf(dtype));
  const auto terms = [](int64_t n) { return 0.125f * static_cast<float>(n); };
  const Constant x({rows, layer.inputs}, dtype, 0.5f, context);
  const Constant weight({layer.outputs, layer.inputs}, dtype, 0.25f, context);
  const Constant bias({layer.outputs}, dtype, 1, context);
  const Constant y({rows, layer.outputs}, dtype, 0, context);
  cuda::LinearForward({x.view(), weight.view(), bias.view(), y.view()}, context);
  EXPECT_TRUE(Is(y, terms(layer.inputs) + 1, context));
  cuda::LinearForward({x.view(), weight.view(), {}, y.view()}, context);
  EXPECT_TRUE(Is(y, terms(layer.inputs), context));

  const Constant dy({rows, layer.outputs}, dtype, 0.5f, context);
  const Constant dx({rows, layer.inputs}, dtype, 1, context);
  cuda::LinearBackwardInput({dy.view(), weight.view(), dx.view(), /*accumulate=*/true}, context);
  EXPECT_TRUE(Is(dx, terms(layer.outputs) + 1, context));
  const Constant dweight({layer.outputs, layer.inputs}, DType::kF32, 2, context);
  const Constant dbias({layer.outputs}, DType::kF32, 2, context);
  cuda::LinearBackwardWeight(
      {dy.view(), x.view(), dweight.view(), dbias.view(), /*accumulate=*/true}, context);
  EXPECT_TRUE(Is(dweight, 2 * terms(rows) + 2, context));
  EXPECT_TRUE(Is(dbias, 4 * terms(rows) + 2, context));
}

TEST(PresetLinear, HasAProductForEveryLayerOfThePresets) {
  Workspace workspace(size_t{DeviceTakesFewSizes() ? 4u : 64u} << 20);
  Context context = workspace.MakeContext(1);
  // The tokens of a micro-batch, and the pictures of one.
  std::vector<int64_t> rows = {3136, 16};
  if (DeviceTakesFewSizes()) rows = {18};
  for (const Layer& layer : LayersOfPresets()) {
    for (const int64_t m : rows) {
      for (const DType dtype : kFloating) Check(layer, m, dtype, context);
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
