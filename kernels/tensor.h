// Non-owning views of tensors. Memory belongs to arenas (kernels/arena.h) or to the caller.
#ifndef SWINFLEET_KERNELS_TENSOR_H_
#define SWINFLEET_KERNELS_TENSOR_H_

#include <glog/logging.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace swinfleet {

// kI32: indices and masks. kU16: the lower halves of float32 numbers whose upper halves are
// bfloat16 (see AdamWArgs).
enum class DType { kF32, kBF16, kF16, kI32, kU16 };

// Bytes of one element.
constexpr size_t SizeOf(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2;
}

// "float32", "bfloat16", ...
constexpr const char* NameOf(DType dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "int32", "uint16"};
  return kNames[static_cast<int>(dtype)];
}

enum class Device {
  kCpu,
  kCuda,
  // Allocates nothing and runs nothing; counts bytes and FLOPs.
  kDryRun
};

// Up to six dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    CHECK_LE(dims.size(), static_cast<size_t>(kMaxRank));
    for (int64_t d : dims) Append(d);
  }
  void Append(int64_t dim) {
    CHECK_LT(rank_, kMaxRank);
    CHECK_GE(dim, 0);
    dims_[rank_++] = dim;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t NumElements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape& other) const { return rank_ == other.rank_ && dims_ == other.dims_; }
  // As "(8, 64, 64, 96)".
  std::string ToString() const {
    std::string text = "(";
    for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
    return text + ")";
  }

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.ToString();
}

// A dense row-major tensor that somebody else owns. A default-made view is empty: "absent" where an
// operation's argument is optional.
struct TensorView {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;

  bool empty() const { return data == nullptr; }
  int64_t NumElements() const { return shape.NumElements(); }
  size_t Bytes() const { return static_cast<size_t>(NumElements()) * SizeOf(dtype); }

  float* f32() const {
    DCHECK(dtype == DType::kF32);
    return static_cast<float*>(data);
  }
  int32_t* i32() const {
    DCHECK(dtype == DType::kI32);
    return static_cast<int32_t*>(data);
  }
  // The bits of 16-bit elements, whatever they mean.
  uint16_t* u16() const {
    DCHECK(SizeOf(dtype) == 2);
    return static_cast<uint16_t*>(data);
  }
  // The elements of a float32 tensor in host memory.
  std::span<float> span() const {
    CHECK(dtype == DType::kF32 && device != Device::kDryRun);
    return {static_cast<float*>(data), static_cast<size_t>(NumElements())};
  }
  // The same memory under another shape of as many elements.
  TensorView Reshape(const Shape& other) const {
    CHECK_EQ(other.NumElements(), NumElements()) << shape << " to " << other;
    TensorView view = *this;
    view.shape = other;
    return view;
  }
  // Rows [begin, begin + count) of the outermost dimension.
  TensorView Rows(int64_t begin, int64_t count) const {
    CHECK(shape.rank() > 0 && begin >= 0 && count >= 0 && begin + count <= shape[0])
        << "rows " << begin << "+" << count << " of " << shape;
    const int64_t row = shape[0] == 0 ? 0 : NumElements() / shape[0];
    TensorView view = *this;
    view.data = static_cast<char*>(data) + begin * row * static_cast<int64_t>(SizeOf(dtype));
    view.shape = Shape{count};
    for (int i = 1; i < shape.rank(); ++i) view.shape.Append(shape[i]);
    return view;
  }
};

// A float32 view of host memory.
inline TensorView ViewOf(float* data, const Shape& shape, Device device = Device::kCpu) {
  return TensorView{data, shape, DType::kF32, device};
}

// An int32 view of host memory.
inline TensorView ViewOf(int32_t* data, const Shape& shape, Device device = Device::kCpu) {
  return TensorView{data, shape, DType::kI32, device};
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_TENSOR_H_
