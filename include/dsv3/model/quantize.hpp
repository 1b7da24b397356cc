// Floor 5. Quantizing a model's projections to fp8, as the published checkpoints are.
#pragma once

#include <memory>

#include "dsv3/model/model.hpp"
#include "dsv3/quant/block_scale.hpp"

namespace dsv3::inline DSV3_ISA {

/// The weights that are fp8 in the published checkpoints (spec B3): all projections but eh_proj; not norms, embedding, head or router.
inline bool is_published_as_fp8(const std::string& name) {
  return (name.ends_with("_proj.weight") || name.ends_with("_proj_with_mqa.weight")) && !name.ends_with("eh_proj.weight");
}

/// Replaces every weight that `chosen(name)` picks by its 128x128 block quantization, which the model then owns. Weights already in fp8
/// stay as they are. P::Storage must be able to hold Fp8Block<128, 128>. Throws: Error naming the tensor if a weight is not finite.
template <class P, class Chosen = bool (*)(const std::string&)>
void quantize_fp8(Context& ctx, Model<P>& model, ScaleFormat format = ScaleFormat::float32, Chosen&& chosen = is_published_as_fp8) {
  Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    if constexpr (requires { parameter.view; }) {
      if (!chosen(name) || is_fp8(parameter.view)) return;
      try {
        const auto quantized = visit_weight(parameter.view, [&](const auto& stored) {
          return std::make_shared<const Fp8Matrix>(quantize_stored_fp8<typename P::Arch>(ctx, stored, format));
        });
        parameter.view = quantized->view();
        model.keep(quantized);
      } catch (const Error& e) {
        fail(name, ": ", e.what());
      }
    }
  });
}

}  // namespace dsv3::inline DSV3_ISA
