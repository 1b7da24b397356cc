// What the experiments of dsv3-numerics share: seeded numbers, tables, and the folder that they are written to.
#pragma once

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "../cli/cli.hpp"
#include "../cli/plot.hpp"
#include "dsv3/core/matrix.hpp"
#include "dsv3/io/atomic_file.hpp"

namespace laboratory::inline DSV3_ISA {

using dsv3::Index;
using dsv3::Matrix;

/// Random numbers that are the same in every run and on every platform.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}

  double uniform() { return (static_cast<double>(random_() >> 11) + 0.5) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); }
  /// In [0, n).
  Index below(Index n) { return static_cast<Index>(uniform() * static_cast<double>(n)); }

  /// Elements from f().
  template <class F>
  static dsv3::Matrix<float> matrix(Index rows, Index cols, F&& f) {
    return dsv3::Matrix<float>::NullaryExpr(rows, cols, [&] { return static_cast<float>(f()); });
  }

 private:
  std::mt19937_64 random_;
};

inline double mean(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}
/// Of a sample; 0 for one value.
inline double deviation(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += (x - mean(v)) * (x - mean(v));
  return v.size() > 1 ? std::sqrt(sum / static_cast<double>(v.size() - 1)) : 0;
}

/// Rows of figures under named columns.
struct Table {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::vector<nlohmann::json>> rows;

  std::string text() const {
    const auto cell = [](const nlohmann::json& value) -> std::string {
      if (value.is_string()) return value.get<std::string>();
      if (value.is_null()) return "-";
      char out[32];
      std::snprintf(out, sizeof out, value.is_number_integer() ? "%.0f" : "%.4g", value.get<double>());
      return out;
    };
    std::vector<std::size_t> widths;
    for (std::size_t c = 0; c < columns.size(); ++c) {
      widths.push_back(columns[c].size());
      for (const auto& row : rows) widths[c] = std::max(widths[c], cell(row[c]).size());
    }
    std::string out = title + "\n";
    const auto line = [&](auto&& at) {
      for (std::size_t c = 0; c < columns.size(); ++c) {
        const std::string s = at(c);
        const std::string gap(widths[c] - s.size(), ' ');
        out += (c == 0 ? s + gap : gap + s) + (c + 1 < columns.size() ? "  " : "\n");
      }
    };
    line([&](std::size_t c) { return columns[c]; });
    for (const auto& row : rows) line([&](std::size_t c) { return cell(row[c]); });
    return out;
  }
};

/// Where an experiment writes NAME.txt, NAME.json and NAME.svg. The table goes to standard output as well.
class Results {
 public:
  Results(std::filesystem::path folder, std::string name) : folder_(std::move(folder)), name_(std::move(name)) {
    std::filesystem::create_directories(folder_);
  }

  void write(const Table& table) const {
    std::printf("%s\n", table.text().c_str());
    std::fflush(stdout);
    save(".txt", table.text());
    save(".json", nlohmann::json{{"title", table.title}, {"columns", table.columns}, {"rows", table.rows}}.dump(1) + "\n");
  }
  void plot(const std::string& svg) const { save(".svg", svg); }
  /// Results beside these, under a longer name.
  Results beside(const std::string& more) const { return {folder_, name_ + "_" + more}; }

 private:
  void save(const char* ending, const std::string& text) const {
    dsv3::io::AtomicFile file(folder_ / (name_ + ending));
    file.write(text);
    file.commit();
  }

  std::filesystem::path folder_;
  std::string name_;
};

/// What an experiment is given.
struct Setting {
  dsv3::Context& ctx;
  const Results& results;
  bool brief;  ///< small sizes, for tests
  Index seeds;
};

}  // namespace laboratory::inline DSV3_ISA
