// The light decoder of MAE and GreenMIM: from visible tokens to the pixels of all patches.
#ifndef SWINFLEET_CORE_NN_MASKED_DECODER_H_
#define SWINFLEET_CORE_NN_MASKED_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/vit_block.h"

namespace swinfleet {

// Where the decoder puts the encoder's tokens, for each of its places: the class token's, if there
// is one, and the patches' in raster order.
struct DecoderPlaces {
  TensorView token;   // i32 (B, N), or (1, N) for all pictures alike: -1 where masked
  TensorView masked;  // i32, as token: 1 = masked
};

// forward_decoder of the official MAE. Letters: T tokens of the encoder, L patches, N places (L, or
// with a class token 1 + L), P values of a patch, (row, column, channel).
class MaskedDecoder {
 public:
  struct Config {
    // Of the encoder's tokens.
    int64_t channels = 0;
    // Patches down and across.
    int64_t grid_h = 0;
    int64_t grid_w = 0;
    bool class_token = false;
    int64_t values = 0;  // P
    int64_t depth = 0;
    // The blocks' number in the model begins here.
    int first_block = 0;
    // `tokens` is not used.
    VitConfig vit;
  };
  // What the job asks of the decoder of `model`.
  static Config ConfigFor(const ModelConfig& model, const PretrainConfig& pretrain,
                          const MemoryConfig& memory);

  MaskedDecoder(const Config& config, ParameterTable* table);

  int64_t depth() const { return config_.depth; }
  int64_t patches() const { return config_.grid_h * config_.grid_w; }
  int64_t places() const { return patches() + (config_.class_token ? 1 : 0); }

  void Forward(const TensorView& latent,  // (B, T, C)
               const DecoderPlaces& places,
               const TensorView& output,  // (B, L, P)
               const ForwardOptions& options, ParameterAccess& access, Arena& activations,
               Context& context);
  // Writes dlatent.
  void Backward(const TensorView& doutput,  // (B, L, P)
                const TensorView& dlatent,  // (B, T, C)
                ParameterAccess& access, Arena& activations, Context& context);

 private:
  // Returns (B, N, D), in `activations`.
  TensorView Embed(const TensorView& latent, ParameterAccess& access, Arena& activations,
                   Context& context);
  void EmbedBackward(const TensorView& dx, const TensorView& dlatent, ParameterAccess& access,
                     Context& context);
  void PredictBackward(const TensorView& doutput, const TensorView& dx, ParameterAccess& access,
                       Context& context);
  TensorView PatchIndex(const Context& context) const;

  const Config config_;
  const ParameterTable& table_;
  const std::vector<float> positions_;       // (N, D)
  const std::vector<int32_t> patch_places_;  // (L)
  const int embed_unit_;
  int mask_token_, embed_weight_, embed_bias_;
  std::vector<std::unique_ptr<Block>> blocks_;
  const int predict_unit_;
  LayerNorm norm_;
  int predict_weight_, predict_bias_;
  // Kept for backward.
  TensorView latent_;  // (B, T, C)
  DecoderPlaces places_;
  TensorView patches_;  // (B L, D), before the last normalisation
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_MASKED_DECODER_H_
