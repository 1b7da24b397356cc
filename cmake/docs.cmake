# Target docs: HTML pages of the headers, of docs/ and of the programs that pages quote, in docs/html of the build folder. Only where Doxygen is
# installed.
find_program(DSV3_DOXYGEN doxygen)
if(DSV3_DOXYGEN)
  set(dsv3_readme)
  if(EXISTS "${PROJECT_SOURCE_DIR}/README.md")
    set(dsv3_readme "\"${PROJECT_SOURCE_DIR}/README.md\"")
  endif()
  file(GLOB dsv3_snippets CONFIGURE_DEPENDS examples/[0-9]*.cpp tests/docs/*.cpp)
  list(TRANSFORM dsv3_snippets REPLACE "(.+)" "\"\\1\"")
  list(JOIN dsv3_snippets " " dsv3_snippets)
  configure_file(docs/Doxyfile.in "${PROJECT_BINARY_DIR}/Doxyfile" @ONLY)
  add_custom_target(docs COMMAND "${DSV3_DOXYGEN}" "${PROJECT_BINARY_DIR}/Doxyfile" VERBATIM)
endif()
