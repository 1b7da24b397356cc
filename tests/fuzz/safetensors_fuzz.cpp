// Any bytes are either refused with an Error or give tensors that lie inside them.
#include <cstdint>
#include <cstdlib>

#include "dsv3/io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = dsv3::io::Safetensors::parse(bytes, "fuzz");
    std::size_t total = 0;
    for (const auto& tensor : file.tensors()) {
      if (tensor.data.data() < bytes.data() || tensor.data.data() + tensor.data.size() > bytes.data() + size) std::abort();
      dsv3::Index elements = 1;
      for (const auto d : tensor.shape) elements *= d;
      if (elements != tensor.elements() || file.find(tensor.name) != &tensor) std::abort();
      total += tensor.data.size();
    }
    if (total > size) std::abort();
  } catch (const dsv3::Error&) {
  }
  return 0;
}
