#!/bin/sh
# newer.sh FOLDER: unpacks Debian unstable's Eigen and xsimd (headers only), with what xsimd's package asks for, into FOLDER/usr, and
# cpp-httplib's header into FOLDER/httplib. The system's packages stay as they are.
set -eu
folder=$1
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
folder=$(cd "$folder" && pwd)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" >"$folder/sources.list"
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$folder/lists" \
    -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root "$@"
}
apt update
rm -f "$folder"/*.deb
cd "$folder"
apt download libeigen3-dev libxsimd-dev xtl-dev libcpp-httplib-dev
for package in *.deb; do
  dpkg -x "$package" "$folder"
done
mkdir -p httplib
mv usr/include/httplib.h httplib
ls ./*.deb
