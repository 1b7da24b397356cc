// dsv3-quantize: a checkpoint's weights in another number format, converted a few rows at a time.
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli.hpp"
#include "dsv3/io/binding.hpp"
#include "dsv3/io/config_json.hpp"
#include "dsv3/io/page_advice.hpp"
#include "dsv3/model/quantize.hpp"

namespace {

using dsv3::Index;
using dsv3::Matrix;
using dsv3::io::Dtype;
using dsv3::io::Tensor;
using dsv3::io::TensorSpec;
using Json = nlohmann::ordered_json;

constexpr const char* usage =
    "usage: dsv3-quantize DIR OUT --to fp8|fp8-ue8m0|bf16 [options]\n\n"
    "Writes the checkpoint in DIR (float32, bf16, f16 or fp8) to the folder OUT.\n"
    "  --to T       fp8: projections as e4m3 with one float32 scale per 128x128 block, as DeepSeek-V3 is published;\n"
    "               fp8-ue8m0: with scales that are powers of two, as DeepSeek-V3.1 is; bf16: no fp8 at all.\n"
    "               All other matrices become bf16; vectors stay as they are\n"
    "  --shard-mb N megabytes of a file at most, if no tensor is larger (default 5000)\n"
    "  --threads N  default: all processors\n"
    "  --help       prints this text\n"
    "OUT/quantize.json tells the error of each tensor, and which files are done: the same command again goes on with the others.\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

constexpr Index block = 128;

enum class Format { fp8, fp8_ue8m0, bf16 };

/// How far a tensor's new values are from those it had.
struct Distance {
  double error = 0, norm = 0, largest_error = 0, largest = 0;

  void add(float before, float after) {
    const double e = static_cast<double>(after) - static_cast<double>(before);
    error += e * e, norm += static_cast<double>(before) * static_cast<double>(before);
    largest_error = std::max(largest_error, std::abs(e)), largest = std::max(largest, std::abs(static_cast<double>(before)));
  }
  void add(const Distance& d) {
    error += d.error, norm += d.norm;
    largest_error = std::max(largest_error, d.largest_error), largest = std::max(largest, d.largest);
  }
  /// Root of the squared errors over that of the squared values, and the largest error over the largest value.
  Json json() const {
    return {{"relative_error", norm > 0 ? std::sqrt(error / norm) : 0.0}, {"largest_error", largest > 0 ? largest_error / largest : 0.0}};
  }
};

/// A tensor of DIR and what becomes of it.
struct Source {
  const Tensor* tensor;
  const Tensor* scales;  ///< of fp8 codes, or null
  enum { copied, to_bf16, to_fp8 } as;
};

class Conversion {
 public:
  Conversion(const std::filesystem::path& from, std::filesystem::path to, Format format, std::size_t shard_bytes, dsv3::Context& ctx)
      : from_(from), to_(std::move(to)), format_(format), ctx_(ctx), files_(dsv3::io::CheckpointFiles::open(from)) {
    const dsv3::Config config = dsv3::io::read_config(from);
    kept_fp8_ = format == Format::fp8 || (format == Format::fp8_ue8m0 && config.fp8_power_of_two_scales);
    std::error_code error;
    std::filesystem::create_directories(to_, error);
    dsv3::require(!error, to_.string(), ": cannot make the folder: ", error.message());
    dsv3::require(!std::filesystem::equivalent(from, to_, error), to_.string(), ": expected another folder than that of the checkpoint");
    plan(shard_bytes);
    begin_journal(shard_bytes);
  }

  void run() {
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      if (!done(i)) {
        const auto path = to_ / shard_name(i);
        errors_ = Json::object();
        dsv3::io::write_safetensors(path, shards_[i], [&](const TensorSpec& spec, const auto& sink) { write(spec, sink); });
        journal_["files"][shard_name(i)] = errors_;
        write_text(to_ / "quantize.json", journal_.dump(2) + "\n");
      }
      std::cerr << i + 1 << "/" << shards_.size() << " " << shard_name(i) << "\n";
    }
    if (shards_.size() > 1) {
      Json index;
      index["metadata"]["total_size"] = total_bytes_;
      for (std::size_t i = 0; i < shards_.size(); ++i)
        for (const TensorSpec& t : shards_[i]) index["weight_map"][t.name] = shard_name(i);
      write_text(to_ / "model.safetensors.index.json", index.dump(2) + "\n");
    }
    for (const char* name : {"tokenizer.json", "tiktoken.model", "tokenizer_config.json", "special_tokens_map.json",
                             "generation_config.json", "chat_template.jinja"})
      if (std::filesystem::exists(from_ / name)) write_text(to_ / name, dsv3::io::read_text_file(from_ / name, std::size_t{256} << 20));
    write_config();
    report();
  }

 private:
  static void write_text(const std::filesystem::path& path, std::string_view text) {
    dsv3::io::AtomicFile file(path);
    file.write(text);
    file.commit();
  }

  std::string shard_name(std::size_t i) const {
    if (shards_.size() == 1) return "model.safetensors";
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards_.size());
    return name;
  }

  // Which tensors are written, as what, in which file.
  void plan(std::size_t shard_bytes) {
    std::size_t bytes = 0;
    for (const Tensor& t : files_.tensors()) {
      const bool is_scale = t.name.ends_with("_scale_inv");
      if (is_scale) {
        const Tensor* codes = files_.find(t.name.substr(0, t.name.size() - std::string_view("_scale_inv").size()));
        if (codes != nullptr && codes->dtype == Dtype::F8_E4M3) continue;  // goes with its codes
      }
      Source source{&t, t.dtype == Dtype::F8_E4M3 ? files_.find(t.name + "_scale_inv") : nullptr, Source::copied};
      const bool matrix = t.shape.size() == 2 && (t.dtype == Dtype::F32 || t.dtype == Dtype::BF16 || t.dtype == Dtype::F16);
      if (t.dtype == Dtype::F8_E4M3) check_fp8(source);
      const bool fp8 = t.dtype == Dtype::F8_E4M3;
      if ((matrix || fp8) && format_ != Format::bf16 && dsv3::is_published_as_fp8(t.name))
        source.as = fp8 && kept_fp8_ ? Source::copied : Source::to_fp8;
      else if ((matrix && t.dtype != Dtype::BF16) || fp8)
        source.as = Source::to_bf16;
      std::vector<TensorSpec> specs{{t.name,
                                     source.as == Source::to_bf16  ? Dtype::BF16
                                     : source.as == Source::to_fp8 ? Dtype::F8_E4M3
                                                                   : t.dtype,
                                     t.shape}};
      if (source.as == Source::to_fp8)
        specs.push_back({t.name + "_scale_inv", Dtype::F32, {(t.shape[0] + block - 1) / block, (t.shape[1] + block - 1) / block}});
      else if (source.as == Source::copied && fp8)
        specs.push_back({source.scales->name, source.scales->dtype, source.scales->shape});
      std::size_t more = 0;
      for (const TensorSpec& s : specs) more += static_cast<std::size_t>(dsv3::io::detail::data_bytes(s));
      if (shards_.empty() || bytes + more > shard_bytes) shards_.emplace_back(), bytes = 0;
      bytes += more, total_bytes_ += more;
      for (const TensorSpec& s : specs) shards_.back().push_back(s);
      sources_.emplace(t.name, source);
    }
    dsv3::require(!shards_.empty(), from_.string(), ": the checkpoint has no tensors");
  }

  void check_fp8(const Source& s) const {
    const Tensor& t = *s.tensor;
    dsv3::require(s.scales != nullptr, t.name, "_scale_inv: missing, though the weight is stored as fp8 (", t.file, ")");
    dsv3::require(t.shape.size() == 2, t.name, ": expected a matrix, got shape ", dsv3::shape_string(t.shape), " (", t.file, ")");
    const std::vector<Index> expected{(t.shape[0] + block - 1) / block, (t.shape[1] + block - 1) / block};
    if (auto wrong = dsv3::io::check_shape(*s.scales, expected)) dsv3::fail(*wrong);
    if (auto wrong = dsv3::io::check_is_float(*s.scales)) dsv3::fail(*wrong);
  }

  // The journal of an earlier run of the same command is gone on with; any other is left alone.
  void begin_journal(std::size_t shard_bytes) {
    constexpr const char* names[] = {"fp8", "fp8-ue8m0", "bf16"};
    Json settings{
        {"source", std::filesystem::canonical(from_).string()}, {"to", names[static_cast<int>(format_)]}, {"shard_bytes", shard_bytes}};
    std::set<std::string> paths{(from_ / "config.json").string()};
    for (const Tensor& t : files_.tensors()) paths.insert(t.file);
    for (const std::string& path : paths)  // a source that has changed in between would be mixed with what it was
      settings["files"][std::filesystem::path(path).filename().string()] = {
          std::filesystem::file_size(path), std::filesystem::last_write_time(path).time_since_epoch().count()};
    const auto path = to_ / "quantize.json";
    journal_ = {{"settings", settings}, {"files", Json::object()}};
    if (std::filesystem::exists(path)) {
      const auto old = Json::parse(dsv3::io::parse_json(dsv3::io::read_text_file(path, std::size_t{1} << 30), path.string()).dump());
      const bool same = old.is_object() && old.contains("settings") && old.contains("files") && old["files"].is_object() &&
                        nlohmann::json(old["settings"]) == nlohmann::json(settings);
      dsv3::require(same, path.string(), ": is of another conversion, or its source has changed: give an empty folder");
      journal_["files"] = old["files"];
      for (const auto& entry : std::filesystem::directory_iterator(to_)) {  // what a run was writing when it was killed
        const std::string name = entry.path().filename().string();
        if (name.starts_with(".model") && name.ends_with(".tmp")) std::filesystem::remove(entry.path());
      }
    } else {
      dsv3::require(!dsv3::io::CheckpointFiles::are_in(to_) && !std::filesystem::exists(to_ / "config.json"), to_.string(),
                    ": holds a checkpoint already: give an empty folder");
      write_text(path, journal_.dump(2) + "\n");
    }
  }

  /// Whether shard i is there as this run would write it: files appear whole or not at all.
  bool done(std::size_t i) const {
    const auto path = to_ / shard_name(i);
    if (!journal_["files"].contains(shard_name(i)) || !std::filesystem::exists(path)) return false;
    const auto file = dsv3::io::Safetensors::open(path);
    for (const TensorSpec& s : shards_[i]) {
      const Tensor* t = file.find(s.name);
      if (t == nullptr || t->dtype != s.dtype || t->shape != s.shape) return false;
    }
    return file.tensors().size() == shards_[i].size();
  }

  template <class Sink>
  void write(const TensorSpec& spec, const Sink& sink) {
    const auto at = sources_.find(spec.name);
    if (at == sources_.end()) {  // scales of a weight, which the file has before all codes: they are found in a pass of their own
      const Source& s = sources_.at(spec.name.substr(0, spec.name.size() - std::string_view("_scale_inv").size()));
      if (s.as == Source::copied)
        sink(s.scales->data);
      else
        quantize(s, [&](const auto&, const Matrix<float>& scales) { sink(bytes_of(scales)); });
      release(*s.tensor);
      return;
    }
    const Source& s = at->second;
    distance_ = {};
    if (s.as == Source::copied) {
      sink(s.tensor->data);
      release(*s.tensor);
      return;
    }
    if (s.as == Source::to_fp8)
      quantize(s, [&](const auto& codes, const Matrix<float>&) { sink(bytes_of(codes)); });
    else
      round(s, sink);
    errors_[spec.name] = distance_.json();
    release(*s.tensor);
  }

  template <class T>
  static std::span<const std::byte> bytes_of(const Matrix<T>& m) {
    return std::as_bytes(std::span(m.data(), static_cast<std::size_t>(m.size())));
  }

  // Pages that have been read are given back, so that memory in use is that of one tensor.
  static void release(const Tensor& t) { dsv3::io::detail::advise(t.data, MADV_DONTNEED); }

  /// Rows [begin, begin + n) of a source as float32 [n, cols], which must be finite. `begin` is a multiple of 128.
  Matrix<float> rows(const Source& s, Index begin, Index n) const {
    const Tensor& t = *s.tensor;
    const Index cols = t.shape.back();
    Matrix<float> y(n, cols);
    const std::size_t size = dsv3::io::size(t.dtype), first = static_cast<std::size_t>(begin * cols) * size;
    Tensor part = t;
    part.shape = {n, cols};
    part.data = t.data.subspan(first, static_cast<std::size_t>(n * cols) * size);
    if (s.scales == nullptr) {
      dsv3::io::decode_floats(part, y.data());
    } else {
      std::vector<float> scales(static_cast<std::size_t>(s.scales->elements()));
      dsv3::io::decode_floats(*s.scales, scales.data());
      const Index stride = s.scales->shape[1];
      const dsv3::Fp8Block<block, block>::View view{
          reinterpret_cast<const std::uint8_t*>(part.data.data()), n, cols, cols, scales.data() + begin / block * stride, stride};
      for (Index i = 0; i < n; ++i) dsv3::decode_row<dsv3::simd::DefaultArch>(view, i, y.row(i).data());
    }
    if (!y.allFinite())
      for (Index i = 0; i < y.size(); ++i)
        dsv3::require(std::isfinite(y.data()[i]), t.name, ": element ", dsv3::shape_string({begin + i / cols, i % cols}),
                      " is not finite (", t.file, ")");
    return y;
  }

  /// convert(rows, distance) for 128 rows at a time, some at once, then use(its result) in order.
  template <class Result, class Convert, class Use>
  void by_blocks(const Source& s, Convert&& convert, Use&& use) {
    const Index all = s.tensor->shape[0], cols = s.tensor->shape[1], at_once = 16;
    for (Index first = 0; first < all; first += at_once * block) {
      const Index parts = std::min(at_once, (all - first + block - 1) / block);
      std::vector<Result> results(static_cast<std::size_t>(parts));
      std::vector<Distance> distances(static_cast<std::size_t>(parts));
      std::vector<std::string> problems(static_cast<std::size_t>(parts));
      ctx_.parallel_for(parts, parts * block * cols * 16, [&](Index i, int) {
        const auto at = static_cast<std::size_t>(i);
        try {  // threads hand no exceptions on
          const Index begin = first + i * block;
          results[at] = convert(rows(s, begin, std::min(block, all - begin)), distances[at]);
        } catch (const std::exception& e) {
          problems[at] = e.what();
        }
      });
      for (std::size_t i = 0; i < results.size(); ++i) {
        dsv3::require(problems[i].empty(), problems[i]);
        distance_.add(distances[i]);
        use(results[i]);
      }
    }
  }

  template <class Use>
  void quantize(const Source& s, Use&& use) {
    const auto scale_format = format_ == Format::fp8_ue8m0 ? dsv3::ScaleFormat::power_of_two : dsv3::ScaleFormat::float32;
    by_blocks<dsv3::Fp8Matrix>(
        s,
        [&](const Matrix<float>& w, Distance& d) {
          auto q = dsv3::quantize_fp8(dsv3::view(w), scale_format);
          for (Index i = 0; i < w.rows(); ++i)
            for (Index k = 0; k < w.cols(); ++k) d.add(w(i, k), dsv3::codec::E4m3::decode(q.codes(i, k)) * q.scales(0, k / block));
          return q;
        },
        [&](const dsv3::Fp8Matrix& q) { use(q.codes, q.scales); });
  }

  template <class Sink>
  void round(const Source& s, const Sink& sink) {
    using Bf16 = dsv3::codec::BFloat16;
    by_blocks<Matrix<Bf16::Code>>(
        s,
        [&](const Matrix<float>& w, Distance& d) {
          Matrix<Bf16::Code> codes(w.rows(), w.cols());
          for (Index i = 0; i < w.size(); ++i) {
            codes.data()[i] = Bf16::encode(w.data()[i]);
            d.add(w.data()[i], Bf16::decode(codes.data()[i]));
          }
          return codes;
        },
        [&](const Matrix<Bf16::Code>& codes) { sink(bytes_of(codes)); });
  }

  // The source's config.json, but for what it says of number formats. It comes last: a folder without it is not finished.
  void write_config() const {
    const auto path = from_ / "config.json";
    auto json = dsv3::io::parse_json(dsv3::io::read_text_file(path, std::size_t{16} << 20), path.string());
    json.erase("quantization_config");
    json["torch_dtype"] = "bfloat16";
    if (format_ != Format::bf16) {
      auto& q = json["quantization_config"];
      q = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}, {"weight_block_size", {block, block}}};
      if (format_ == Format::fp8_ue8m0) q["scale_fmt"] = "ue8m0";
    }
    write_text(to_ / "config.json", json.dump(2) + "\n");
  }

  void report() const {
    double worst = 0;
    std::string name;
    std::size_t converted = 0;
    for (const auto& file : journal_["files"].items())
      for (const auto& t : file.value().items()) {
        const double e = t.value().value("relative_error", 0.0);
        ++converted;
        if (e >= worst) worst = e, name = t.key();
      }
    std::printf("%s: %zu tensors, %.3f GB (before: %.3f GB); %zu converted", to_.c_str(), sources_.size(),
                static_cast<double>(total_bytes_) / 1e9, static_cast<double>(files_.total_bytes()) / 1e9, converted);
    if (converted > 0) std::printf(", largest relative error %.4f, of %s", worst, name.c_str());
    std::printf("\n");
  }

  std::filesystem::path from_, to_;
  Format format_;
  dsv3::Context& ctx_;
  dsv3::io::CheckpointFiles files_;
  bool kept_fp8_ = false;  ///< codes that the source has already are copied
  std::map<std::string, Source> sources_;
  std::vector<std::vector<TensorSpec>> shards_;
  std::size_t total_bytes_ = 0;
  Json journal_, errors_;
  Distance distance_;
};

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-quantize", usage, [&] {
    const cli::Args args(argc, argv, 2, {"--to", "--shard-mb", "--threads"}, {});
    const auto to = args.value("--to").value_or("");
    if (to != "fp8" && to != "fp8-ue8m0" && to != "bf16") throw cli::UsageError("--to: expected fp8, fp8-ue8m0 or bf16, got '" + to + "'");
    const auto megabytes = args.number<std::size_t>("--shard-mb", 5000, 1, 1000000);
    const auto executor = cli::make_executor(args.threads());
    dsv3::Context ctx(executor);
    Conversion(args[0], args[1],
               to == "fp8"    ? Format::fp8
               : to == "bf16" ? Format::bf16
                              : Format::fp8_ue8m0,
               megabytes * 1000000, ctx)
        .run();
  });
}
