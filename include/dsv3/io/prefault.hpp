// Floor 6. Prefaulting: brings a loaded model's weights into memory before they are used.
//
// Optional: otherwise weights are read when they are first used. Call it from a thread of your own to read while the model already works.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "dsv3/io/page_advice.hpp"
#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Makes the pages of `bytes` resident and maps them. `bytes` must not be empty.
inline void touch(std::span<const std::byte> bytes) {
#ifdef MADV_POPULATE_READ
  const auto pages = pages_of(bytes);
  if (::madvise(pages.data(), pages.size(), MADV_POPULATE_READ) == 0) return;
#endif
  const auto read = [&](std::size_t i) { static_cast<void>(*static_cast<const volatile std::byte*>(&bytes[i])); };
  for (std::size_t i = 0; i < bytes.size(); i += static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) read(i);
  read(bytes.size() - 1);
}

/// The bytes of every weight matrix, in the order of the model.
template <class P>
std::vector<std::span<const std::byte>> weight_bytes(const Model<P>& model) {
  std::vector<std::span<const std::byte>> out;
  const auto add = [&]<class T>(const T* data, Index n) { out.push_back(std::as_bytes(std::span(data, static_cast<std::size_t>(n)))); };
  Model<P>::for_each_tensor(model, [&]<class T>(const std::string&, const T& parameter) {
    if constexpr (requires { parameter.view; })
      visit_weight(parameter.view, [&](const auto& w) {
        if (w.rows > 0) add(w.row(0), w.row(w.rows - 1) + w.cols - w.row(0));
      });
  });
  return out;
}

}  // namespace detail

/// Reads all weight matrices of `model` into memory, in the order in which a forward pass uses them, on the threads of `ctx`; pages already
/// in memory cost little. Calls progress(done, total), in bytes, on the calling thread every 64 MB or so; returning false stops. Returns
/// whether all was read. While it runs, other threads may compute with the model on contexts of their own.
///
/// On a NUMA machine a page lies on the node of the thread that reads it first, so give `ctx` the executor that will compute.
template <class P, class Progress>
bool prefault(Context& ctx, const Model<P>& model, Progress&& progress) {
  constexpr std::size_t piece = std::size_t{1} << 23;
  std::vector<std::span<const std::byte>> pieces;
  std::size_t total = 0, done = 0;
  for (auto bytes : detail::weight_bytes(model)) {
    total += bytes.size();
    for (; !bytes.empty(); bytes = bytes.subspan(pieces.back().size())) pieces.push_back(bytes.first(std::min(piece, bytes.size())));
  }
  for (std::size_t first = 0; first < pieces.size();) {
    std::size_t end = first, bytes = 0;
    while (end < pieces.size() && bytes < 8 * piece) bytes += pieces[end++].size();
    ctx.parallel_for(static_cast<Index>(end - first), [&](Index i, int) { detail::touch(pieces[first + static_cast<std::size_t>(i)]); });
    first = end;
    if (!progress(done += bytes, total)) return false;
  }
  return true;
}

}  // namespace dsv3::inline DSV3_ISA::io
