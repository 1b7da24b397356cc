// Line plots and heat maps as SVG files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace cli::inline DSV3_ISA {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

/// An SVG of some curves over one pair of axes, from `low` if it is finite.
inline std::string line_plot(const std::string& title, const std::string& x_name, const std::vector<Curve>& curves, double low = NAN) {
  constexpr double width = 760, height = 420, left = 60, right = 20, top = 40, bottom = 50;
  constexpr const char* colours[] = {"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf", "#7f7f7f"};
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Curve& c : curves)
    for (const auto& [x, y] : c.points) x0 = std::min(x0, x), x1 = std::max(x1, x), y0 = std::min(y0, y), y1 = std::max(y1, y);
  if (!(x0 <= x1)) x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  if (std::isfinite(low)) y0 = std::min(low, y0);
  if (x1 == x0) x1 = x0 + 1;
  if (y1 <= y0) y1 = y0 + 1;
  const auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
  const auto py = [&](double y) { return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom); };
  std::string out;
  char text[256];
  const auto add = [&](const char* format, auto... values) {
    std::snprintf(text, sizeof text, format, values...);
    out += text;
  };
  add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height);
  add("<rect width=\"%g\" height=\"%g\" fill=\"white\"/>\n<text x=\"%g\" y=\"20\" font-size=\"15\">", width, height, left);
  out += title + "</text>\n";
  const auto step = [](double range) {
    const double raw = range / 6, power = std::pow(10, std::floor(std::log10(raw))), digit = raw / power;
    return power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
  };
  for (double d = step(y1 - y0), y = std::ceil(y0 / d) * d; y <= y1 + d * 1e-9; y += d) {
    add("<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>", left, width - right, py(y), py(y));
    add("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", left - 6, py(y) + 4, y);
  }
  for (double d = step(x1 - x0), x = std::ceil(x0 / d) * d; x <= x1 + d * 1e-9; x += d)
    add("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%.6g</text>\n", px(x), height - bottom + 18, x);
  add("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">", (left + width - right) / 2, height - 12);
  out += x_name + "</text>\n";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const char* colour = colours[i % std::size(colours)];
    add("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
    const std::size_t every = std::max<std::size_t>(1, curves[i].points.size() / 1500);
    for (std::size_t k = 0; k < curves[i].points.size(); k += every)
      add("%.1f,%.1f ", px(curves[i].points[k].first), py(curves[i].points[k].second));
    out += "\"/>\n";
    add("<text x=\"%g\" y=\"%g\" fill=\"%s\" text-anchor=\"end\">", width - right - 4, top + 14 + 15 * static_cast<double>(i), colour);
    out += curves[i].name + "</text>\n";
  }
  return out + "</svg>\n";
}

/// An SVG of values[row][column] in [low, high] as squares from white to blue, with the value in each.
inline std::string heat_map(const std::string& title, const std::vector<std::string>& rows, const std::vector<std::string>& columns,
                            const std::vector<std::vector<double>>& values, double low, double high) {
  constexpr double left = 180, top = 60, square = 44, height = 26;
  const double width = std::max(left + square * static_cast<double>(columns.size()) + 20, 560.0);
  std::string out;
  char text[256];
  const auto add = [&](const char* format, auto... v) {
    std::snprintf(text, sizeof text, format, v...);
    out += text;
  };
  add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" font-size=\"11\">\n", width,
      top + height * static_cast<double>(rows.size()) + 20);
  add("<rect width=\"%g\" height=\"100%%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"15\">", width);
  out += title + "</text>\n";
  for (std::size_t c = 0; c < columns.size(); ++c) {
    add("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">", left + square * (static_cast<double>(c) + 0.5), top - 8);
    out += columns[c] + "</text>\n";
  }
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const double y = top + height * static_cast<double>(r);
    add("<text x=\"%g\" y=\"%g\" text-anchor=\"end\">", left - 8, y + 17);
    out += rows[r] + "</text>\n";
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const double share = std::clamp((values[r][c] - low) / (high - low), 0.0, 1.0), x = left + square * static_cast<double>(c);
      const auto shade = [&](double dark) { return static_cast<int>(255 - share * (255 - dark)); };
      add("<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"rgb(%d,%d,%d)\"/>", x, y, square - 1, height - 1, shade(31),
          shade(119), shade(180));
      add("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\" fill=\"%s\">%.2f</text>\n", x + square / 2, y + 17,
          share > 0.6 ? "white" : "black", values[r][c]);
    }
  }
  return out + "</svg>\n";
}

}  // namespace cli::inline DSV3_ISA
