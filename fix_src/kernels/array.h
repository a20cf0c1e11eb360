// Memory of the kernels. Compiled for each set of instructions, see network_impl.h.

#ifndef TRAJCAST_ARRAY_H
#define TRAJCAST_ARRAY_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Memory of numbers, aligned to cache lines and padded with zeros.
template <typename T> class Array {
public:
  Array() = default;
  explicit Array(std::size_t size) { resize(size); }
  Array(Array &&other) noexcept : values(other.values), count(other.count) {
    other.values = nullptr;
    other.count = 0;
  }
  Array &operator=(Array &&other) noexcept {
    std::swap(values, other.values);
    std::swap(count, other.count);
    return *this;
  }
  ~Array() { std::free(values); }

  // What was stored is lost.
  void resize(std::size_t size) {
    std::free(values);
    count = 0;
    const std::size_t bytes = (size * sizeof(T) + 2 * 64 - 1) / 64 * 64;
    values = static_cast<T *>(std::aligned_alloc(64, bytes));
    if (!values)
      throw std::bad_alloc();
    std::memset(static_cast<void *>(values), 0, bytes);
    count = size;
  }
  T *data() const { return values; }
  std::size_t size() const { return count; }
  int64_t bytes() const { return static_cast<int64_t>(count * sizeof(T)); }

private:
  T *values = nullptr;
  std::size_t count = 0;
};

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
