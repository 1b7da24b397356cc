// Floor 6. Load balancing without an auxiliary loss: the router's bias follows the loads of a step (report, section 2.1.2).
#pragma once

#include <array>
#include <span>

#include "dsv3/train/parameters.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Whether the mean over experts is subtracted from a step (spec T24). torchtitan subtracts it; the report and Megatron do not, so all of b
/// may drift together.
enum class BiasStep { as_is, centred };

/// b_i += gamma sign(mean load - load_i) in float32, no change if the load equals the mean (spec T22, T23). loads [E] are those of a whole
/// step.
inline void update_bias(std::span<float> bias, std::span<const Index> loads, double gamma, BiasStep kind = BiasStep::as_is) {
  require(bias.size() == loads.size(), "train: expected loads of ", bias.size(), " experts, got ", loads.size());
  const auto experts = static_cast<Index>(bias.size());
  Index total = 0;
  for (const Index n : loads) total += n;
  const float rate = static_cast<float>(gamma);
  const auto step = [&](std::size_t e) { return rate * static_cast<float>((loads[e] * experts < total) - (loads[e] * experts > total)); };
  float mean = 0;
  if (kind == BiasStep::centred) {  // summed in PyTorch's order, for the same bits
    std::array<float, 8> lanes{};
    for (std::size_t e = 0; e < bias.size(); ++e) lanes[e % lanes.size()] += step(e);
    for (const float lane : lanes) mean += lane;
    mean /= static_cast<float>(experts);
  }
  for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += step(e) - mean;
}

/// The same for the router of every layer with experts, MTP modules included (spec T27); `loads` [layers with experts, E] has one row for
/// each.
template <class P>
void update_biases(Parameters<P>& parameters, const Matrix<Index>& loads, double gamma, BiasStep kind = BiasStep::as_is) {
  Index row = 0;
  for (const Parameter& p : parameters.list())
    if (p.kind == Kind::buffer && row < loads.rows()) {
      update_bias({parameters.values().data() + p.offset, static_cast<std::size_t>(p.size())},
                  {loads.row(row).data(), static_cast<std::size_t>(loads.cols())}, gamma, kind);
      ++row;
    }
  parameters.refresh();
}

}  // namespace dsv3::inline DSV3_ISA::train
