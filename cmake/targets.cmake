# dsv3::dsv3 (headers), dsv3::io (checkpoints and tokenizer), dsv3::openmp (the OpenMP executor); on request dsv3::precompiled (a library).
# The interface carries include paths, the language standard and dependencies; never a flag or a definition.
file(GLOB_RECURSE dsv3_all_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/dsv3/*.hpp")
set(dsv3_io_headers ${dsv3_all_headers})
list(FILTER dsv3_io_headers INCLUDE REGEX "/dsv3/(io/|precompiled.hpp$)")
set(dsv3_openmp_headers ${dsv3_all_headers})
list(FILTER dsv3_openmp_headers INCLUDE REGEX "/core/openmp.hpp$")
list(REMOVE_ITEM dsv3_all_headers ${dsv3_io_headers} ${dsv3_openmp_headers})

# BASE_DIRS holds headers of other targets too, but each target lists and verifies only its own.
function(dsv3_header_library name headers)
  add_library(dsv3_${name} INTERFACE)
  add_library(dsv3::${name} ALIAS dsv3_${name})
  set_target_properties(dsv3_${name} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL})
  target_sources(dsv3_${name} INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers})
endfunction()

dsv3_header_library(dsv3 "${dsv3_all_headers}")
target_compile_features(dsv3_dsv3 INTERFACE cxx_std_20)
target_link_libraries(dsv3_dsv3 INTERFACE Eigen3::Eigen dsv3::xsimd)

if(DSV3_WITH_IO)
  dsv3_header_library(io "${dsv3_io_headers}")
  target_link_libraries(dsv3_io INTERFACE dsv3_dsv3 nlohmann_json::nlohmann_json PkgConfig::PCRE2)
endif()

if(OpenMP_CXX_FOUND)
  dsv3_header_library(openmp "${dsv3_openmp_headers}")
  target_link_libraries(dsv3_openmp INTERFACE dsv3_dsv3 OpenMP::OpenMP_CXX)
endif()

if(DSV3_BUILD_PRECOMPILED AND DSV3_WITH_IO)
  add_library(dsv3_precompiled STATIC "${PROJECT_SOURCE_DIR}/cmake/precompiled.cpp")
  add_library(dsv3::precompiled ALIAS dsv3_precompiled)
  target_link_libraries(dsv3_precompiled PUBLIC dsv3_io)
  set_target_properties(dsv3_precompiled PROPERTIES EXPORT_NAME precompiled POSITION_INDEPENDENT_CODE ON)
endif()
