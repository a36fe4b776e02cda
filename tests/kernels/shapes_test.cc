// Shapes that do not fit are broken invariants: each operation must stop before it touches memory.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace swinfleet {
namespace {

// Views of one block that is large enough for all of them.
class Block {
 public:
  TensorView operator()(const Shape& shape) { return ViewOf(data_.data(), shape); }

 private:
  std::vector<float> data_ = std::vector<float>(4096);
};

struct BadCall {
  std::string name;
  std::function<void(const OpTable&, Block&, Context&)> call;
};

void AddLinear(std::vector<BadCall>* calls) {
  calls->push_back({"linear forward, another K", [](const OpTable& ops, Block& t, Context& c) {
                      ops.linear_forward(
                          {.x = t({4, 8}), .weight = t({3, 7}), .bias = t({3}), .y = t({4, 3})}, c);
                    }});
  calls->push_back({"linear forward, bias", [](const OpTable& ops, Block& t, Context& c) {
                      ops.linear_forward(
                          {.x = t({4, 8}), .weight = t({3, 8}), .bias = t({4}), .y = t({4, 3})}, c);
                    }});
  calls->push_back(
      {"linear backward input", [](const OpTable& ops, Block& t, Context& c) {
         ops.linear_backward_input({.dy = t({4, 3}), .weight = t({3, 8}), .dx = t({4, 9})}, c);
       }});
  calls->push_back({"linear backward weight", [](const OpTable& ops, Block& t, Context& c) {
                      ops.linear_backward_weight(
                          {.dy = t({4, 3}), .x = t({5, 8}), .dweight = t({3, 8}), .dbias = t({3})},
                          c);
                    }});
}

WindowAttentionForwardArgs AttentionArgs(Block& t) {
  return {.geometry = {1, 4, 4, 2, 2, 0, 0},
          .heads = 2,
          .qkv = t({1, 4, 4, 24}),
          .logit_scale = t({2}),
          .bias = t({2, 4, 4}),
          .out = t({1, 4, 4, 8}),
          .lse = t({1, 4, 4, 2}),
          .range = {}};
}

void AddAttention(std::vector<BadCall>* calls) {
  const auto forward = [calls](const std::string& what,
                               const std::function<void(WindowAttentionForwardArgs&, Block&)>& f) {
    calls->push_back({"attention forward, " + what, [f](const OpTable& ops, Block& t, Context& c) {
                        WindowAttentionForwardArgs args = AttentionArgs(t);
                        f(args, t);
                        ops.window_attention_forward(args, c);
                      }});
  };
  forward("bias of another window", [](auto& a, Block& t) { a.bias = t({2, 9, 9}); });
  forward("a shift beyond the window", [](auto& a, Block&) { a.geometry.shift_h = 2; });
  forward("another map", [](auto& a, Block&) { a.geometry.depth = 2; });
  forward("windows beyond the last", [](auto& a, Block& t) {
    a.range = {3, 2};
    a.qkv = t({2, 4, 24});
    a.out = t({2, 4, 8});
    a.lse = t({2, 4, 2});
  });
  forward("a map for a range", [](auto& a, Block&) { a.range = {0, 1}; });
  forward("padding without rows", [](auto& a, Block& t) {
    a.geometry.window_h = 3;
    a.bias = t({2, 6, 6});
    a.exclude_padding = false;
  });
  forward("out of another dtype", [](auto& a, Block&) { a.out.dtype = DType::kBF16; });
  forward("channels that heads do not divide", [](auto& a, Block& t) {
    a.heads = 3;
    a.logit_scale = t({3});
    a.bias = t({3, 4, 4});
    a.lse = t({1, 4, 4, 3});
  });
  forward("out", [](auto& a, Block& t) { a.out = t({1, 4, 4, 9}); });
  forward("lse", [](auto& a, Block& t) { a.lse = t({1, 4, 4, 1}); });
  calls->push_back({"attention backward", [](const OpTable& ops, Block& t, Context& c) {
                      const WindowAttentionForwardArgs a = AttentionArgs(t);
                      ops.window_attention_backward({.geometry = a.geometry,
                                                     .heads = a.heads,
                                                     .qkv = a.qkv,
                                                     .logit_scale = a.logit_scale,
                                                     .bias = a.bias,
                                                     .lse = a.lse,
                                                     .dout = a.out,
                                                     .dqkv = t({1, 4, 4, 8}),
                                                     .dlogit_scale = a.logit_scale,
                                                     .dbias = a.bias,
                                                     .range = {}},
                                                    c);
                    }});
}

void AddPositionBias(std::vector<BadCall>* calls) {
  calls->push_back({"position table forward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.position_table_forward({.coords = t({9, 2}),
                                                  .w1 = t({5, 2}),
                                                  .b1 = t({5}),
                                                  .w2 = t({2, 5}),
                                                  .table = t({15, 2})},
                                                 c);
                    }});
  calls->push_back({"position table backward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.position_table_backward({.coords = t({15, 2}),
                                                   .w1 = t({5, 2}),
                                                   .b1 = t({5}),
                                                   .w2 = t({2, 5}),
                                                   .dtable = t({15, 2}),
                                                   .dw1 = t({4, 2}),
                                                   .db1 = t({5}),
                                                   .dw2 = t({2, 5})},
                                                  c);
                    }});
  const auto index = [](Block& t, const Shape& shape) {
    TensorView view = t(shape);
    view.dtype = DType::kI32;
    return view;
  };
  calls->push_back({"bias gather", [index](const OpTable& ops, Block& t, Context& c) {
                      ops.bias_gather({.table = t({15, 2}),
                                       .index = index(t, {1, 4, 4}),
                                       .mask = {},
                                       .bias = t({1, 3, 4, 4})},
                                      c);
                    }});
  calls->push_back(
      {"bias scatter, indices that are none", [](const OpTable& ops, Block& t, Context& c) {
         ops.bias_scatter({.dbias = t({1, 2, 4, 4}), .index = t({1, 4, 4}), .dtable = t({15, 2})},
                          c);
       }});
}

void AddWindowRows(std::vector<BadCall>* calls) {
  calls->push_back(
      {"window gather", [](const OpTable& ops, Block& t, Context& c) {
         ops.window_gather({{1, 5, 4, 2, 2, 0, 0}, {0, 2}, t({1, 4, 4, 3}), t({2, 4, 3})}, c);
       }});
  calls->push_back(
      {"window scatter", [](const OpTable& ops, Block& t, Context& c) {
         ops.window_scatter({{1, 4, 4, 2, 2, 0, 0}, {0, 2}, t({3, 4, 3}), t({1, 4, 4, 3})}, c);
       }});
}

void AddNormAndGelu(std::vector<BadCall>* calls) {
  calls->push_back({"layer norm forward, gamma", [](const OpTable& ops, Block& t, Context& c) {
                      ops.layer_norm_forward({.x = t({4, 8}),
                                              .gamma = t({7}),
                                              .beta = t({8}),
                                              .residual = {},
                                              .scale = {},
                                              .y = t({4, 8}),
                                              .mean = t({4}),
                                              .rstd = t({4})},
                                             c);
                    }});
  calls->push_back({"layer norm forward, pictures that rows do not fill",
                    [](const OpTable& ops, Block& t, Context& c) {
                      ops.layer_norm_forward({.x = t({4, 8}),
                                              .gamma = t({8}),
                                              .beta = t({8}),
                                              .residual = t({4, 8}),
                                              .scale = t({3}),
                                              .y = t({4, 8}),
                                              .mean = t({4}),
                                              .rstd = t({4})},
                                             c);
                    }});
  calls->push_back({"layer norm forward, residual", [](const OpTable& ops, Block& t, Context& c) {
                      ops.layer_norm_forward({.x = t({4, 8}),
                                              .gamma = t({8}),
                                              .beta = t({8}),
                                              .residual = t({3, 8}),
                                              .scale = {},
                                              .y = t({4, 8}),
                                              .mean = t({4}),
                                              .rstd = t({4})},
                                             c);
                    }});
  calls->push_back({"layer norm backward, beta", [](const OpTable& ops, Block& t, Context& c) {
                      ops.layer_norm_backward({.x = t({4, 8}),
                                               .gamma = t({8}),
                                               .mean = t({4}),
                                               .rstd = t({4}),
                                               .scale = {},
                                               .dy = t({4, 8}),
                                               .dx = t({4, 8}),
                                               .dgamma = t({8}),
                                               .dbeta = t({7})},
                                              c);
                    }});
  calls->push_back({"layer norm backward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.layer_norm_backward({.x = t({4, 8}),
                                               .gamma = t({8}),
                                               .mean = t({4}),
                                               .rstd = t({4}),
                                               .scale = {},
                                               .dy = t({4, 8}),
                                               .dx = t({5, 8}),
                                               .dgamma = t({8}),
                                               .dbeta = t({8})},
                                              c);
                    }});
  calls->push_back({"gelu forward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.gelu_forward({.x = t({4, 8}), .y = t({4, 7})}, c);
                    }});
  calls->push_back(
      {"gelu backward", [](const OpTable& ops, Block& t, Context& c) {
         ops.gelu_backward(
             {.x = t({4, 8}), .dy = t({4, 8}), .dx = t({4, 8}), .y = t({3, 8}), .dbias = {}}, c);
       }});
}

void AddPatches(std::vector<BadCall>* calls) {
  calls->push_back({"patch gather, row length", [](const OpTable& ops, Block& t, Context& c) {
                      ops.patch_gather({.image = t({1, 2, 4, 4}),
                                        .patch_h = 2,
                                        .patch_w = 2,
                                        .first_row = 0,
                                        .rows = t({4, 9})},
                                       c);
                    }});
  calls->push_back({"patch gather, too many rows", [](const OpTable& ops, Block& t, Context& c) {
                      ops.patch_gather({.image = t({1, 2, 4, 4}),
                                        .patch_h = 2,
                                        .patch_w = 2,
                                        .first_row = 2,
                                        .rows = t({3, 8})},
                                       c);
                    }});
  calls->push_back({"patch scatter", [](const OpTable& ops, Block& t, Context& c) {
                      ops.patch_scatter({.rows = t({4, 8}),
                                         .patch_h = 3,
                                         .patch_w = 2,
                                         .first_row = 0,
                                         .image = t({1, 2, 4, 4})},
                                        c);
                    }});
  calls->push_back(
      {"patch embedding forward, channels", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_forward(
             {.image = t({1, 3, 4, 4}), .weight = t({5, 2, 2, 2}), .bias = t({5}), .y = t({4, 5})},
             c);
       }});
  calls->push_back(
      {"patch embedding forward, tokens", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_forward(
             {.image = t({1, 3, 4, 5}), .weight = t({5, 3, 2, 2}), .bias = t({5}), .y = t({4, 5})},
             c);
       }});
  calls->push_back(
      {"patch embedding forward, bias", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_forward(
             {.image = t({1, 3, 4, 4}), .weight = t({5, 3, 2, 2}), .bias = t({4}), .y = t({4, 5})},
             c);
       }});
  calls->push_back(
      {"patch embedding backward, dweight", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_backward({.image = t({1, 3, 4, 4}),
                                       .weight = t({5, 3, 2, 2}),
                                       .dy = t({4, 5}),
                                       .dweight = t({5, 3, 4}),
                                       .dbias = t({5}),
                                       .dimage = {}},
                                      c);
       }});
  calls->push_back(
      {"patch embedding backward, dimage", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_backward({.image = t({1, 3, 4, 4}),
                                       .weight = t({5, 3, 2, 2}),
                                       .dy = t({4, 5}),
                                       .dweight = t({5, 3, 2, 2}),
                                       .dbias = t({5}),
                                       .dimage = t({1, 3, 4, 5})},
                                      c);
       }});
  calls->push_back(
      {"merge gather, row length", [](const OpTable& ops, Block& t, Context& c) {
         ops.merge_gather({.x = t({1, 3, 4, 2}), .first_row = 0, .rows = t({2, 7})}, c);
       }});
  calls->push_back(
      {"merge scatter, too many rows", [](const OpTable& ops, Block& t, Context& c) {
         ops.merge_scatter({.rows = t({4, 8}), .first_row = 1, .x = t({1, 4, 4, 2})}, c);
       }});
}

void AddPoolAndLoss(std::vector<BadCall>* calls) {
  calls->push_back({"mean pool forward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.mean_pool_forward({.x = t({2, 3, 4}), .y = t({2, 5})}, c);
                    }});
  calls->push_back({"mean pool backward", [](const OpTable& ops, Block& t, Context& c) {
                      ops.mean_pool_backward({.dy = t({3, 4}), .dx = t({2, 3, 4})}, c);
                    }});
  calls->push_back({"cross entropy, target", [](const OpTable& ops, Block& t, Context& c) {
                      ops.cross_entropy({.logits = t({2, 5}),
                                         .target = t({2, 4}),
                                         .loss = t({2}),
                                         .dlogits = {},
                                         .grad_scale = 1},
                                        c);
                    }});
  calls->push_back({"cross entropy, loss", [](const OpTable& ops, Block& t, Context& c) {
                      ops.cross_entropy({.logits = t({2, 5}),
                                         .target = t({2, 5}),
                                         .loss = t({1}),
                                         .dlogits = {},
                                         .grad_scale = 1},
                                        c);
                    }});
}

void AddElementwise(std::vector<BadCall>* calls) {
  calls->push_back({"add", [](const OpTable& ops, Block& t, Context& c) {
                      ops.add({.x = t({5}), .y = t({4})}, c);
                    }});
  calls->push_back({"add broadcast", [](const OpTable& ops, Block& t, Context& c) {
                      ops.add_broadcast({.x = t({5}), .y = t({2, 4})}, c);
                    }});
  calls->push_back({"sum broadcast", [](const OpTable& ops, Block& t, Context& c) {
                      ops.sum_broadcast({.dy = t({2, 4}), .dx = t({3})}, c);
                    }});
  calls->push_back(
      {"adamw", [](const OpTable& ops, Block& t, Context& c) {
         ops.adamw({.param = t({5}), .grad = t({5}), .m = t({5}), .v = t({4}), .master = {}}, c);
       }});
  calls->push_back({"sgd", [](const OpTable& ops, Block& t, Context& c) {
                      ops.sgd({.param = t({5}), .grad = t({6}), .momentum = t({5}), .master = {}},
                              c);
                    }});
}

TensorView As(TensorView view, DType dtype) {
  view.dtype = dtype;
  return view;
}

void AddTokens(std::vector<BadCall>* calls) {
  calls->push_back({"pad, channels", [](const OpTable& ops, Block& t, Context& c) {
                      ops.pad({.x = t({1, 1, 3, 4, 2}), .y = t({1, 1, 4, 4, 3})}, c);
                    }});
  calls->push_back(
      {"token gather, index", [](const OpTable& ops, Block& t, Context& c) {
         ops.token_gather(
             {.x = t({3, 4, 2}), .index = As(t({2, 2}), DType::kI32), .y = t({3, 2, 2})}, c);
       }});
  calls->push_back(
      {"token gather, beyond the tokens", [](const OpTable& ops, Block& t, Context& c) {
         TensorView index = As(t({1, 1}), DType::kI32);
         index.i32()[0] = 4;
         ops.token_gather({.x = t({1, 4, 2}), .index = index, .y = t({1, 1, 2})}, c);
       }});
  calls->push_back(
      {"token scatter", [](const OpTable& ops, Block& t, Context& c) {
         ops.token_scatter(
             {.y = t({1, 2, 3}), .index = As(t({1, 2}), DType::kI32), .x = t({1, 4, 2})}, c);
       }});
  calls->push_back({"residual add", [](const OpTable& ops, Block& t, Context& c) {
                      ops.residual_add(
                          {.x = t({4, 3}), .branch = t({4, 3}), .scale = t({3}), .y = t({4, 3})},
                          c);
                    }});
  calls->push_back({"scale rows", [](const OpTable& ops, Block& t, Context& c) {
                      ops.scale_rows({.x = t({4, 3}), .scale = t({2}), .y = t({3, 4})}, c);
                    }});
  calls->push_back({"cast", [](const OpTable& ops, Block& t, Context& c) {
                      ops.cast({.x = t({4}), .y = t({3})}, c);
                    }});
  calls->push_back(
      {"add compensated", [](const OpTable& ops, Block& t, Context& c) {
         ops.add_compensated(
             {.x = t({4}), .sum = As(t({4}), DType::kBF16), .error = As(t({3}), DType::kBF16)}, c);
       }});
}

// Dtypes that a call does not allow beside each other.
void AddDtypes(std::vector<BadCall>* calls) {
  constexpr DType kHalf = DType::kBF16;
  calls->push_back({"linear forward, dtypes", [](const OpTable& ops, Block& t, Context& c) {
                      ops.linear_forward({.x = As(t({4, 8}), kHalf),
                                          .weight = t({3, 8}),
                                          .bias = {},
                                          .y = As(t({4, 3}), kHalf)},
                                         c);
                    }});
  calls->push_back({"linear backward weight, dtypes", [](const OpTable& ops, Block& t, Context& c) {
                      ops.linear_backward_weight({.dy = As(t({4, 3}), kHalf),
                                                  .x = As(t({4, 8}), kHalf),
                                                  .dweight = As(t({3, 8}), kHalf),
                                                  .dbias = {}},
                                                 c);
                    }});
  calls->push_back({"gelu forward, dtypes", [](const OpTable& ops, Block& t, Context& c) {
                      ops.gelu_forward({.x = t({4, 8}), .y = As(t({4, 8}), kHalf)}, c);
                    }});
  calls->push_back({"add, dtypes", [](const OpTable& ops, Block& t, Context& c) {
                      ops.add({.x = t({5}), .y = As(t({5}), kHalf)}, c);
                    }});
  calls->push_back({"patch gather, dtypes", [](const OpTable& ops, Block& t, Context& c) {
                      ops.patch_gather({.image = As(t({1, 2, 4, 4}), kHalf),
                                        .patch_h = 2,
                                        .patch_w = 2,
                                        .first_row = 0,
                                        .rows = t({4, 8})},
                                       c);
                    }});
  calls->push_back(
      {"patch embedding of an image in 16 bits", [](const OpTable& ops, Block& t, Context& c) {
         ops.patch_embedding_forward({.image = As(t({1, 3, 4, 4}), kHalf),
                                      .weight = As(t({5, 3, 2, 2}), kHalf),
                                      .bias = t({5}),
                                      .y = As(t({4, 5}), kHalf)},
                                     c);
       }});
  calls->push_back({"fill of integers", [](const OpTable& ops, Block& t, Context& c) {
                      ops.fill({.x = As(t({5}), DType::kI32), .value = 1}, c);
                    }});
  calls->push_back(
      {"adamw without a master", [](const OpTable& ops, Block& t, Context& c) {
         ops.adamw(
             {.param = As(t({5}), kHalf), .grad = t({5}), .m = t({5}), .v = t({5}), .master = {}},
             c);
       }});
  calls->push_back(
      {"adamw with moments of two dtypes", [](const OpTable& ops, Block& t, Context& c) {
         ops.adamw(
             {.param = t({5}), .grad = t({5}), .m = As(t({5}), kHalf), .v = t({5}), .master = {}},
             c);
       }});
  calls->push_back(
      {"sgd with a master of another dtype", [](const OpTable& ops, Block& t, Context& c) {
         ops.sgd({.param = As(t({5}), kHalf), .grad = t({5}), .momentum = t({5}), .master = t({5})},
                 c);
       }});
}

void RunBad(const BadCall& bad) {
  Block block;
  Arena workspace = Arena::OnHost("workspace", 1 << 20);
  Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 1, .count = nullptr};
  bad.call(CpuOps(), block, context);
}

using ShapesDeathTest = ::testing::Test;

TEST(ShapesDeathTest, ThatDoNotFitAreBrokenInvariants) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  std::vector<BadCall> calls;
  AddLinear(&calls);
  AddAttention(&calls);
  AddPositionBias(&calls);
  AddWindowRows(&calls);
  AddNormAndGelu(&calls);
  AddPatches(&calls);
  AddPoolAndLoss(&calls);
  AddElementwise(&calls);
  AddTokens(&calls);
  AddDtypes(&calls);
  for (const BadCall& bad : calls) {
    SCOPED_TRACE(bad.name);
    EXPECT_DEATH(RunBad(bad), "Check failed");
  }
}

}  // namespace
}  // namespace swinfleet
