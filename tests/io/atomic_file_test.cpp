// A file that appears whole or not at all: what is flushed, and when.
#include "dsv3/io/atomic_file.hpp"

#include <doctest/doctest.h>
#include <sys/syscall.h>

#include <fstream>
#include <iterator>
#include <vector>

#include "io/temp_folder.hpp"

namespace {

std::filesystem::path target;
std::vector<bool> flushes;  // of each flush: whether the target was in place already
int failing = -1;           // the flush that fails

}  // namespace

// Stands in for the C library's: a test cannot take the power away.
extern "C" int fsync(int file) {
  flushes.push_back(std::filesystem::exists(target));
  if (failing == static_cast<int>(flushes.size()) - 1) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, file));
}

TEST_CASE("the bytes are flushed before the file gets its name, and its folder afterwards") {
  const TempFolder folder;
  target = folder / "weights";
  const auto write = [&](int fails) {
    flushes.clear();
    failing = fails;
    dsv3::io::AtomicFile file(target);
    file.write("new");
    file.commit();
  };
  write(-1);
  CHECK(flushes == std::vector<bool>{false, true});
  std::ifstream in(target);
  CHECK(std::string(std::istreambuf_iterator<char>(in), {}) == "new");

  std::filesystem::remove(target);
  CHECK_THROWS_WITH_AS(write(0), (target.string() + ": cannot flush to the disk: Input/output error").c_str(), dsv3::Error);
  CHECK(folder.files() == 0);
  CHECK_THROWS_WITH_AS(write(1), (target.string() + ": cannot flush its folder: Input/output error").c_str(), dsv3::Error);
  CHECK(std::filesystem::exists(target));  // whole; only whether it outlives a crash is uncertain
}
