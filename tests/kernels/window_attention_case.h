// Window attention as cases of op_check.h, for its two tests.
#ifndef SWINFLEET_TESTS_KERNELS_WINDOW_ATTENTION_CASE_H_
#define SWINFLEET_TESTS_KERNELS_WINDOW_ATTENTION_CASE_H_

#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {

struct AttentionSize {
  reference::WindowAttention shape;
  // With a logit scale, or plain q k / sqrt(D).
  bool cosine = true;
  // With a bias; of rank 4 where shape.biases > 1.
  bool bias = true;
  DType dtype = DType::kF32;
};

// Of the tensors: rows of a range, or of the map.
int64_t RowsOf(const AttentionSize& s);
std::string Name(const AttentionSize& s);
WindowGeometry Geometry(const reference::Windows& w);

// Numbers that the size's dtype holds exactly; logit_scale and bias are absent where it has none.
struct AttentionData {
  Floats qkv, logit_scale, bias, dout;
};

// Soft probabilities, and values and gradients that go along with keys and queries, so that little
// of the scores' gradients cancels. With several heads the first one's scale lies above the clamp.
// Rows of excluded padding hold what would dominate, were they looked at.
AttentionData MakeData(const AttentionSize& s, uint64_t seed);

OpCase AttentionForward(const AttentionSize& s, const AttentionData& data);
// In place, the gradient of qkv takes its memory.
OpCase AttentionBackward(const AttentionSize& s, const AttentionData& data, bool in_place = false);

// Forward and backward, also in place, on data that `change` has made special.
void CheckAttention(
    const AttentionSize& s,
    const std::function<void(AttentionData*)>& change = [](AttentionData*) {});

// Compares the reference's gradients with differences of its forward.
void CheckReferenceGradients(const AttentionSize& s, const AttentionData& data);

}  // namespace swinfleet::testing

#endif  // SWINFLEET_TESTS_KERNELS_WINDOW_ATTENTION_CASE_H_
