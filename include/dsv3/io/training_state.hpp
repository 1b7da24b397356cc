// Floor 6. A trainer's state as a file beside the checkpoint: master weights, moments, average, and the position in the run.
#pragma once

#include <charconv>
#include <cstring>

#include "dsv3/io/safetensors_writer.hpp"
#include "dsv3/train/trainer.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// What else is needed to resume a run; counts start at the run's beginning (spec T50).
struct [[nodiscard]] RunPosition {
  Index step = 0;      ///< steps done
  Index samples = 0;   ///< taken from the data
  std::string config;  ///< the model's config.json; the state of another model is refused
  std::string run;     ///< settings that must be equal to resume bit for bit, in any form
};

namespace detail {
inline constexpr const char* state_version = "dsv3 training state 1";

template <class T>
constexpr Dtype state_dtype = sizeof(T) == 4 ? Dtype::F32 : Dtype::BF16;
}  // namespace detail

/// Writes the state of `trainer` to `path`; the file appears whole or not at all. `average` may be empty.
template <class P, class C>
void save_state(const std::filesystem::path& path, train::Trainer<P, C>& trainer, const RunPosition& position,
                const train::Arena& average = {}) {
  using Code = typename C::Code;
  const auto& parameters = trainer.parameters();
  std::vector<Tensor> tensors;
  const auto add = [&](const char* name, Dtype dtype, std::span<const std::byte> bytes) {
    tensors.push_back({name, dtype, {parameters.size()}, bytes, {}});
  };
  const auto floats = [](const train::Arena& a) { return std::as_bytes(std::span(a.data(), static_cast<std::size_t>(a.size()))); };
  add("weights", Dtype::F32, floats(parameters.values()));
  add("m", detail::state_dtype<Code>, std::as_bytes(std::span(trainer.optimizer().m())));
  add("v", detail::state_dtype<Code>, std::as_bytes(std::span(trainer.optimizer().v())));
  if (average.size() > 0) add("average", Dtype::F32, floats(average));
  write_safetensors(path, tensors,
                    {{"format", detail::state_version},
                     {"step", std::to_string(position.step)},
                     {"optimizer_steps", std::to_string(trainer.optimizer().steps())},
                     {"samples", std::to_string(position.samples)},
                     {"config", position.config},
                     {"run", position.run}});
}

/// Reads into `trainer` and `average` a state that save_state() wrote; `average` becomes empty if the state has none.
/// Throws: Error naming the file and the field if it is no such state, of another version, or of another model than `config`.
template <class P, class C>
RunPosition load_state(const std::filesystem::path& path, train::Trainer<P, C>& trainer, const std::string& config, train::Arena& average) {
  using Code = typename C::Code;
  const auto file = Safetensors::open(path);
  const std::string name = path.string();
  const auto field = [&](const char* key) {
    const auto at = file.metadata().find(key);
    require(at != file.metadata().end(), name, ": no training state: \"", key, "\" is missing in its metadata");
    return at->second;
  };
  const auto number = [&](const char* key) {
    const std::string text = field(key);
    Index n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    require(error == std::errc() && end == text.data() + text.size() && n >= 0, name, ": ", key, ": expected a number, got ", quote(text));
    return n;
  };
  require(field("format") == detail::state_version, name, ": format: expected \"", detail::state_version, "\", got ",
          quote(field("format")));
  require(field("config") == config, name, ": config: this is the state of another model: its configuration differs from that of the run");
  const Index size = trainer.parameters().size();
  const auto tensor = [&](const char* key, Dtype dtype) {
    const Tensor* t = file.find(key);
    require(t != nullptr, name, ": tensor ", key, " is missing");
    require(t->dtype == dtype && t->shape == std::vector<Index>{size}, name, ": ", key, ": expected ", io::name(dtype), " [", size,
            "], got ", io::name(t->dtype), " ", shape_string(t->shape));
    return t->data;
  };
  const auto weights = tensor("weights", Dtype::F32), m = tensor("m", detail::state_dtype<Code>),
             v = tensor("v", detail::state_dtype<Code>);
  typename train::AdamW<P, C>::Moments first(static_cast<std::size_t>(size)), second(first.size());
  const RunPosition position{number("step"), number("samples"), config, field("run")};
  const Index steps = number("optimizer_steps");
  if (file.find("average") != nullptr) {
    const auto bytes = tensor("average", Dtype::F32);
    average.resize(size);
    std::memcpy(average.data(), bytes.data(), bytes.size());
  } else {
    average.resize(0);
  }
  std::memcpy(first.data(), m.data(), m.size());
  std::memcpy(second.data(), v.data(), v.size());
  std::memcpy(trainer.parameters().values().data(), weights.data(), weights.size());
  trainer.optimizer().restore(steps, std::move(first), std::move(second));
  trainer.parameters().refresh();
  return position;
}

}  // namespace dsv3::inline DSV3_ISA::io
