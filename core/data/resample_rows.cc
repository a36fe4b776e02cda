#include "core/data/resample_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/data/resample_rows.cc"
// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <glog/logging.h>

#include <algorithm>
#include <cstring>

#include "core/data/resample.h"

HWY_BEFORE_NAMESPACE();
namespace swinfleet::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kBits = ResampleWeights::kBits;
// Bytes of a packed pixel.
constexpr int64_t kPixel = 4;

// Sums of a number of pixels' channels; as many bytes.
using Sums = hn::CappedTag<int32_t, 16>;
using Bytes = hn::Rebind<uint8_t, Sums>;

// Rounds and cuts off at 0 and 255, as the demotion does.
HWY_INLINE hn::Vec<Bytes> Clipped(hn::Vec<Sums> sum) {
  return hn::DemoteTo(Bytes(), hn::ShiftRight<kBits>(sum));
}

HWY_INLINE hn::Vec<Sums> Half() { return hn::Set(Sums(), 1 << (kBits - 1)); }

// sum += bytes * weight
HWY_INLINE hn::Vec<Sums> AddWeighted(hn::Vec<Sums> sum, const uint8_t* bytes, int32_t weight) {
  const Sums d;
  const auto wide = hn::PromoteTo(d, hn::LoadU(Bytes(), bytes));
  return hn::Add(sum, hn::Mul(wide, hn::Set(d, weight)));
}

// Bytes of a packed column: a pixel of each row of a group. Of sets without vectors more than one
// number is a pixel.
HWY_INLINE int64_t ColumnBytes() {
  return std::max(static_cast<int64_t>(hn::Lanes(Sums())), kPixel);
}

// Rows are taken in groups that fill a vector with a pixel of each: (pixels, rows of the group, 4
// bytes). What a pixel lacks of 4 channels is whatever was there, and goes nowhere.
template <int64_t kChannels>
void ResampleGroup(const uint8_t* in, int64_t stride, int64_t rows, const ResampleWeights& weights,
                   uint8_t* packed, uint8_t* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Sums()));
  const int64_t column = ColumnBytes();
  const int64_t begin = weights.first.front();
  const int64_t end = weights.first.back() + weights.count.back();
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* pixel = in + row * stride + begin * kChannels;
    uint8_t* to = packed + row * kPixel;
    for (int64_t x = begin; x < end; ++x, pixel += kChannels, to += column) {
      std::memcpy(to, pixel, kChannels);
    }
  }
  const auto size = static_cast<int64_t>(weights.first.size());
  uint8_t result[std::max<size_t>(hn::MaxLanes(Bytes()), kPixel)];
  for (int64_t x = 0; x < size; ++x) {
    const int32_t* weight = weights.weight.data() + x * weights.most;
    const uint8_t* pixels = packed + (weights.first[x] - begin) * column;
    for (int64_t part = 0; part < column; part += lanes) {
      hn::Vec<Sums> sum = Half();
      for (int64_t k = 0; k < weights.count[x]; ++k) {
        sum = AddWeighted(sum, pixels + k * column + part, weight[k]);
      }
      hn::StoreU(Clipped(sum), Bytes(), result + part);
    }
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(out + (row * size + x) * kChannels, result + row * kPixel, kChannels);
    }
  }
}

void AlongRows(const PixelRows& in, int64_t channels, const ResampleWeights& weights,
               std::vector<uint8_t>* packed, uint8_t* out) {
  using Group =
      void (*)(const uint8_t*, int64_t, int64_t, const ResampleWeights&, uint8_t*, uint8_t*);
  static constexpr Group kGroups[] = {ResampleGroup<1>, ResampleGroup<2>, ResampleGroup<3>,
                                      ResampleGroup<4>};
  const int64_t group = ColumnBytes() / kPixel;
  const int64_t pixels = weights.first.back() + weights.count.back() - weights.first.front();
  packed->resize(pixels * ColumnBytes());
  const int64_t row_bytes = static_cast<int64_t>(weights.first.size()) * channels;
  for (int64_t row = 0; row < in.rows; row += group) {
    kGroups[channels - 1](in.first + row * in.stride, in.stride, std::min(group, in.rows - row),
                          weights, packed->data(), out + row * row_bytes);
  }
}

void Sum(const PixelRows& in, const int32_t* weight, int64_t bytes, uint8_t* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Sums()));
  int64_t x = 0;
  for (; x + lanes <= bytes; x += lanes) {
    hn::Vec<Sums> sum = Half();
    for (int64_t k = 0; k < in.rows; ++k) {
      sum = AddWeighted(sum, in.first + k * in.stride + x, weight[k]);
    }
    hn::StoreU(Clipped(sum), Bytes(), out + x);
  }
  for (; x < bytes; ++x) {
    int32_t sum = 1 << (kBits - 1);
    for (int64_t k = 0; k < in.rows; ++k) sum += in.first[k * in.stride + x] * weight[k];
    out[x] = static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255));
  }
}

}  // namespace swinfleet::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {
namespace {

HWY_EXPORT(AlongRows);
HWY_EXPORT(Sum);

}  // namespace

void ResampleAlongRows(const PixelRows& in, int64_t channels, const ResampleWeights& weights,
                       std::vector<uint8_t>* packed, uint8_t* out) {
  CHECK(channels >= 1 && channels <= 4) << channels;
  HWY_DYNAMIC_DISPATCH(AlongRows)(in, channels, weights, packed, out);
}

void SumRows(const PixelRows& in, std::span<const int32_t> weight, int64_t bytes, uint8_t* out) {
  CHECK_EQ(static_cast<int64_t>(weight.size()), in.rows);
  HWY_DYNAMIC_DISPATCH(Sum)(in, weight.data(), bytes, out);
}

}  // namespace swinfleet
#endif  // HWY_ONCE
