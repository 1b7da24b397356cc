// Floor 6. The header of a safetensors file: Tensor, and the reader that turns the JSON text into tensors.
//
// Checks each entry by itself. safetensors.hpp checks where the header lies in a file, and that the tensors tile the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/dtype.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A named tensor: row-major elements of `dtype`, as raw bytes that someone else keeps alive.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<Index> shape;         ///< empty for a scalar
  std::span<const std::byte> data;  ///< elements() * size(dtype) bytes; see aligned()
  std::string file;                 ///< where it came from, for error messages

  Index elements() const { return static_cast<Index>(data.size() / size(dtype)); }

  /// Whether `data` may be read through a pointer to the element type; the format does not promise it.
  bool aligned() const { return reinterpret_cast<std::uintptr_t>(data.data()) % size(dtype) == 0; }
};

namespace detail {

/// Builds tensors while the header is parsed: a JSON document of 50,000 entries would take several times as long to build and free.
class SafetensorsHeader : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// `data` is the part of the file after the header.
  SafetensorsHeader(std::string_view file, std::span<const std::byte> data) : file_(file), data_(data) {}

  std::vector<Tensor> tensors;                  ///< in the order of the header
  std::map<std::string, std::string> metadata;  ///< "__metadata__"

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { unexpected(value); }
  bool number_float(number_float_t, const string_t& text) override { unexpected(quote(text)); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (list_ == nullptr || value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) unexpected(value);
    list_->push_back(static_cast<Index>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::dtype) {
      const auto dtype = from_name(value);
      if (!dtype) unexpected(quote(value));
      tensor_.dtype = *dtype;
    } else if (place_ == Place::metadata) {
      require(metadata.try_emplace(word_, std::move(value)).second, file_, ": __metadata__: key ", quote(word_), " appears twice");
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ != Place::header && place_ != Place::entry) unexpected("an object");
    ++depth_;
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      place_ = Place::entry;
      in_metadata_ = name == "__metadata__";
      require(!in_metadata_ || !std::exchange(had_metadata_, true), file_, ": __metadata__ appears twice");
      tensor_ = Tensor{.name = std::move(name), .dtype = {}, .shape = {}, .data = {}, .file = std::string(file_)};
      offsets_.clear();
      fields_ = 0;
    } else if (in_metadata_) {
      place_ = Place::metadata;
      word_ = std::move(name);
    } else {
      place_ = name == "dtype" ? Place::dtype : name == "shape" ? Place::shape : Place::offsets;
      if (place_ == Place::offsets && name != "data_offsets") wrong("unknown field ", quote(name));
      const unsigned field = 1U << static_cast<unsigned>(place_);
      if ((fields_ & field) != 0) wrong("field ", quote(name), " appears twice");
      fields_ |= field;
    }
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) finish_tensor();
    return true;
  }

  bool start_array(std::size_t) override {
    if (list_ != nullptr || (place_ != Place::shape && place_ != Place::offsets)) unexpected("a list");
    list_ = place_ == Place::shape ? &tensor_.shape : &offsets_;
    return true;
  }

  bool end_array() override {
    list_ = nullptr;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail(file_, ": the header is not valid JSON at its byte ", position);
  }

 private:
  enum class Place : unsigned { dtype, shape, offsets, entry, header, metadata };

  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    fail(file_, ": tensor ", quote(tensor_.name), ": ", parts...);
  }

  template <class Found>
  [[noreturn]] void unexpected(const Found& found) const {
    switch (place_) {
      case Place::dtype:
        wrong("dtype: expected one of F64 to BOOL, found ", found);
      case Place::shape:
        wrong("shape: expected a list of sizes in [0, 2^63), found ", found);
      case Place::offsets:
        wrong("data_offsets: expected [begin, end] in [0, 2^63), found ", found);
      case Place::metadata:
        fail(file_, ": __metadata__: ", quote(word_), ": expected a string, found ", found);
      case Place::header:
        fail(file_, ": the header: expected an object, found ", found);
      case Place::entry:
        break;
    }
    wrong("expected an object, found ", found);
  }

  void finish_tensor() {
    if (fields_ != 7) wrong("expected the fields dtype, shape and data_offsets");
    Index bytes = static_cast<Index>(size(tensor_.dtype));
    for (const Index d : tensor_.shape) {
      if (d > 0 && bytes > std::numeric_limits<Index>::max() / d) wrong("shape: the number of bytes overflows at size ", d);
      bytes *= d;
    }
    if (offsets_.size() != 2) wrong("data_offsets: expected [begin, end], found ", offsets_.size(), " numbers");
    const Index begin = offsets_[0], end = offsets_[1];
    if (end < begin) wrong("data_offsets: expected begin <= end, found ", shape_string(offsets_));
    if (std::cmp_greater(end, data_.size())) wrong("data_offsets: end at byte ", end, " of ", data_.size(), " (truncated file?)");
    if (end - begin != bytes) {
      wrong("data_offsets: ", name(tensor_.dtype), " of shape ", shape_string(tensor_.shape), " needs ", bytes, " bytes, found ",
            end - begin);
    }
    tensor_.data = data_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
    tensors.push_back(std::move(tensor_));
  }

  std::string_view file_;
  std::span<const std::byte> data_;
  Place place_ = Place::header;
  int depth_ = 0;
  bool in_metadata_ = false, had_metadata_ = false;
  std::string word_;            // the metadata key whose value comes next
  Tensor tensor_;               // the entry that is being read
  std::vector<Index> offsets_;  // its data_offsets
  unsigned fields_ = 0;         // which of its three fields were seen, a bit each
  std::vector<Index>* list_ = nullptr;
};

}  // namespace detail

}  // namespace dsv3::inline DSV3_ISA::io
