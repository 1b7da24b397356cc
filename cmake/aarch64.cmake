# Toolchain of Debian's cross compiler for 64-bit ARM (g++-aarch64-linux-gnu), with QEMU's user-mode emulator (qemu-user) to run what it makes:
# cmake -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake. Only header libraries are found, for Debian's own (PCRE2) are of the building machine.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
