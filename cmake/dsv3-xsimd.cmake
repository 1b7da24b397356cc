# Finds xsimd and defines dsv3::xsimd, which is its headers and nothing else. xsimd's own target is no use to us: Debian 12's links a library
# named xtl that its package neither finds nor needs, Debian 13's adds -DXSIMD_ENABLE_XTL_COMPLEX=1 to every consumer. It stays as it is for
# whoever else uses it.
find_package(xsimd QUIET)
function(dsv3_define_xsimd)
  if(TARGET xsimd AND NOT TARGET dsv3::xsimd)
    add_library(dsv3::xsimd INTERFACE IMPORTED GLOBAL)
    get_target_property(includes xsimd INTERFACE_INCLUDE_DIRECTORIES)
    set_target_properties(dsv3::xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${includes}")
  endif()
endfunction()
dsv3_define_xsimd()
