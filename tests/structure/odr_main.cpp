// Prints the products of the translation units it was linked with, one line each: the instruction set, then the bits of every element.
#include <cstdint>
#include <cstdio>
#include <vector>

#ifdef ODR_BASELINE
std::vector<std::uint32_t> product_baseline();
#endif
#ifdef ODR_AVX2
std::vector<std::uint32_t> product_avx2();
#endif

namespace {
void print(const char* name, const std::vector<std::uint32_t>& bits) {
  std::printf("%s", name);
  for (const auto b : bits) std::printf(" %08x", static_cast<unsigned>(b));
  std::printf("\n");
}
}  // namespace

int main() {
#ifdef ODR_BASELINE
  print("baseline", product_baseline());
#endif
#ifdef ODR_AVX2
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::printf("skipped: this processor has no AVX2\n");
    return 0;
  }
  print("avx2", product_avx2());
#endif
  return 0;
}
