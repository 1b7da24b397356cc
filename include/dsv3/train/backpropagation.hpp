// Floor 6. Losses of some samples and their gradients: forward, output head with cross-entropy, backward through MTP modules and blocks.
#pragma once

#include "dsv3/model/model.hpp"
#include "dsv3/train/block_backward.hpp"
#include "dsv3/train/cross_entropy.hpp"
#include "dsv3/train/objective.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// A part that has a backward(b, part, x, dy, dx): one of this library's, or one declared in the part's namespace.
template <class Part, class B>
concept TrainablePart = requires(const B& b, const Part& part, ConstMatrixView<float> x, MatrixView<float> dx) {
  backward(b, part, x, x, dx);
};

namespace detail {
template <class P>
struct TrainCheck {
  using Model = dsv3::Model<P>;
  using Block = typename Model::Block;
  using B = Backward<P, typename Model::Layer, NoTape>;
  static_assert(std::is_same_v<Block, dsv3::Block<P>> && std::is_same_v<typename Model::Mtp, dsv3::Mtp<P>>,
                "dsv3: a model of other blocks or MTP modules than dsv3::Block and dsv3::Mtp does not train: they have no backward pass");
  static_assert(std::is_same_v<typename Model::Residual, PlainResidual<P>>,
                "dsv3: a model with P::Residual does not train: backward is written for PlainResidual");
  static_assert(TrainableRouter<typename P::Router>,
                "dsv3: P::Router does not train: it needs route_backward(router, config, logits, experts, dgates, dlogits) beside it "
                "(train/route_backward.hpp)");
  static_assert(TrainablePart<typename Model::Norm, B>,
                "dsv3: P::Norm<P> does not train: it needs backward(b, norm, x, dy, dx) beside it (train/linear_backward.hpp)");
  static_assert(TrainablePart<typename Block::Attention, B>,
                "dsv3: P::Attention<P> does not train: it needs backward(b, attention, x, dy, dx) beside it (train/linear_backward.hpp)");
  static_assert(TrainablePart<typename Block::Dense, B>,
                "dsv3: P::DenseFfn<P> does not train: it needs backward(b, ffn, x, dy, dx) beside it (train/linear_backward.hpp)");
  static_assert(TrainablePart<typename Block::Sparse, B>,
                "dsv3: P::FeedForward<P> does not train: it needs backward(b, ffn, x, dy, dx) beside it (train/linear_backward.hpp)");
  static constexpr bool value = true;
};
}  // namespace detail

/// A policy bundle whose parts all have a backward; otherwise compilation stops with a message that names the part.
template <class P>
concept Trainable = detail::TrainCheck<P>::value;

/// The backward pass of a model, with the memory that it keeps from step to step.
template <class P>
class Backpropagation {
  static_assert(Trainable<P>);

 public:
  explicit Backpropagation(const Model<P>& model, const Keep& keep = {}) : model_(model), tape_(keep) {}

  /// Adds to `gradients` the objective's gradients for `samples`, a micro-batch of a batch that has `counts`. Sums over rows run in the
  /// order of samples, so micro-batches give the same bits as the whole batch, except if embedding and head are tied.
  /// `watch`, a tape, receives gradients instead of values.
  /// Throws: Error if a sample has no ids or ids outside the vocabulary, or a value is not finite.
  template <class Watch = NoTape>
  Sums accumulate(Context& ctx, std::span<const Sample> samples, const Counts& counts, const Objective& objective, Gradients<P>& gradients,
                  Watch* watch = nullptr) {
    lay_out(samples, objective);
    Sums sums;
    sums.mtp.resize(static_cast<std::size_t>(depths()));
    forward(ctx);
    head(ctx, samples, counts, objective, gradients, sums);
    propagate(ctx, counts, objective, gradients, sums, watch);
    count_loads(sums);
    return sums;
  }

  const Tape& tape() const { return tape_; }

 private:
  using Layer = typename Model<P>::Layer;

  // A depth's rows: 0 is the main model, k > 0 MTP module k - 1.
  struct Depth {
    std::vector<int> ids;
    std::vector<Index> positions;
    std::vector<Segment<Layer>> segments;
    std::vector<std::span<const int>> texts;
    std::vector<std::pair<Index, Index>> samples;   // first row and number of rows of each sample
    Matrix<float> h, states, dstates, dembeddings;  // states: the head's input
  };

  Index depths() const { return std::ssize(depths_) - 1; }

  void lay_out(std::span<const Sample> samples, const Objective& objective) {
    depths_.resize(static_cast<std::size_t>(objective.mtp_weight != 0 ? model_.mtp_modules() : 0) + 1);
    for (std::size_t i = 0; i < depths_.size(); ++i) {
      Depth& d = depths_[i];
      d.ids.clear(), d.positions.clear(), d.segments.clear(), d.samples.clear(), d.texts.clear();
      const auto k = static_cast<Index>(i);
      for (std::size_t n = 0; n < samples.size(); ++n) {
        const Sample& s = samples[n];
        require(!s.ids.empty(), "train: sample ", n, " has no ids");
        const auto begin = std::ssize(d.ids);
        s.for_each_text([&](Index first, Index length) {
          const Index rows = std::max(length - k, Index{0});
          d.texts.push_back(s.ids.subspan(static_cast<std::size_t>(first + length - rows), static_cast<std::size_t>(rows)));
          d.segments.push_back({std::ssize(d.ids), rows, 0, nullptr});
          for (Index t = 0; t < rows; ++t) d.ids.push_back(d.texts.back()[static_cast<std::size_t>(t)]), d.positions.push_back(t);
        });
        d.samples.emplace_back(begin, std::ssize(d.ids) - begin);
      }
      const auto rows = std::ssize(d.ids);
      d.h.resize(rows, model_.width());
      d.states.resize(rows, model_.config().hidden_size);
    }
  }

  // f(row of depth `from`, row of the next depth) for the rows that the next depth continues.
  template <class F>
  void for_each_continued(std::size_t from, F&& f) const {
    const Depth &a = depths_[from], &b = depths_[from + 1];
    for (std::size_t i = 0; i < a.segments.size(); ++i)
      for (Index t = 0; t < b.segments[i].count; ++t) f(a.segments[i].begin + t, b.segments[i].begin + t);
  }

  void forward(Context& ctx) {
    Depth& main = depths_[0];
    model_.forward_texts(ctx, main.texts, view(main.h), tape_);
    model_.finish(ctx, view(main.h), view(main.states));
    for (std::size_t k = 1; k < depths_.size(); ++k) {
      Depth& d = depths_[k];
      auto scope = ctx.scratch();
      auto before = scope.template matrix<float>(d.h.rows(), d.h.cols());
      const bool normed = k > 1 && P::mtp_output == MtpOutput::after_head_norm;
      const Matrix<float>& states = normed ? depths_[k - 1].states : depths_[k - 1].h;
      for_each_continued(k - 1, [&](Index from, Index to) { before.row(to) = states.row(from); });
      model_.mtp_forward_texts(ctx, static_cast<Index>(k) - 1, d.texts, before, view(d.h), tape_);
      model_.mtp(static_cast<Index>(k) - 1).finish(ctx, view(d.h), view(d.states));
    }
  }

  // The output head on the rows that have a target, text by text and depth by depth, in chunks, so that no [T, vocab] matrix is stored.
  void head(Context& ctx, std::span<const Sample> samples, const Counts& counts, const Objective& objective, Gradients<P>& gradients,
            Sums& sums) {
    struct Target {
      int depth, id;
      Index row;
    };
    const Index vocab = model_.config().vocab_size, hidden = model_.config().hidden_size;
    const Index chunk = std::clamp((Index{1} << 20) / vocab, Index{48}, Index{768});
    std::vector<Target> targets;
    std::size_t text = 0;
    for (const Sample& s : samples)
      s.for_each_text([&](Index begin, Index n) {
        for (std::size_t k = 0; k < depths_.size(); ++k) {
          const Index shift = static_cast<Index>(k) + 1;
          for (Index t = 0; t + shift < n; ++t)
            if (s.counts(begin + t + shift))
              targets.push_back(
                  {static_cast<int>(k), s.ids[static_cast<std::size_t>(begin + t + shift)], depths_[k].segments[text].begin + t});
        }
        ++text;
      });
    std::vector<float> weights{1.0f / static_cast<float>(counts.main_targets)};
    for (std::size_t k = 0; k + 1 < depths_.size(); ++k) {
      const Index n = objective.mtp_reduction == MtpReduction::own_count ? counts.mtp_targets[k] : counts.main_targets;
      weights.push_back(static_cast<float>(objective.mtp_weight / static_cast<double>(depths()) / static_cast<double>(n)));
    }
    for (Depth& d : depths_) d.dstates.setZero(d.states.rows(), hidden);

    const auto& w = model_.head();
    auto scope = ctx.scratch();
    auto all_x = scope.template matrix<float>(chunk, hidden), all_dx = scope.template matrix<float>(chunk, hidden),
         all_logits = scope.template matrix<float>(chunk, vocab);
    const auto loss = scope.template array<double>(chunk);
    for (Index first = 0; first < std::ssize(targets); first += chunk) {
      const Index rows = std::min(chunk, std::ssize(targets) - first);
      const auto x = all_x.slice(0, rows), dx = all_dx.slice(0, rows), logits = all_logits.slice(0, rows);
      const auto target = [&](Index i) -> const Target& { return targets[static_cast<std::size_t>(first + i)]; };
      for (Index i = 0; i < rows; ++i)
        std::copy_n(view(depths_[static_cast<std::size_t>(target(i).depth)].states).row_data(target(i).row), hidden, x.row_data(i));
      const kernels::Product<typename P::Storage::View> product{x, w, logits};
      multiply<Precise<P>>(ctx, Pass{rows, 0}, rows, {&product, 1});
      ctx.parallel_for(rows, logits.size() * 24, [&](Index i, int) {
        loss[static_cast<std::size_t>(i)] = cross_entropy_backward<typename P::Arch>(logits.row_data(i), vocab, target(i).id,
                                                                                     weights[static_cast<std::size_t>(target(i).depth)]);
      });
      for (Index i = 0; i < rows; ++i) {
        double& sum = target(i).depth == 0 ? sums.main : sums.mtp[static_cast<std::size_t>(target(i).depth) - 1];
        sum += loss[static_cast<std::size_t>(i)];
      }
      const std::array products{MultiplyAdd{as_is(logits), master(w), dx, true}, MultiplyAdd{transposed(logits), x, gradients.of(w)}};
      multiply_add_all<Precise<P>>(ctx, products);
      for (Index i = 0; i < rows; ++i)
        std::copy_n(dx.row_data(i), hidden, view(depths_[static_cast<std::size_t>(target(i).depth)].dstates).row_data(target(i).row));
    }
  }

  template <class Watch>
  void propagate(Context& ctx, const Counts& counts, const Objective& objective, Gradients<P>& gradients, Sums& sums, Watch* watch) {
    const Config& c = model_.config();
    const LayerRecord none;
    Balance balance{objective.balance_weight / static_cast<double>(counts.samples), {}};
    const bool balanced = objective.balance_weight != 0;
    Rows<Layer, Watch> rows;
    const auto at = [&](const Depth& d, Index layer) {
      rows = {{std::ssize(d.ids), layer}, d.ids, d.positions, d.segments, watch};
      balance.rows = d.samples;
    };
    const auto through = [&](const auto& block, MatrixView<float> stream) {  // prepends its balance loss: layers run from last to first
      balance.loss = 0;
      if (tape_.kept().blocks) {
        backward(Backward<P, Layer, Watch>{ctx, gradients, rows, tape_.open(rows.layer), balanced ? &balance : nullptr}, block, stream);
      } else {
        Matrix<float> again = tape_.layer(rows.layer).hidden;
        const Rows<Layer, Tape> forward_rows{rows, rows.ids, rows.positions, rows.segments, &block_tape_};
        block.forward(ctx, view(again), forward_rows);
        LayerRecord& kept = block_tape_.layer(rows.layer);
        kept.hidden = tape_.layer(rows.layer).hidden;
        backward(Backward<P, Layer, Watch>{ctx, gradients, rows, kept, balanced ? &balance : nullptr}, block, stream);
      }
      if (balanced && std::holds_alternative<typename Model<P>::Block::Sparse>(block.feed_forward()))
        sums.balance.insert(sums.balance.begin(), balance.loss);
    };

    // MTP modules, from last to first. Each gives the depth before it the gradient of that depth's stream, or of its norm's output if the
    // module reads that.
    Matrix<float> dh;  // gradient of the current depth's output stream
    dh.setZero(depths_.back().h.rows(), model_.width());
    for (std::size_t k = depths_.size() - 1; k > 0; --k) {
      Depth &d = depths_[k], &before = depths_[k - 1];
      const auto module = static_cast<Index>(k) - 1, layer = c.num_hidden_layers + module, hidden = c.hidden_size;
      const auto& mtp = model_.mtp(module);
      at(d, layer);
      const Backward<P, Layer, Watch> b{ctx, gradients, rows, none};
      backward(b, mtp.head_norm(), view(d.h), view(d.dstates), view(d.dstates));
      dh += d.dstates;
      // The block's input stream is eh_proj's output; it was not kept.
      LayerRecord& kept = tape_.layer(layer);
      const Matrix<float> own = std::move(kept.hidden);  // record num_hidden_layers also holds the main model's last state
      kept.hidden.resize(dh.rows(), hidden);
      mtp.eh_proj().forward(ctx, view(kept.mtp_input), rows, view(kept.hidden));
      through(mtp.block(), view(dh));
      kept.hidden = own;
      auto scope = ctx.scratch();
      auto both = scope.template matrix<float>(dh.rows(), 2 * hidden);
      auto e = scope.template matrix<float>(dh.rows(), hidden), state = scope.template matrix<float>(dh.rows(), hidden);
      backward(b, mtp.eh_proj(), view(kept.mtp_input), view(dh), both);
      model_.embed(d.ids, e);
      d.dembeddings.resize(dh.rows(), hidden);
      backward(b, mtp.enorm(), e, both.columns(0, hidden), view(d.dembeddings));
      const bool normed = k == 1 ? P::mtp_input == MtpInput::after_final_norm : P::mtp_output == MtpOutput::after_head_norm;
      for_each_continued(k - 1, [&](Index from, Index to) { state.row(to) = (normed ? before.states : before.h).row(from); });
      backward(b, mtp.hnorm(), state, both.columns(hidden, hidden), both.columns(hidden, hidden));
      Matrix<float> dbefore = Matrix<float>::Zero(before.h.rows(), model_.width());
      for_each_continued(k - 1,
                         [&](Index from, Index to) { (normed ? before.dstates : dbefore).row(from) += both.row(to).rightCols(hidden); });
      dh = std::move(dbefore);
    }

    Depth& main = depths_[0];
    at(main, c.num_hidden_layers);
    backward(Backward<P, Layer, Watch>{ctx, gradients, rows, none}, model_.final_norm(), view(main.h), view(main.dstates),
             view(main.dstates));
    dh += main.dstates;
    record(rows, point::Hidden{}, view(dh));
    for (Index layer = c.num_hidden_layers - 1; layer >= 0; --layer) {
      at(main, layer);
      through(model_.blocks()[static_cast<std::size_t>(layer)], view(dh));
      record(rows, point::Hidden{}, view(dh));
    }
    main.dembeddings = std::move(dh);
    // In order: sample by sample, first the main model's rows, then those of each depth.
    auto embedding = gradients.of(model_.embedding());
    for (std::size_t i = 0; i < main.samples.size(); ++i)
      for (const Depth& d : depths_)
        for (Index t = d.samples[i].first; t < d.samples[i].first + d.samples[i].second; ++t)
          embedding.row(d.ids[static_cast<std::size_t>(t)]) += d.dembeddings.row(t);
  }

  void count_loads(Sums& sums) {
    const Config& c = model_.config();
    const Index layers = c.num_hidden_layers + depths(), sparse = std::max(layers - c.first_k_dense_replace, Index{0});
    sums.loads.setZero(sparse, c.n_routed_experts);
    for (Index i = 0; i < sparse; ++i) {
      const Matrix<int>& experts = tape_.layer(c.first_k_dense_replace + i).experts;
      for (Index n = 0; n < experts.size(); ++n) ++sums.loads(i, experts.data()[n]);
    }
  }

  const Model<P>& model_;
  Tape tape_, block_tape_{keep::everything, true};
  std::vector<Depth> depths_;
};

}  // namespace dsv3::inline DSV3_ISA::train
