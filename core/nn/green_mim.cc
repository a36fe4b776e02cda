#include "core/nn/green_mim.h"

#include <algorithm>
#include <numeric>

#include "core/data/mask.h"
#include "core/nn/checkpointed_block.h"
#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {

GreenEncoder::GreenEncoder(const ModelConfig& model, const PretrainConfig& pretrain,
                           const MemoryConfig& memory, const std::string& prefix,
                           ParameterTable* table)
    : model_(model),
      mask_unit_(pretrain.mask_unit),
      group_size_(pretrain.group_size),
      units_([&] {
        const int64_t units = MaskConfigFor(model, pretrain).units();
        return units - MaskedUnits(pretrain.method, units, pretrain.mask_ratio);
      }()),
      patches_(model, prefix, table),
      stages_(model.num_stages()) {
  CHECK_GT(units_, 0);
  int number = 0;
  for (int s = 0; s < model.num_stages(); ++s) {
    Stage& stage = stages_[s];
    stage.side = mask_unit_ / (model.patch_size << s);
    stage.places.resize(units_ * stage.side * stage.side);
    stage.plain = MakeWindows(s, /*shifted=*/false);
    if (model.StageShift(s) > 0) stage.shifted = MakeWindows(s, /*shifted=*/true);
    for (int index = 0; index < model.depths[s]; ++index) {
      BlockConfig config = SwinBlockConfig(model, memory, s, index, number++, prefix);
      const bool shifted = index % 2 != 0 && stage.shifted != nullptr;
      config.attention.packed = &(shifted ? stage.shifted : stage.plain)->packed();
      stage.blocks.push_back(Checkpointed(model.arch == Architecture::kSwinV2
                                              ? MakePostNormBlock(config, table)
                                              : MakePreNormBlock(config, table),
                                          config.checkpointing));
    }
    if (s + 1 < model.num_stages()) {
      stage.merging = std::make_unique<PatchMerging>(model, s, prefix, table);
    }
  }
}

std::unique_ptr<VisibleWindows> GreenEncoder::MakeWindows(int stage, bool shifted) const {
  return std::make_unique<VisibleWindows>(
      VisibleWindows::Options{.height = model_.StageH(stage),
                              .width = model_.StageW(stage),
                              .window = model_.StageWindow(stage),
                              .shift = shifted ? model_.StageShift(stage) : 0,
                              .visible = static_cast<int64_t>(stages_[stage].places.size()),
                              .channels = model_.StageDim(stage),
                              .group_size = group_size_});
}

std::vector<const VisibleWindows*> GreenEncoder::windows() const {
  std::vector<const VisibleWindows*> windows;
  for (const Stage& stage : stages_) {
    windows.push_back(stage.plain.get());
    if (stage.shifted != nullptr) windows.push_back(stage.shifted.get());
  }
  return windows;
}

void GreenEncoder::FindPlaces(const TensorView& mask) {
  const int64_t down = model_.image_h / mask_unit_, across = model_.image_w / mask_unit_;
  CHECK(mask.shape == Shape({1, down * across})) << mask.shape << ", one for all pictures";
  int64_t seen = 0;
  for (int64_t unit = 0; unit < down * across; ++unit) {
    if (mask.i32()[unit] != 0) continue;
    CHECK_LT(seen, units_) << "the mask leaves too many units";
    for (Stage& stage : stages_) {
      const int64_t side = stage.side, top = unit / across * side, left = unit % across * side;
      for (int64_t i = 0; i < side * side; ++i) {
        stage.places[seen * side * side + i] = {static_cast<int32_t>(top + i / side),
                                                static_cast<int32_t>(left + i % side)};
      }
    }
    ++seen;
  }
  CHECK_EQ(seen, units_) << "units that the mask leaves";
}

void GreenEncoder::ReadMask(const TensorView& mask, Arena& activations, const Context& context) {
  const bool dry = activations.device() == Device::kDryRun;
  const auto visible = static_cast<int64_t>(stages_[0].places.size());
  visible_ = activations.Allocate({1, visible}, DType::kI32);
  if (!dry) {
    FindPlaces(mask);
    HostElements<int32_t> patches(visible_, context);
    for (int64_t i = 0; i < visible; ++i) {
      const MapPlace& place = stages_[0].places[i];
      patches.data()[i] = static_cast<int32_t>(place.row * model_.StageW(0) + place.column);
    }
    patches.Publish();
  }
  for (Stage& stage : stages_) {
    for (VisibleWindows* windows : {stage.plain.get(), stage.shifted.get()}) {
      if (windows == nullptr) continue;
      if (!dry) windows->Pack(stage.places);
      windows->Publish(stage.places, activations, context);
    }
  }
}

TensorView GreenEncoder::Forward(const ModelInput& input, const ForwardOptions& options,
                                 ParameterAccess& access, Arena& activations, Context& context) {
  ReadMask(input.mask, activations, context);
  const int64_t batch = input.image.shape[0], side = stages_[0].side;
  TensorView x = patches_.Forward(input.image, visible_, options, access, activations, context)
                     .Reshape({batch, units_, side, side, model_.embed_dim});
  for (Stage& stage : stages_) {
    for (const auto& block : stage.blocks) {
      x = block->Forward(x, options, access, activations, context);
    }
    if (stage.merging != nullptr) {
      x = stage.merging->Forward(x, options, access, activations, context);
    }
  }
  return x;
}

TensorView GreenEncoder::StageGradient(int stage, int64_t batch, DType dtype,
                                       Arena& activations) const {
  const int64_t side = stages_[stage].side;
  return activations.Allocate({batch, units_, side, side, model_.StageDim(stage)}, dtype);
}

TensorView GreenEncoder::OutputGradient(int64_t batch, DType dtype, Arena& activations) const {
  return StageGradient(model_.num_stages() - 1, batch, dtype, activations);
}

void GreenEncoder::Backward(const TensorView& dy, const TensorView& dimage, ParameterAccess& access,
                            Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const int64_t batch = dy.shape[0];
  TensorView dx = dy;
  for (int s = model_.num_stages() - 1; s >= 0; --s) {
    if (stages_[s].merging != nullptr) {
      const TensorView dmerged = dx;
      dx = StageGradient(s, batch, dy.dtype, activations);
      stages_[s].merging->Backward(dmerged, dx, access, context);
    }
    auto& blocks = stages_[s].blocks;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      (*block)->Backward(dx, access, activations, context);
    }
  }
  patches_.Backward(dx.Reshape({batch, visible_.shape[1], model_.embed_dim}), dimage, access,
                    context);
}

GreenMim::GreenMim(const ModelConfig& model, const PretrainConfig& pretrain,
                   const MemoryConfig& memory)
    : model_(model),
      encoder_(model_, pretrain, memory, "encoder.", &parameters_),
      norm_unit_(parameters_.BeginUnit("encoder.norm")),
      norm_("encoder.norm", model.num_features(), model.layer_norm_eps, 1, &parameters_),
      decoder_(MaskedDecoder::ConfigFor(model, pretrain, memory), &parameters_) {}

Shape GreenMim::OutputShape(int64_t batch) const {
  const int64_t side = model_.patch_size << (model_.num_stages() - 1);
  return {batch, decoder_.patches(), side * side * model_.in_chans};
}

void GreenMim::MakeDecoderPlaces(Arena& activations, const Context& context) {
  const int64_t patches = decoder_.patches();
  places_.token = activations.Allocate({1, patches}, DType::kI32);
  places_.masked = activations.Allocate({1, patches}, DType::kI32);
  if (activations.device() == Device::kDryRun) return;
  HostElements<int32_t> token(places_.token, context), masked(places_.masked, context);
  std::ranges::fill(token.span(), -1);
  std::ranges::fill(masked.span(), 1);
  int32_t number = 0;
  for (const MapPlace& seen : encoder_.last_places()) {
    const int64_t place = seen.row * model_.StageW(model_.num_stages() - 1) + seen.column;
    token.data()[place] = decoder_order_.empty() ? number : decoder_order_.at(place);
    masked.data()[place] = 0;
    ++number;
  }
  token.Publish();
  masked.Publish();
}

void GreenMim::Forward(const ModelInput& input, const TensorView& output,
                       const ForwardOptions& options, ParameterAccess& access, Arena& activations,
                       Context& context) {
  const int64_t batch = input.image.shape[0];
  CHECK(input.image.shape == model_.ImageShape(batch)) << input.image.shape;
  CHECK(output.shape == OutputShape(batch)) << output.shape;
  const TensorView map = encoder_.Forward(input, options, access, activations, context);
  MakeDecoderPlaces(activations, context);
  const int64_t c = model_.num_features(), rows = map.NumElements() / c;
  x_ = map.Reshape({rows, c});
  const TensorView latent = activations.Allocate({batch, rows / batch, c}, options.dtype);
  {
    const ProfileScope profile(context, parameters_.units()[norm_unit_].name);
    const AcquiredUnit unit(parameters_, access, norm_unit_);
    norm_.Forward(unit, x_, latent.Reshape(x_.shape), {}, {}, activations, context);
  }
  if (options.capture) options.capture("latent", latent);
  decoder_.Forward(latent, places_, output, options, access, activations, context);
}

void GreenMim::Backward(const TensorView& doutput, const TensorView& dimage,
                        ParameterAccess& access, Arena& activations, Context& context) {
  ArenaScope scope(&activations);
  const int64_t batch = doutput.shape[0];
  const TensorView dmap = encoder_.OutputGradient(batch, doutput.dtype, activations);
  const TensorView dx = dmap.Reshape(x_.shape);
  decoder_.Backward(doutput, dx.Reshape({batch, x_.shape[0] / batch, x_.shape[1]}), access,
                    activations, context);
  {
    const ProfileScope profile(context, parameters_.units()[norm_unit_].name);
    const AcquiredUnit unit(parameters_, access, norm_unit_);
    norm_.Backward(unit, access.Gradient(norm_unit_), x_, {}, dx, dx, /*accumulate=*/false,
                   context);
    access.GradientReady(norm_unit_);
  }
  encoder_.Backward(dmap, dimage, access, activations, context);
}

std::vector<double> GreenMim::DropPathRates() const {
  std::vector<double> rates =
      LinearDropPathRates(std::accumulate(model_.depths.begin(), model_.depths.end(), int64_t{0}),
                          model_.drop_path_rate);
  // The decoder has none.
  rates.resize(rates.size() + decoder_.depth(), 0.0);
  return rates;
}

}  // namespace swinfleet
