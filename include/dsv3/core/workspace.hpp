// Floor 0. Workspace: scratch memory that is taken and given back in stack order, so that steady-state decoding allocates nothing.
//
// One thread owns a workspace. A parallel loop takes scratch for all its workers before it starts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "dsv3/core/matrix.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dsv3::inline DSV3_ISA {

class Workspace {
 public:
  /// Memory taken through a scope returns to the workspace when the scope ends.
  class [[nodiscard]] Scope {
   public:
    explicit Scope(Workspace& w) : workspace_(w), chunk_(w.chunk_), used_(w.used_) { ++w.depth_; }
    ~Scope() {
      workspace_.chunk_ = chunk_;
      workspace_.used_ = used_;
      if (--workspace_.depth_ == 0) workspace_.merge_chunks();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    /// `n` value-initialised objects.
    template <class T>
    std::span<T> array(Index n) {
      static_assert(std::is_trivially_destructible_v<T>, "a workspace runs no destructors");
      T* data = reinterpret_cast<T*>(workspace_.take(static_cast<std::size_t>(n) * sizeof(T)));
      std::uninitialized_value_construct_n(data, n);
      return {data, static_cast<std::size_t>(n)};
    }
    /// Elements [rows, cols] with undefined values, 64-byte aligned.
    template <class T>
    MatrixView<T> matrix(Index rows, Index cols) {
      static_assert(std::is_trivial_v<T>);
      return {reinterpret_cast<T*>(workspace_.take(static_cast<std::size_t>(rows * cols) * sizeof(T))), rows, cols};
    }

    /// `bytes` bytes of memory at an address that is a multiple of `unit`.
    std::byte* aligned(Index bytes, std::size_t unit) {
      std::byte* p = workspace_.take(static_cast<std::size_t>(bytes) + unit);
      return p + (unit - reinterpret_cast<std::uintptr_t>(p) % unit) % unit;
    }

   private:
    Workspace& workspace_;
    std::size_t chunk_, used_;
  };

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Bytes held, in use or not.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Chunk& c : chunks_) total += c.size;
    return total;
  }

 private:
  static constexpr std::size_t alignment = 64, smallest_chunk = std::size_t{1} << 16, huge_page = std::size_t{1} << 21;

  struct Free {
    std::align_val_t alignment;
    void operator()(std::byte* p) const { ::operator delete(p, alignment); }
  };
  struct Chunk {
    std::unique_ptr<std::byte, Free> data;
    std::size_t size;
  };

  std::byte* take(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    while (chunk_ < chunks_.size() && chunks_[chunk_].size - used_ < bytes) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) add_chunk(std::max({bytes, smallest_chunk, capacity()}));
    std::byte* p = chunks_[chunk_].data.get() + used_;
    used_ += bytes;
    return p;
  }

  // Large chunks ask for huge pages: products of many rows touch more 4 KiB pages than the TLB holds.
  void add_chunk(std::size_t size) {
    const bool huge = size >= huge_page;
    if (huge) size = (size + huge_page - 1) / huge_page * huge_page;
    const Free free{std::align_val_t(huge ? huge_page : alignment)};
    chunks_.push_back({std::unique_ptr<std::byte, Free>(static_cast<std::byte*>(::operator new(size, free.alignment)), free), size});
#ifdef __linux__
    if (huge) madvise(chunks_.back().data.get(), size, MADV_HUGEPAGE);
#endif
  }

  // Replaces all chunks by one of their total size, so that steps no larger than the largest so far allocate nothing.
  void merge_chunks() {
    if (chunks_.size() < 2) return;
    const std::size_t total = capacity();
    chunks_.clear();
    try {
      add_chunk(total);
    } catch (const std::bad_alloc&) {  // called by a destructor, so it must not throw; the next step allocates again
    }
  }

  std::vector<Chunk> chunks_;
  std::size_t chunk_ = 0, used_ = 0;
  int depth_ = 0;
};

}  // namespace dsv3::inline DSV3_ISA
