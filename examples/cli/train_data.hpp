// The training data of dsv3-train: files of text or tokens as one stream, cut into samples.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "cli.hpp"
#include "dsv3/io/tokenize_file.hpp"
#include "dsv3/train/objective.hpp"

namespace cli::inline DSV3_ISA {

class TrainData {
 public:
  /// Opens `files`; those of text are tokenized into token files in `cache` first, if they have not been before.
  /// `documents` separates documents at this token, which then do not see one another.
  TrainData(const std::vector<std::string>& files, const std::optional<dsv3::io::Tokenizer>& tokenizer, const std::filesystem::path& cache,
            const dsv3::io::TokenizeOptions& options, dsv3::Index vocab_size, std::optional<int> documents)
      : vocab_size_(vocab_size), documents_(documents) {
    for (const std::string& file : files) {
      std::filesystem::path path = file;
      if (path.extension() != ".bin") {
        dsv3::require(tokenizer.has_value(), file, ": is text: --tokenizer FILE is needed to train on it");
        path = tokenized(path, *tokenizer, cache, options);
      }
      parts_.push_back(dsv3::io::TokenFile::open(path, vocab_size > 65536 ? 4 : 2));
      size_ += parts_.back().size();
    }
  }

  dsv3::Index size() const { return size_; }

  /// Ids [begin, begin + out.size()) of the stream.
  void read(dsv3::Index begin, std::span<int> out) const {
    for (const auto& part : parts_) {
      if (begin < part.size() && !out.empty()) {
        const auto n = static_cast<std::size_t>(std::min(part.size() - begin, std::ssize(out)));
        part.read(begin, out.first(n), vocab_size_);
        out = out.subspan(n);
        begin = part.size();
      }
      begin -= part.size();
    }
  }

  /// Samples of an epoch, of `context` ids each. Throws: Error if there are too few ids for one.
  dsv3::Index samples(dsv3::Index context) const {
    dsv3::require(size_ >= context, "--data: ", size_, " ids are too few for one sample of --context ", context);
    return std::max(size_ / context - 1, dsv3::Index{1});
  }

  /// Sample number `n` of a run: epoch after epoch in shuffled order, each epoch cut at another place.
  void sample(dsv3::Index n, std::uint64_t seed, std::span<int> ids) const {
    const dsv3::Index context = std::ssize(ids), count = samples(context), epoch = n / count;
    const auto room = static_cast<std::uint64_t>(std::min(size_ - count * context + 1, context));
    const auto offset = static_cast<dsv3::Index>(dsv3::train::hash64(seed ^ dsv3::train::hash64(static_cast<std::uint64_t>(epoch))) % room);
    read(offset + context * dsv3::train::Shuffle(count, seed, static_cast<std::uint64_t>(epoch))(n % count), ids);
  }

  /// Where the documents of a sample begin; empty if they are not told apart.
  std::vector<dsv3::Index> documents(std::span<const int> ids) const {
    std::vector<dsv3::Index> begins;
    if (!documents_) return begins;
    begins.push_back(0);
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      if (ids[i] == *documents_) begins.push_back(static_cast<dsv3::Index>(i) + 1);
    return begins;
  }

 private:
  // The cache's name tells text, tokenizer and options apart.
  static std::filesystem::path tokenized(const std::filesystem::path& path, const dsv3::io::Tokenizer& tokenizer,
                                         const std::filesystem::path& cache, const dsv3::io::TokenizeOptions& options) {
    using dsv3::train::hash64;
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    dsv3::require(!error, path.string(), ": cannot open: ", error.message());
    std::uint64_t key =
        hash64(size) ^ hash64(static_cast<std::uint64_t>(std::filesystem::last_write_time(path).time_since_epoch().count()));
    for (const char c : std::filesystem::absolute(path).string()) key = hash64(key ^ static_cast<unsigned char>(c));
    for (int id = 0; id < tokenizer.vocab_size(); ++id) try {
        for (const char c : tokenizer.token_bytes(id)) key = hash64(key ^ static_cast<unsigned char>(c));
      } catch (const dsv3::Error&) {  // a gap in the vocabulary
      }
    key = hash64(key ^ static_cast<std::uint64_t>(options.end_token.value_or(-1)));
    key = hash64(key ^ (options.fim_tokens ? hash64(options.seed) ^ static_cast<std::uint64_t>(options.fim_rate * 1e9) : 0));
    char name[64];
    std::snprintf(name, sizeof name, "tokens-%016llx.bin", static_cast<unsigned long long>(key));
    std::filesystem::create_directories(cache);
    const auto target = cache / name;
    if (!std::filesystem::exists(target)) dsv3::io::TokenFile::write(target, dsv3::io::tokenize_file(path, tokenizer, options));
    return target;
  }

  std::vector<dsv3::io::TokenFile> parts_;
  dsv3::Index size_ = 0, vocab_size_;
  std::optional<int> documents_;
};

}  // namespace cli::inline DSV3_ISA
