// Floor 5. Fresh weights for a model that has no checkpoint.
#pragma once

#include <memory>
#include <numbers>
#include <random>

#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA {

/// Gives every matrix of `model` float32 values from a normal distribution of the given standard deviation (spec T33), every norm's weight
/// 1, the router's bias 0. The model owns them. The same seed gives the same values on every platform. P::Storage must be able to hold F32.
template <class P>
void init_normal(Model<P>& model, std::uint64_t seed, double deviation = 0.006) {
  static_assert(std::is_constructible_v<typename P::Storage::View, F32::View>, "dsv3: init_normal needs a Storage that can hold F32");
  std::mt19937_64 random(seed);
  // Box-Muller: std::normal_distribution differs between libraries.
  const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  const auto normal = [&] { return deviation * std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); };
  Model<P>::for_each_tensor(model, [&]<class T>(const std::string&, T& parameter) {
    if constexpr (requires { parameter.view; }) {
      const auto w = std::make_shared<Matrix<float>>(parameter.rows, parameter.cols);
      for (Index i = 0; i < w->size(); ++i) w->data()[i] = static_cast<float>(normal());
      parameter.view = F32::View{w->data(), w->rows(), w->cols(), w->cols()};
      model.keep(w);
    } else {
      parameter.values = Vector<float>::Constant(parameter.length, parameter.learned ? 1.0f : 0.0f);
    }
  });
}

}  // namespace dsv3::inline DSV3_ISA
