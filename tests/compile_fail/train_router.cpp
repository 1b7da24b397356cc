// expect: dsv3: P::Router does not train: it needs route_backward(router, config, logits, experts, dgates, dlogits)
#include "dsv3/train/trainer.hpp"

struct Fixed {
  dsv3::router::Choice route(const dsv3::router::Config& config, std::span<const float>, std::span<const float>) const {
    dsv3::router::Choice choice{config.top_k, {}, {}};
    for (dsv3::Index k = 0; k < config.top_k; ++k) choice.experts[static_cast<std::size_t>(k)] = static_cast<int>(k);
    return choice;
  }
};
#ifndef FAIL
void route_backward(const Fixed&, const dsv3::router::Config&, std::span<const float>, std::span<const int>, std::span<const float>,
                    std::span<float>) {}
#endif

struct Mine : dsv3::DeepSeekV3 {
  using Router = Fixed;
};
template class dsv3::train::Trainer<Mine>;

int main() {}
