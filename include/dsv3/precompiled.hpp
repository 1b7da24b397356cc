// What the library dsv3::precompiled holds: the models of the published families, exact and Fast, loading and making them. A program that
// links it includes this header in place of dsv3.hpp and io/load.hpp, and its files compile without instantiating a model.
//
// Everything else (variants, other tapes, kernels) is compiled where it is used, as always. The library has the instruction set it was
// compiled for: a file with other flags does not link, and the linker names the set that it lacks (dsv3::isa_avx2_fma::Model<...>).
#pragma once

#include "dsv3/dsv3.hpp"
#include "dsv3/io/load_options.hpp"
#include "dsv3/io/tokenizer.hpp"

#ifndef DSV3_PRECOMPILED  // the library's own file defines it as nothing: there, these are the definitions
#define DSV3_PRECOMPILED extern
#endif
#define DSV3_PRECOMPILED_FAMILY(P)                                                                                         \
  DSV3_PRECOMPILED template class Cache<P>;                                                                                \
  DSV3_PRECOMPILED template class Model<P>;                                                                                \
  DSV3_PRECOMPILED template void Model<P>::forward(Context&, std::span<const Sequence>, MatrixView<float>, NoTape&) const; \
  DSV3_PRECOMPILED template void Model<P>::mtp_forward(Context&, Index, std::span<const Sequence>, ConstMatrixView<float>, \
                                                       MatrixView<float>, NoTape&) const;                                  \
  DSV3_PRECOMPILED template Model<P> io::load(const std::filesystem::path&, const io::LoadOptions&);

namespace dsv3::inline DSV3_ISA {

/// @cond
DSV3_PRECOMPILED template std::string io::quote<nlohmann::json>(std::string_view);
DSV3_PRECOMPILED template void io::parse_json_events(std::string_view, nlohmann::json_sax<nlohmann::json>&);
DSV3_PRECOMPILED template io::Tokenizer io::Tokenizer::parse<nlohmann::json>(std::string_view, std::string);

DSV3_PRECOMPILED_FAMILY(DeepSeekV2)
DSV3_PRECOMPILED_FAMILY(DeepSeekV3)
DSV3_PRECOMPILED_FAMILY(DeepSeekV3Halves)
DSV3_PRECOMPILED_FAMILY(Fast<DeepSeekV2>)
DSV3_PRECOMPILED_FAMILY(Fast<DeepSeekV3>)
DSV3_PRECOMPILED_FAMILY(Fast<DeepSeekV3Halves>)
/// @endcond

}  // namespace dsv3::inline DSV3_ISA

#undef DSV3_PRECOMPILED_FAMILY
#undef DSV3_PRECOMPILED
