// A model of a preset's shape with random weights: speed does not depend on the weights' values.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <memory>

#include "dsv3/dsv3.hpp"
#include "dsv3/generate/random.hpp"

namespace bench {

using dsv3::Index;

enum class StorageKind { fp8, bf16 };

/// Anonymous memory, in huge pages if the system provides them. Its pages are first touched by the threads of the context that fills it.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    dsv3::require(p != MAP_FAILED, "random model: cannot reserve ", bytes, " bytes");
    madvise(p, bytes, MADV_HUGEPAGE);
    data_ = static_cast<std::uint8_t*>(p);
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// The next `n` bytes, aligned to 64 bytes but not to pages, like tensors in a file.
  std::uint8_t* take(std::size_t n) {
    dsv3::require(used_ + n <= bytes_, "random model: ", bytes_, " bytes are not enough");
    std::uint8_t* p = data_ + used_;
    used_ = (used_ + n + 63) / 64 * 64;
    return p;
  }
  std::span<const std::uint8_t> used() const { return {data_, used_}; }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t bytes_, used_ = 0;
};

/// Fills p with pattern(random bits), eight bytes at a time.
template <class Pattern>
void fill(dsv3::Context& ctx, std::uint8_t* p, Index bytes, std::uint64_t seed, Pattern&& pattern) {
  constexpr Index piece = Index{1} << 20;
  ctx.parallel_for((bytes + piece - 1) / piece, [&](Index i, int) {
    std::uint64_t state = seed + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u;
    for (Index k = i * piece; k < std::min(bytes, (i + 1) * piece); k += 8) {
      state += 0x9e3779b97f4a7c15u;
      const std::uint64_t z = pattern(dsv3::sampling::hash64(state));
      std::memcpy(p + k, &z, static_cast<std::size_t>(std::min(Index{8}, bytes - k)));
    }
  });
}

/// Bytes that a weight takes: codes, and scales if it has any.
template <class P>
Index stored_bytes(const dsv3::WeightMatrix<P>& w) {
  return dsv3::visit_weight(w.view, [&]<class V>(const V& v) {
    const Index codes = v.rows * v.cols * static_cast<Index>(sizeof(typename V::Storage::Codec::Code));
    return V::Storage::scaled ? codes + (v.rows + 127) / 128 * ((v.cols + 127) / 128) * 4 : codes;
  });
}

/// Fills the model, which keeps the memory, with weights as the checkpoint format has them (spec B): projections in `kind`, embedding, head
/// and router in bf16, norms in float32.
template <class P>
std::shared_ptr<const Memory> fill_model(dsv3::Context& ctx, dsv3::Model<P>& model, StorageKind kind) {
  std::size_t bytes = 0;
  const auto is_fp8 = [&](const std::string& name) { return kind == StorageKind::fp8 && dsv3::is_published_as_fp8(name); };
  dsv3::Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    if constexpr (requires { parameter.view; })
      bytes += static_cast<std::size_t>(parameter.size()) * (is_fp8(name) ? 1 : 2) + static_cast<std::size_t>(parameter.size()) / 4096 +
               static_cast<std::size_t>(parameter.rows + parameter.cols) + 4096;
  });
  const auto memory = std::make_shared<Memory>(bytes);
  model.keep(memory);
  std::uint64_t seed = 1;
  dsv3::Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    ++seed;
    if constexpr (requires { parameter.view; }) {
      const Index n = parameter.size();
      if (is_fp8(name)) {
        auto* codes = memory->take(static_cast<std::size_t>(n));
        fill(ctx, codes, n, seed, [](std::uint64_t bits) { return bits & 0xf7f7f7f7f7f7f7f7u; });  // no NaN; one in eight is subnormal
        const Index block_rows = (parameter.rows + 127) / 128, block_cols = (parameter.cols + 127) / 128;
        auto* scales = reinterpret_cast<float*>(memory->take(static_cast<std::size_t>(block_rows * block_cols) * 4));
        std::fill_n(scales, block_rows * block_cols, 3e-4f);  // a standard deviation of about 0.02
        parameter.view = dsv3::Fp8Block<128, 128>::View{codes, parameter.rows, parameter.cols, parameter.cols, scales, block_cols, 0};
      } else {
        auto* data = memory->take(static_cast<std::size_t>(n) * 2);
        // Signs and mantissas at random, magnitudes from 2^-7 to 2^-5.
        fill(ctx, data, 2 * n, seed, [](std::uint64_t bits) { return (bits & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u; });
        parameter.view = dsv3::Bf16::View{reinterpret_cast<std::uint16_t*>(data), parameter.rows, parameter.cols, parameter.cols};
      }
    } else {
      parameter.values = dsv3::Vector<float>::Constant(parameter.length, parameter.learned ? 1.0f : 0.0f);
    }
  });
  return memory;
}

}  // namespace bench
