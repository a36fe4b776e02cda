// Fixed position embeddings.
#ifndef SWINFLEET_CORE_NN_SIN_COS_POSITIONS_H_
#define SWINFLEET_CORE_NN_SIN_COS_POSITIONS_H_

#include <cstdint>
#include <vector>

namespace swinfleet {

// MAE's position embedding of a grid of patches (get_2d_sincos_pos_embed of its official code),
// (height * width, channels): half of the channels for the column, then half for the row, each the
// sines and then the cosines of the coordinate times 10000^(-i / (channels / 4)). With
// `class_token` a row of zeros comes first. `channels` is a multiple of 4.
std::vector<float> SinCosPositions(int64_t channels, int64_t height, int64_t width,
                                   bool class_token);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_NN_SIN_COS_POSITIONS_H_
