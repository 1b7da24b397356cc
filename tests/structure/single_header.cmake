# cmake -DPYTHON=... -DSCRIPT=... -DHEADER=... -DOUT=... -P single_header.cmake
execute_process(COMMAND "${PYTHON}" "${SCRIPT}" "${HEADER}" OUTPUT_FILE "${OUT}" COMMAND_ERROR_IS_FATAL ANY)
