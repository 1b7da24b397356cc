# dsv3_build_flags: what our own tests, examples and benchmarks are compiled with. It is never part of an installed target.
add_library(dsv3_build_flags INTERFACE)
if(DSV3_WARNINGS)
  target_compile_options(dsv3_build_flags INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wno-sign-conversion -Wshadow
    $<$<CXX_COMPILER_ID:Clang>:-Wno-deprecated-declarations>)  # libstdc++ 12's stable_sort, seen by clang 19
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)  # false alarms at -O3 (GCC bug 105651) and of the AVX-512 headers
  target_compile_options(dsv3_build_flags INTERFACE -Wno-restrict -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
if(DSV3_WERROR)
  target_compile_options(dsv3_build_flags INTERFACE -Werror)
endif()
if(DSV3_NATIVE)
  target_compile_options(dsv3_build_flags INTERFACE -march=native)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND (DSV3_NATIVE OR CMAKE_CXX_FLAGS MATCHES "x86-64-v4"))  # false alarms of GCC 12's AVX-512 headers
  target_compile_options(dsv3_build_flags INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

# dsv3_program(NAME FILE... [LINK TARGET...]): an executable in bin/ that uses the whole library, or what this build has of it.
function(dsv3_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK")
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE dsv3_build_flags dsv3::dsv3 $<TARGET_NAME_IF_EXISTS:dsv3::io> $<TARGET_NAME_IF_EXISTS:dsv3::openmp> ${arg_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()
