// Floor 4. The latent cache of multi-head latent attention: one layer of one sequence, in pages that sequences can share.
#pragma once

#include <cassert>
#include <memory>
#include <new>
#include <vector>

#include "dsv3/kernels/attention.hpp"
#include "dsv3/modules/cache_format.hpp"

namespace dsv3::inline DSV3_ISA {

/// One row per token: c_kv after its norm, C values, then the rotated k_pe, R values (spec A11), encoded by Format. Rows lie in pages of 64
/// tokens, allocated at the first write. Copies of a cache share pages until one of them writes (copy on write), so only one thread at a
/// time may use caches that share pages.
template <CacheFormat Format = cache_format::Float32>
class LatentCache {
 public:
  static constexpr Index page_tokens = kernels::attention_block;

  LatentCache(const Config& c, Index max_tokens)
      : rank_(c.kv_lora_rank),
        rope_dim_(c.qk_rope_head_dim),
        row_bytes_(Format::row_bytes(rank_, rope_dim_)),
        max_tokens_(max_tokens),
        pages_(static_cast<std::size_t>((max_tokens + page_tokens - 1) / page_tokens)) {}

  Index max_tokens() const { return max_tokens_; }
  /// Bytes of a page.
  Index page_bytes() const { return page_tokens * row_bytes_; }

  /// A cache for max_tokens >= `tokens` that shares the first `tokens` of this one.
  LatentCache fork(Index tokens, Index max_tokens) const {
    LatentCache other(*this);
    other.max_tokens_ = max_tokens;
    other.pages_.resize(static_cast<std::size_t>((tokens + page_tokens - 1) / page_tokens));
    other.pages_.resize(static_cast<std::size_t>((max_tokens + page_tokens - 1) / page_tokens));
    return other;
  }

  /// Makes tokens [begin, begin + count) writable. Called before write(), which several threads may then call for different tokens.
  void open(Index begin, Index count) {
    for (Index p = begin / page_tokens; count > 0 && p * page_tokens < begin + count; ++p) {
      auto& page = pages_[static_cast<std::size_t>(p)];
      if (page && page.use_count() == 1) continue;
      Page own(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(page_bytes()), alignment)), Free{});
      if (page) std::copy_n(page.get(), page_bytes(), own.get());
      page = std::move(own);
    }
  }

  /// Stores c_kv [C] and the rotated k_pe [R] of token t.
  void write(Index t, const float* c_kv, const float* k_pe) { Format::write(c_kv, rank_, k_pe, rope_dim_, row(t)); }

  /// Decodes token t: c_kv [C], then k_pe [R].
  template <class Arch = simd::DefaultArch>
  void read(Index t, float* out) const {
    Format::template read<Arch>(row(t), rank_, rope_dim_, out);
  }

  /// The cache as keys and values of absorbed attention: a source of blocks for kernels::attend.
  template <class Arch>
  struct Blocks {
    const LatentCache* cache;

    kernels::KeysValues block(Index first, Index keys, float* scratch) const {
      assert(first % page_tokens == 0 && keys <= page_tokens);
      if constexpr (Format::in_place) return views(reinterpret_cast<const float*>(cache->row(first)), keys);
      for (Index i = 0; i < keys; ++i) cache->read<Arch>(first + i, scratch + i * (cache->rank_ + cache->rope_dim_));
      return views<float>(scratch, keys);
    }
    /// The block as stored, without decoding.
    kernels::KeysValuesOf<codec::BFloat16::Code> bf16_block(Index first,
                                                            Index keys) const requires std::is_same_v<Format, cache_format::Bf16> {
      assert(first % page_tokens == 0 && keys <= page_tokens);
      return views(reinterpret_cast<const codec::BFloat16::Code*>(cache->row(first)), keys);
    }
    Index block_scratch() const { return Format::in_place ? 0 : page_tokens * (cache->rank_ + cache->rope_dim_); }

   private:
    template <class T>
    kernels::KeysValuesOf<T> views(const T* rows, Index keys) const {
      const Index rank = cache->rank_, rope = cache->rope_dim_;
      const ConstMatrixView<T> c_kv(rows, keys, rank, rank + rope);
      return {c_kv, {rows + rank, keys, rope, rank + rope}, c_kv};
    }
  };
  template <class Arch>
  Blocks<Arch> blocks() const {
    return {this};
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, alignment); }
  };
  using Page = std::shared_ptr<std::byte>;

  std::byte* row(Index t) const { return pages_[static_cast<std::size_t>(t / page_tokens)].get() + t % page_tokens * row_bytes_; }

  Index rank_, rope_dim_, row_bytes_, max_tokens_;
  std::vector<Page> pages_;
};

}  // namespace dsv3::inline DSV3_ISA
