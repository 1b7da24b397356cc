// Floor 6. The parameters of a model in training: one float32 arena in the order of for_each_tensor, and arenas of the same layout for
// gradients, moments and averages. A weight's gradient is found by the weight's address.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Floats in the layout of Parameters. Zero at first.
using Arena = Vector<float>;

enum class Kind {
  matrix,
  vector,  ///< a norm's weight
  buffer   ///< not learned by gradients: the router's bias
};

/// The place of a parameter [rows, cols], the same in every arena.
struct Parameter {
  std::string name;
  Index offset = 0, rows = 0, cols = 0;
  Kind kind = Kind::matrix;

  Index size() const { return rows * cols; }
  MatrixView<float> in(Arena& arena) const { return {arena.data() + offset, rows, cols}; }
  ConstMatrixView<float> in(const Arena& arena) const { return {arena.data() + offset, rows, cols}; }
};

/// The master weights of a model. The model reads its matrices from here; its small vectors are copies that refresh() brings up to date.
/// The model must live as long as this; it keeps the arena alive.
template <class P>
class Parameters {
 public:
  static constexpr Index padding = 16;  ///< a parameter takes up a multiple of so many floats; those beyond its size are 0

  /// Copies the weights of `model` into a new arena and binds the model to it.
  /// Throws: Error if a weight is not bound to memory.
  explicit Parameters(Model<P>& model) : model_(model) {
    static_assert(std::is_constructible_v<typename P::Storage::View, F32::View>,
                  "dsv3: a model in training needs a Storage that can hold F32 master weights (F32 or AnyStorage)");
    Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
      Parameter p{name, size_, 1, parameter.size(), Kind::matrix};
      if constexpr (requires { parameter.view; })
        p.rows = parameter.rows, p.cols = parameter.cols;
      else
        p.kind = parameter.learned ? Kind::vector : Kind::buffer;
      list_.push_back(p);
      size_ += (p.size() + padding - 1) / padding * padding;
    });
    values_->setZero(size_);
    std::size_t i = 0;
    Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
      const Parameter& p = list_[i++];
      float* to = values_->data() + p.offset;
      if constexpr (requires { parameter.view; }) {
        visit_weight(parameter.bound(name.c_str()), [&](const auto& w) {
          for (Index r = 0; r < p.rows; ++r) decode_row<typename P::Arch>(w, r, to + r * p.cols);
        });
        parameter.view = F32::View{to, p.rows, p.cols, p.cols};
        places_[to] = p.offset;
      } else {
        const auto& values = parameter.bound(name.c_str());
        std::copy_n(values.data(), p.size(), to);
        places_[values.data()] = p.offset;
      }
    });
    model.keep_only(values_);
  }
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  Model<P>& model() const { return model_; }
  const std::vector<Parameter>& list() const { return list_; }
  /// Floats of an arena: every parameter, each padded to whole cache lines.
  Index size() const { return size_; }
  Arena& values() { return *values_; }
  const Arena& values() const { return *values_; }
  Arena make_arena() const { return Arena::Zero(size_); }

  /// The parameter of that name. Throws: Error if there is none.
  const Parameter& find(const std::string& name) const {
    const auto p = std::find_if(list_.begin(), list_.end(), [&](const Parameter& q) { return q.name == name; });
    require(p != list_.end(), "Parameters: the model has no parameter ", name);
    return *p;
  }

  /// Updates the model's copies after values() have changed.
  void refresh() {
    std::size_t i = 0;
    Model<P>::for_each_tensor(model_, [&]<class T>(const std::string&, T& parameter) {
      const Parameter& p = list_[i++];
      if constexpr (!requires { parameter.view; }) std::copy_n(values_->data() + p.offset, p.size(), parameter.values.data());
    });
  }

  /// The arena offset of the weight that begins at `data`. Throws: Error if it is not this model's.
  Index place(const void* data) const {
    const auto found = places_.find(data);
    require(found != places_.end(), "Parameters: a weight whose gradient is asked for is none of the model in training");
    return found->second;
  }

 private:
  Model<P>& model_;
  std::vector<Parameter> list_;
  Index size_ = 0;
  std::shared_ptr<Arena> values_ = std::make_shared<Arena>();
  std::unordered_map<const void*, Index> places_;
};

/// Gradient sums, looked up by their weights.
template <class P>
class Gradients {
 public:
  explicit Gradients(const Parameters<P>& parameters) : parameters_(parameters), values_(parameters.make_arena()) {}

  /// The gradient of a whole stored matrix.
  MatrixView<float> of(const typename P::Storage::View& w) {
    return visit_weight(w, [&](const auto& v) { return MatrixView<float>(at(v.row(0)), v.rows, v.cols); });
  }
  /// The gradient of a small vector.
  float* of(const Vector<float>& v) { return at(v.data()); }

  void clear(Context& ctx) {
    constexpr Index piece = 1 << 16;
    ctx.parallel_for((values_.size() + piece - 1) / piece, values_.size(),
                     [&](Index i, int) { std::fill_n(values_.data() + i * piece, std::min(piece, values_.size() - i * piece), 0.0f); });
  }
  Arena& values() { return values_; }
  const Arena& values() const { return values_; }
  const Parameters<P>& parameters() const { return parameters_; }

 private:
  float* at(const void* data) { return values_.data() + parameters_.place(data); }

  const Parameters<P>& parameters_;
  Arena values_;
};

}  // namespace dsv3::inline DSV3_ISA::train
