"""Builds and runs a stranger's program of tests/consume against the package that `conan create` made, in build/conan."""
import pathlib

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeToolchain


class Dsv3Test(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        self.folders.root = "../../.."
        self.folders.source = "cmake/conan/test_package"
        self.folders.build = self.folders.generators = "build/conan"

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        toolchain.cache_variables["WITH_IO"] = bool(self.dependencies["dsv3"].options.io)
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        if can_run(self):
            model = pathlib.Path(self.source_folder, "../../../tests/data/models/shakespeare").resolve()
            self.run(f'"{self.build_folder}/stranger" "{model}"', env="conanrun")
