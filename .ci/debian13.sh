#!/bin/sh
# debian13.sh ROOT: the README's demo, the tests of consumption, dsv3-serve and dsv3-chat with their tests in an empty Debian 13, unpacked into ROOT.
# ROOT holds nothing of this system but the tree.
set -eu
root=$1
[ -d "$root/usr" ] || debootstrap --variant=minbase trixie "$root" >/dev/null
mkdir -p "$root/dsv3"
git archive HEAD | tar x -C "$root/dsv3"
cp /etc/resolv.conf "$root/etc/"
for folder in proc dev dev/pts; do
  mount --bind "/$folder" "$root/$folder"
done
trap 'umount "$root/proc" "$root/dev/pts" "$root/dev"' EXIT
env -u CMAKE_CXX_COMPILER_LAUNCHER -u VIRTUAL_ENV chroot "$root" sh -euc '
  cd /dsv3
  sh cmake/demo.sh
  sh -c ". cmake/setup.sh && install_missing tests" cmake/test.sh
  cmake --preset dev -DDSV3_EXAMPLES_FLAGS=-O1 -DDSV3_WERROR=ON >/dev/null
  cmake --build build/dev --target dsv3-serve dsv3-chat
  ctest --test-dir build/dev --output-on-failure --no-tests=error -R "^(consume_|serve_(api|load)|cli_chat)" --parallel "$(nproc)"
'
