"""Conan's recipe: conan create cmake/conan -s compiler.cppstd=20, with -o "&:system=True" against the machine's own libraries."""
import pathlib
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy
from conan.tools.gnu import PkgConfig
from conan.tools.layout import basic_layout
from conan.tools.system import package_manager


class Dsv3(ConanFile):
    name = "dsv3"
    description = "Header-only C++20 building blocks of DeepSeek-V3"
    license = "MIT"
    topics = ("deepseek", "mixture-of-experts", "inference", "training", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # io: checkpoints and tokenizers, which need nlohmann_json and PCRE2. system: dependencies are the machine's own, found by pkg-config.
    options = {"io": [True, False], "system": [True, False]}
    default_options = {"io": True, "system": False}
    no_copy_source = True

    def set_version(self):
        header = pathlib.Path(self.recipe_folder, "../../include/dsv3/version.hpp").read_text()
        self.version = ".".join(re.findall(r"#define DSV3_VERSION_\w+ (\d+)", header))

    def export_sources(self):
        root = pathlib.Path(self.recipe_folder, "../..").resolve()
        for pattern in ("LICENSE", "include/*.hpp", "cmake/dsv3-dispatch.cmake"):
            copy(self, pattern, root, self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        if not self.options.system:
            self.requires("eigen/[>=3.4 <6]")
            self.requires("xsimd/[>=8.1 <15]")
            if self.options.io:
                self.requires("nlohmann_json/[>=3.10 <4]")
                self.requires("pcre2/[>=10 <11]")

    def system_requirements(self):
        if self.options.system:
            packages = ["pkg-config", "libeigen3-dev", "libxsimd-dev"]
            if self.options.io:
                packages += ["nlohmann-json3-dev", "libpcre2-dev"]
            package_manager.Apt(self).install(packages)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.settings.clear()  # headers: one package for all

    def package(self):
        copy(self, "LICENSE", self.source_folder, f"{self.package_folder}/licenses")
        copy(self, "*.hpp", f"{self.source_folder}/include", f"{self.package_folder}/include")
        copy(self, "dsv3-dispatch.cmake", f"{self.source_folder}/cmake", f"{self.package_folder}/lib/cmake/dsv3")

    # The targets of the CMake package, but for dsv3::openmp: with Conan, link OpenMP::OpenMP_CXX yourself.
    def package_info(self):
        self.cpp_info.set_property("cmake_build_modules", ["lib/cmake/dsv3/dsv3-dispatch.cmake"])
        self._component("dsv3", [], {"eigen3": "eigen::eigen", "xsimd": "xsimd::xsimd"})
        if self.options.io:
            self._component("io", ["dsv3"], {"nlohmann_json": "nlohmann_json::nlohmann_json", "libpcre2-8": "pcre2::pcre2"})

    def _component(self, name, requires, dependencies):
        """A component of headers. `dependencies` has the name of each in pkg-config and in Conan."""
        component = self.cpp_info.components[name]
        component.bindirs = component.libdirs = []
        component.requires = list(requires)
        for of_system, of_conan in dependencies.items():
            if not self.options.system:
                component.requires.append(of_conan)
                continue
            found = self.cpp_info.components[of_system]
            found.bindirs = found.libdirs = found.includedirs = []
            PkgConfig(self, of_system).fill_cpp_info(found, is_system=True)
            component.requires.append(of_system)
