// Floor 1. Intel AMX: permission to use the tile registers, their configuration, and products of bf16 tiles.
//
// A tile is 16 rows of 64 bytes, 1 KiB: floats [16, 16] or bf16 numbers [16, 32]. Tiles are always whole: callers pad edges with zeros.
// Without AMX in the compiler's flags this header declares only available(), which returns false.
#pragma once

#include "dsv3/core/isa.hpp"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define DSV3_HAS_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <type_traits>
#endif

namespace dsv3::inline DSV3_ISA::amx {

#ifdef DSV3_HAS_AMX

/// Whether this process may use the tile registers. The first call asks the kernel, because Linux grants them only on request.
inline bool available() {
  static const bool granted = [] {
    constexpr long request_permission = 0x1023, tile_data = 18;  // arch_prctl(2): ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return granted;
}

/// Configures the calling thread's eight tile registers as 16 rows of 64 bytes, for the lifetime of this object.
class [[nodiscard]] TileConfig {
 public:
  TileConfig() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("" ::"m"(config) : "memory");  // GCC 12 does not know that the instruction reads it
    _tile_loadconfig(&config);
  }
  ~TileConfig() { _tile_release(); }
  TileConfig(const TileConfig&) = delete;
  TileConfig& operator=(const TileConfig&) = delete;
};

/// Operands of the products a[i] b[j] of one or two row tiles a[i] and one or two column tiles b[j], summed over steps of 32 along K.
/// Strides count bf16 numbers. A tile of a is 16 rows of 32 numbers: `a_row` is the stride of its rows, `a_step` that of steps, `a_stride`
/// that from a[0] to a[1]. A tile of b is [16 row pairs, 16 columns, 2]: tiles of consecutive steps are contiguous, `b_stride` is the
/// stride from b[0] to b[1].
struct Operands {
  const std::uint16_t* a;
  std::ptrdiff_t a_row, a_step, a_stride;
  const std::uint16_t* b;
  std::ptrdiff_t b_stride;
};

/// A compiler barrier for memory accesses: the compiler does not know what tile instructions read and write.
[[gnu::always_inline]] inline void fence() { asm volatile("" ::: "memory"); }

/// Stores tile register `Register` to c [16, 16], whose rows are `row` floats apart. Register 2 i + j holds the sum of a[i] b[j].
template <int Register>
[[gnu::always_inline]] inline void store(float* c, std::ptrdiff_t row = 16) {  // the intrinsics take only literals
  if constexpr (Register == 0) _tile_stored(0, c, row * 4);
  if constexpr (Register == 1) _tile_stored(1, c, row * 4);
  if constexpr (Register == 2) _tile_stored(2, c, row * 4);
  if constexpr (Register == 3) _tile_stored(3, c, row * 4);
}

/// Loads what store() stores.
template <int Register>
[[gnu::always_inline]] inline void load(const float* c, std::ptrdiff_t row) {
  if constexpr (Register == 0) _tile_loadd(0, c, row * 4);
  if constexpr (Register == 1) _tile_loadd(1, c, row * 4);
  if constexpr (Register == 2) _tile_loadd(2, c, row * 4);
  if constexpr (Register == 3) _tile_loadd(3, c, row * 4);
}

/// Adds step `s` of the products to the registers. Begin: starts new sums, and calls before(register) for each of the four registers before
/// its old contents are overwritten. Streamed: loads b with a non-temporal hint, so that it does not displace other data in L1.
template <int Rows, int Columns, bool Begin, bool Streamed, class Before>
[[gnu::always_inline]] inline void step(const Operands& o, std::ptrdiff_t s, Before&& before) {
  const std::uint16_t *left = o.a + s * o.a_step, *right = o.b + s * 512;
  const std::ptrdiff_t a_bytes = o.a_row * 2;
  _tile_loadd(4, left, a_bytes);
  if constexpr (Streamed)
    _tile_stream_loadd(6, right, 64);
  else
    _tile_loadd(6, right, 64);
  if constexpr (Begin) before(std::integral_constant<int, 0>{});
  if constexpr (Begin) _tile_zero(0);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (Columns == 2) {
    if constexpr (Streamed)
      _tile_stream_loadd(7, right + o.b_stride, 64);
    else
      _tile_loadd(7, right + o.b_stride, 64);
  }
  if constexpr (Begin) before(std::integral_constant<int, 1>{});
  if constexpr (Columns == 2) {
    if constexpr (Begin) _tile_zero(1);
    _tile_dpbf16ps(1, 4, 7);
  }
  if constexpr (Rows == 2) _tile_loadd(5, left + o.a_stride, a_bytes);
  if constexpr (Begin) before(std::integral_constant<int, 2>{});
  if constexpr (Rows == 2) {
    if constexpr (Begin) _tile_zero(2);
    _tile_dpbf16ps(2, 5, 6);
  }
  if constexpr (Begin) before(std::integral_constant<int, 3>{});
  if constexpr (Rows == 2 && Columns == 2) {
    if constexpr (Begin) _tile_zero(3);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/// c[i][j] = sum over `steps` of a[i] b[j], with c [Rows, Columns] tiles of floats [16, 16].
template <int Rows, int Columns>
inline void multiply(const Operands& o, std::ptrdiff_t steps, float* c) {
  const auto nothing = [](auto) {};
  fence();
  step<Rows, Columns, true, false>(o, 0, nothing);
  const auto further = [&](std::ptrdiff_t s) __attribute__((always_inline)) { step<Rows, Columns, false, false>(o, s, nothing); };
  if (steps == 4)
    further(1), further(2), further(3);
  else
    for (std::ptrdiff_t s = 1; s < steps; ++s) further(s);
  store<0>(c);
  if constexpr (Columns == 2) store<1>(c + 256);
  if constexpr (Rows == 2) store<2>(c + Columns * 256);
  if constexpr (Rows == 2 && Columns == 2) store<3>(c + 768);
  fence();
}

/// c [16 Rows, 16 Columns] = a b, or += with Add; rows of c are `row` floats apart. `steps` is at least 1.
template <int Rows, int Columns, bool Add>
inline void multiply_rows(const Operands& o, std::ptrdiff_t steps, float* c, std::ptrdiff_t row) {
  const auto nothing = [](auto) {};
  const auto each = [&](auto&& f) __attribute__((always_inline)) {
    f(std::integral_constant<int, 0>{}, c);
    if constexpr (Columns == 2) f(std::integral_constant<int, 1>{}, c + 16);
    if constexpr (Rows == 2) f(std::integral_constant<int, 2>{}, c + 16 * row);
    if constexpr (Rows == 2 && Columns == 2) f(std::integral_constant<int, 3>{}, c + 16 * row + 16);
  };
  fence();
  if constexpr (Add) each([&](auto t, const float* at) __attribute__((always_inline)) { load<t>(at, row); });
  step<Rows, Columns, !Add, false>(o, 0, nothing);
  for (std::ptrdiff_t s = 1; s < steps; ++s) step<Rows, Columns, false, false>(o, s, nothing);
  each([&](auto t, float* at) __attribute__((always_inline)) { store<t>(at, row); });
  fence();
}

#else

inline bool available() { return false; }

#endif

}  // namespace dsv3::inline DSV3_ISA::amx
