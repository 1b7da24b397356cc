// Floor 6. Declares load() and its options: all that a source file needs if it links dsv3::precompiled. load.hpp has the definition.
#pragma once

#include <filesystem>
#include <functional>

#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA::io {

struct LoadOptions {
  /// Called after each tensor with the number bound so far and the number there are.
  std::function<void(Index bound, Index total)> progress;
  /// Checks every scale of fp8 weights for NaN and infinity. That reads the pages that hold scales, a few megabytes per 10 GB: switch it
  /// off to open a very large checkpoint on slow storage without delay.
  bool check_scales = true;
  /// Checks every weight for NaN and infinity, which reads all files. Without it such weights are noticed when a block's output is not
  /// finite.
  bool check_values = false;
};

/// The model in `folder`: config.json, and weights in model.safetensors or the shards its index lists.
/// Throws: Error naming files, fields, tensors and shapes; all missing, unexpected and misshapen tensors in one message.
template <class P = DeepSeekV3>
[[nodiscard]] Model<P> load(const std::filesystem::path& folder, const LoadOptions& options = {});

}  // namespace dsv3::inline DSV3_ISA::io
