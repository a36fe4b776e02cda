// GreenMIM: masked image modelling where a Swin Transformer computes visible patches alone (Huang
// et al. 2022, "Green Hierarchical Vision Transformer for Masked Image Modeling", arXiv
// 2205.13515).
//
// Mask units are whole tokens of the last stage and the same for all pictures of a micro-batch. So
// a unit stays whole through the mergings, and the visible tokens of a stage are (B, U, m, m, C): U
// visible units in raster order, each a small map of m x m tokens. Merging patches is then what it
// is on maps; attention finds its windows by PackedWindows.
#ifndef SWINFLEET_CORE_NN_GREEN_MIM_H_
#define SWINFLEET_CORE_NN_GREEN_MIM_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/masked_decoder.h"
#include "core/nn/patch_merging.h"
#include "core/nn/visible_patches.h"
#include "core/nn/window_grouping.h"

namespace swinfleet {

// The body of a Swin Transformer, V1 or V2, on visible tokens.
class GreenEncoder {
 public:
  GreenEncoder(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory,
               const std::string& prefix, ParameterTable* table);

  // Returns the last stage's visible tokens, (B, U, m, m, C), not normalised.
  TensorView Forward(const ModelInput& input, const ForwardOptions& options,
                     ParameterAccess& access, Arena& activations, Context& context);
  // Memory for the gradient of what Forward returns; Backward takes it back.
  TensorView OutputGradient(int64_t batch, DType dtype, Arena& activations) const;
  // dy is overwritten.
  void Backward(const TensorView& dy, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context);

  // Where the last stage's visible tokens are; of the latest Forward.
  std::span<const MapPlace> last_places() const { return stages_.back().places; }
  // How the tokens of each stage attend, plain and then, where windows are shifted, shifted.
  std::vector<const VisibleWindows*> windows() const;

 private:
  struct Stage {
    // Side of a unit in tokens.
    int64_t side = 0;
    std::vector<MapPlace> places;
    std::unique_ptr<VisibleWindows> plain, shifted;
    std::vector<std::unique_ptr<Block>> blocks;
    // After the stage's blocks; absent in the last.
    std::unique_ptr<PatchMerging> merging;
  };

  // The windows of a stage's blocks, shifted or not.
  std::unique_ptr<VisibleWindows> MakeWindows(int stage, bool shifted) const;
  // Works out all that follows from the mask, and writes it to `activations`.
  void ReadMask(const TensorView& mask, Arena& activations, const Context& context);
  void FindPlaces(const TensorView& mask);
  TensorView StageGradient(int stage, int64_t batch, DType dtype, Arena& activations) const;

  const ModelConfig& model_;
  const int64_t mask_unit_, group_size_;
  const int64_t units_;  // visible ones
  VisiblePatches patches_;
  std::vector<Stage> stages_;
  // Kept for backward.
  TensorView visible_;  // i32 (1, V): patches of the picture, in the order of the first stage
};

// Its output is a prediction of all tokens of the last stage, as patches of pixels: (B, L, side *
// side * in_chans), with L tokens in raster order, each (row, column, channel).
class GreenMim : public Model {
 public:
  GreenMim(const ModelConfig& model, const PretrainConfig& pretrain, const MemoryConfig& memory);

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override;
  void Forward(const ModelInput& input, const TensorView& output, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override;
  void Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override;
  std::vector<double> DropPathRates() const override;

  const GreenEncoder& encoder() const { return encoder_; }
  // Which of the encoder's tokens the decoder puts in each of its L places, in place of the token
  // that was seen there: the official code may permute them. Masked places are not read.
  void set_decoder_order(std::vector<int32_t> order) { decoder_order_ = std::move(order); }

 private:
  void MakeDecoderPlaces(Arena& activations, const Context& context);

  const ModelConfig model_;
  ParameterTable parameters_;
  GreenEncoder encoder_;
  const int norm_unit_;
  LayerNorm norm_;
  MaskedDecoder decoder_;
  std::vector<int32_t> decoder_order_;
  // Kept for backward.
  DecoderPlaces places_;
  TensorView x_;  // (B V, C), the encoder's tokens before the last normalisation
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_GREEN_MIM_H_
