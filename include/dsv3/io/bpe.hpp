// Floor 6. Byte-pair encoding of one word: of the adjacent pairs that have a merge, the one listed first is joined until none is left.
//
// Tokens are ids only: how bytes become the first ids, and what ids stand for, is tokenizer.hpp's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A list of merges, the most urgent first.
class Bpe {
 public:
  /// Memory that encode() reuses from word to word.
  class Workspace {
    friend class Bpe;
    struct Symbol {
      int id;  // -1 once it has been joined to its left neighbour
      std::uint32_t previous, next;
    };
    struct Candidate {
      std::uint64_t priority;  // rank of the merge, then position: both small first
      int left, right;         // ids at the time of writing; if they have changed, the candidate is void
      friend bool operator>(const Candidate& a, const Candidate& b) { return a.priority > b.priority; }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Appends the merge of tokens `left` and `right`, ids that are not negative, to `result`. Of a pair added twice the last counts.
  void add_merge(int left, int right, int result) {
    rank_.insert_or_assign(key(left, right), static_cast<std::uint32_t>(results_.size()));
    results_.push_back(result);
  }

  /// Adds a pair that has the place and the result of the last merge: of such pairs the one further left is joined first.
  void add_equal_merge(int left, int right) { rank_.insert_or_assign(key(left, right), static_cast<std::uint32_t>(results_.size() - 1)); }

  /// Appends to `out` what `ids`, fewer than 2^31 of them, merge into.
  ///
  /// Cost: n log n, by a linked list of symbols and a heap of possible merges.
  void encode(std::span<const int> ids, Workspace& work, std::vector<int>& out) const {
    auto& symbols = work.symbols;
    auto& heap = work.heap;
    const auto n = static_cast<std::uint32_t>(ids.size());
    symbols.resize(n);
    heap.clear();
    for (std::uint32_t i = 0; i < n; ++i) symbols[i] = {ids[i], i - 1, i + 1};
    for (std::uint32_t i = 0; i + 1 < n; ++i) add_candidate(i, i + 1, work);
    std::ranges::make_heap(heap, std::greater<>{});
    while (!heap.empty()) {
      std::ranges::pop_heap(heap, std::greater<>{});
      const auto [priority, left, right] = heap.back();
      heap.pop_back();
      const auto at = static_cast<std::uint32_t>(priority);
      const std::uint32_t joined = symbols[at].next;
      if (symbols[at].id != left || joined >= n || symbols[joined].id != right) continue;
      symbols[at].id = results_[priority >> 32];
      symbols[at].next = symbols[joined].next;
      symbols[joined].id = -1;
      if (symbols[at].next < n) symbols[symbols[at].next].previous = at;
      for (const auto& [first, second] : {std::pair{symbols[at].previous, at}, std::pair{at, symbols[at].next}})
        if (first < n && second < n && add_candidate(first, second, work)) std::ranges::push_heap(heap, std::greater<>{});
    }
    for (std::uint32_t i = 0; i < n; i = symbols[i].next) out.push_back(symbols[i].id);
  }

 private:
  struct Hash {
    std::size_t operator()(std::uint64_t pair) const { return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15u) >> 20); }
  };

  static std::uint64_t key(int left, int right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }

  bool add_candidate(std::uint32_t first, std::uint32_t second, Workspace& work) const {
    const int left = work.symbols[first].id, right = work.symbols[second].id;
    const auto found = rank_.find(key(left, right));
    if (found == rank_.end()) return false;
    work.heap.push_back({std::uint64_t{found->second} << 32 | first, left, right});
    return true;
  }

  std::unordered_map<std::uint64_t, std::uint32_t, Hash> rank_;
  std::vector<int> results_;  // by rank
};

}  // namespace dsv3::inline DSV3_ISA::io
