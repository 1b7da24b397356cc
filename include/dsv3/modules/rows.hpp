// Floor 4. Rows: what a module is told about the rows of its x.
//
// A pass adds tokens to several sequences at once; its rows are those tokens, sequence after sequence. Model makes one Rows a layer and
// hands it through Block, attention, feed-forward part, router and MTP module.
#pragma once

#include <span>

#include "dsv3/core/tape.hpp"

namespace dsv3::inline DSV3_ISA {

/// The pass that some rows belong to. A module's arithmetic may depend on the number of rows of the whole pass, never on the number it was
/// given: how many rows an expert gets depends on the other tokens.
struct Pass {
  Index rows = 0;   ///< of the whole pass
  Index layer = 0;  ///< num_hidden_layers + k in MTP module k (from 0)
};

/// Rows [begin, begin + count) of a pass are the tokens at positions [position, position + count) of one sequence. Its earlier tokens are
/// in `cache`, to which these are added; without a cache the sequence begins with these rows.
template <class Cache>
struct Segment {
  Index begin = 0, count = 0, position = 0;
  Cache* cache = nullptr;
};

/// Stands in for a cache in modules that need none.
struct NoCache {};

/// What is known of rows [T]. A caller of a single module may leave ids and positions empty if its parts do not ask for them.
template <class Cache = NoCache, Tape T = NoTape>
struct Rows : Pass {
  std::span<const int> ids{};                  ///< the token of each row
  std::span<const Index> positions{};          ///< its place in its sequence, from 0
  std::span<const Segment<Cache>> segments{};  ///< the rows by sequence, in order
  T* tape = nullptr;                           ///< not null unless T is NoTape

  /// The token of row t, -1 if it is not known.
  int id(Index t) const { return ids.empty() ? -1 : ids[static_cast<std::size_t>(t)]; }
  /// The position of row t, -1 if it is not known.
  Index position(Index t) const { return positions.empty() ? -1 : positions[static_cast<std::size_t>(t)]; }
};

/// Hands `value` to the tape of `rows`, if that tape records this point.
template <class Cache, class T, class Point>
void record(const Rows<Cache, T>& rows, Point p, ConstMatrixView<float> value) {
  if constexpr (records<T, Point>) rows.tape->record(p, rows.layer, value);
}
template <class Cache, class T, class Point>
void record(const Rows<Cache, T>& rows, Point p, ConstMatrixView<int> value) {
  if constexpr (records<T, Point, ConstMatrixView<int>>) rows.tape->record(p, rows.layer, value);
}

/// A part of a layer, made from (config, layer) or, if it is the same in all layers, from (config).
template <class Part, class Config>
Part make_part(const Config& c, Index layer) {
  if constexpr (std::constructible_from<Part, const Config&, Index>)
    return Part(c, layer);
  else
    return Part(c);
}
template <class Part, class Config>
concept LayerPart = std::constructible_from<Part, const Config&, Index> || std::constructible_from<Part, const Config&>;

}  // namespace dsv3::inline DSV3_ISA
