// The folder of a training run: whole checkpoints with the trainer's state, the log, and plots of it.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "cli.hpp"
#include "dsv3/io/save.hpp"
#include "dsv3/io/training_state.hpp"
#include "dsv3/model/quantize.hpp"
#include "plot.hpp"

namespace cli::inline DSV3_ISA {

namespace fs = std::filesystem;

/// The model with its matrices in another type: "float32" (as they are), "bf16", or "fp8": projections in fp8, the rest in bf16.
template <class P>
dsv3::Model<P> stored_as(dsv3::Context& ctx, dsv3::Model<P> model, const std::string& type) {
  if (type == "fp8") dsv3::quantize_fp8(ctx, model);
  if (type != "float32")
    dsv3::Model<P>::for_each_tensor(model, [&]<class T>(const std::string&, T& parameter) {
      if constexpr (requires { parameter.view; }) {
        const auto* floats = std::get_if<dsv3::F32::View>(&parameter.view);
        if (floats == nullptr) return;
        const auto codes = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(parameter.size()));
        for (std::size_t i = 0; i < codes->size(); ++i) (*codes)[i] = dsv3::codec::BFloat16::encode(floats->data[i]);
        parameter.view = dsv3::Bf16::View{codes->data(), parameter.rows, parameter.cols, parameter.cols};
        model.keep(codes);
      }
    });
  return model;
}

class TrainFolder {
 public:
  explicit TrainFolder(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::create_directories(path_, error);
    dsv3::require(!error, path_.string(), ": cannot make the folder: ", error.message());
  }

  const fs::path& path() const { return path_; }

  /// Checkpoints that are whole, by step.
  std::map<dsv3::Index, fs::path> checkpoints() const {
    std::map<dsv3::Index, fs::path> found;
    for (const auto& entry : fs::directory_iterator(path_)) {
      const std::string name = entry.path().filename().string();
      dsv3::Index step = 0;
      if (!name.starts_with("step-")) continue;
      const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
      if (error == std::errc() && end == name.data() + name.size() && fs::exists(entry.path() / "state.safetensors"))
        found[step] = entry.path();
    }
    return found;
  }

  /// Writes a checkpoint beside the others and gives it its name when it is whole; of all, the last `keep` stay. write(folder) fills it.
  template <class Write>
  void add(dsv3::Index step, dsv3::Index keep, Write&& write) const {
    char name[32];
    std::snprintf(name, sizeof name, "step-%08td", step);
    const fs::path target = path_ / name, part = path_ / (std::string(".") + name + ".part");
    for (const auto& entry : fs::directory_iterator(path_))  // what an interrupted run left
      if (entry.path().extension() == ".part") fs::remove_all(entry.path());
    fs::create_directory(part);
    try {
      write(part);
      flush(part);
      fs::remove_all(target);
      fs::rename(part, target);
      flush(path_);
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(part, ignored);
      throw;
    }
    auto all = checkpoints();
    while (std::ssize(all) > keep) {
      // Out of the way first: what is half removed must not look whole.
      const fs::path old = path_ / (".old" + std::to_string(all.begin()->first) + ".part");
      fs::rename(all.begin()->second, old);
      fs::remove_all(old);
      all.erase(all.begin());
    }
  }

  /// Opens the log for appending, without the lines of steps after `step`.
  void open_log(dsv3::Index step) {
    const fs::path log = path_ / "log.jsonl";
    std::string kept;
    if (std::ifstream in(log); step > 0 && in)
      for (std::string line; std::getline(in, line);) {
        const auto json = nlohmann::json::parse(line, nullptr, false);
        if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer() || json["step"] > step) continue;
        kept += line + "\n";
        remember(json);
      }
    dsv3::io::AtomicFile file(log);
    file.write(kept);
    file.commit();
    log_.open(log, std::ios::app);
    dsv3::require(log_.good(), log.string(), ": cannot write: ", std::strerror(errno));
  }
  void log(const nlohmann::json& line) {
    log_ << line.dump() << '\n' << std::flush;
    dsv3::require(log_.good(), (path_ / "log.jsonl").string(), ": cannot write: ", std::strerror(errno));
    remember(line);
  }

  /// loss.svg, load.svg, and index.html, which shows both and looks again every few seconds.
  void plot() const {
    const auto write = [&](const char* name, const std::string& text) {
      dsv3::io::AtomicFile file(path_ / name);
      file.write(text);
      file.commit();
    };
    write("loss.svg", line_plot("Loss", "step", loss_));
    write("load.svg", line_plot("Load of the busiest expert over the mean", "step", load_, 1));
    write("index.html",
          "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\"><title>dsv3-train</title>\n"
          "<img src=\"loss.svg\" alt=\"loss\" width=\"760\"><br><img src=\"load.svg\" alt=\"load\" width=\"760\">\n");
  }

 private:
  static void flush(const fs::path& folder) {
    const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle < 0) return;
    ::fsync(handle);
    ::close(handle);
  }

  void remember(const nlohmann::json& line) {
    const double step = line["step"].get<double>();
    const auto point = [&](std::vector<Curve>& curves, const std::string& name, double value) {
      auto at = std::find_if(curves.begin(), curves.end(), [&](const Curve& c) { return c.name == name; });
      if (at == curves.end()) at = curves.insert(curves.end(), {name, {}});
      at->points.emplace_back(step, value);
    };
    if (line.contains("valid")) point(loss_, "validation", line["valid"].get<double>());
    if (!line.contains("main") || !line["main"].is_number()) return;
    point(loss_, "main", line["main"].get<double>());
    for (std::size_t k = 0; k < line["mtp"].size(); ++k)
      if (line["mtp"][k].is_number()) point(loss_, "MTP " + std::to_string(k + 1), line["mtp"][k].get<double>());
    for (std::size_t i = 0; i < line["load"].size(); ++i) point(load_, "experts " + std::to_string(i), line["load"][i].get<double>());
  }

  fs::path path_;
  std::ofstream log_;
  std::vector<Curve> loss_, load_;
};

}  // namespace cli::inline DSV3_ISA
