// Experiments in training: loss by arithmetic, and the balance of experts.
#pragma once

#include "learner.hpp"

namespace laboratory::inline DSV3_ISA {

/// Loss of the same model on the same texts by arithmetic (section 3.3, appendix B).
inline void curves(const Setting& s) {
  const Index steps = s.brief ? 2 : 200, every = s.brief ? 1 : 20, samples = s.brief ? 1 : 64;
  struct Kind {
    const char* name;
    std::optional<Arithmetic> arithmetic;  // none: float32
  };
  const Kind kinds[] = {{"bf16", Arithmetic::bf16},
                        {"float32", {}},
                        {"FP8, the report's recipe", Arithmetic::fp8},
                        {"FP8, gradients in e5m2", Arithmetic::e5m2_gradients},
                        {"FP8, 128x128 gradients", Arithmetic::block_gradients},
                        {"FP8, per tensor", Arithmetic::per_tensor},
                        {"per tensor, 14 bits", Arithmetic::per_tensor_14_bits},
                        {"per tensor, 14 bits, promoted", Arithmetic::per_tensor_promoted}};
  const auto rate = learning_rate(steps);
  Table table{"Loss over unseen text after " + std::to_string(steps) + " steps, " + std::to_string(s.seeds) + " seeds",
              {"arithmetic", "loss", "deviation", "above bf16, percent", "deviation of that"},
              {}};
  std::vector<cli::Curve> lines;
  std::vector<double> reference;
  for (const Kind& kind : kinds) {
    std::vector<double> last, above;
    lines.push_back({kind.name, {}});
    for (Index seed = 1; seed <= s.seeds; ++seed) {
      const auto run = [&]<class P>(P) {
        Learner<P> learner(s.ctx, static_cast<std::uint64_t>(seed));
        for (Index t = 0; t < steps; ++t) {
          learner.step({rate.at(static_cast<double>(t + 1)), {0, 1e-4}, t < steps * 9 / 10 ? 1e-3 : 0});
          if (seed == 1 && (t + 1) % every == 0) lines.back().points.emplace_back(static_cast<double>(t + 1), learner.loss(samples));
        }
        last.push_back(learner.loss(samples));
      };
      if (kind.arithmetic) {
        Chosen<>::arithmetic = *kind.arithmetic;
        run(ChosenTraining{});
      } else {
        run(FloatTraining{});
      }
      if (&kind == kinds) reference.push_back(last.back());
      above.push_back(100 * (last.back() / reference[static_cast<std::size_t>(seed - 1)] - 1));
    }
    table.rows.push_back({kind.name, mean(last), deviation(last), mean(above), deviation(above)});
  }
  s.results.write(table);
  s.results.plot(cli::line_plot("Loss over unseen text", "step", lines));
}

/// Load balance: by the bias at several speeds, by the sequence-wise loss, by neither (section 2.1.2).
inline void balance(const Setting& s) {
  const Index steps = s.brief ? 5 : 200, samples = s.brief ? 8 : 64, window = std::max<Index>(1, steps / 10);
  struct Kind {
    const char* name;
    double balance_weight, bias_speed;
  };
  const Kind kinds[] = {{"neither", 0, 0},
                        {"loss, alpha 0.01", 0.01, 0},
                        {"loss, alpha 0.1", 0.1, 0},
                        {"bias, gamma 0.0001", 0, 1e-4},
                        {"bias, gamma 0.001", 0, 1e-3},
                        {"bias, gamma 0.01", 0, 1e-2},
                        {"bias, gamma 0.1", 0, 1e-1}};
  const auto rate = learning_rate(steps);
  Table table{"Loads and loss by what balances, " + std::to_string(steps) + " steps, " + std::to_string(s.seeds) +
                  " seeds; largest load over the mean of a step's tokens, mean of both layers",
              {"balanced by", "first tenth", "last tenth", "loss", "deviation"},
              {}};
  std::vector<cli::Curve> lines;
  std::vector<std::vector<double>> map;
  std::vector<std::string> map_rows;
  Chosen<>::arithmetic = Arithmetic::bf16;
  for (const Kind& kind : kinds) {
    std::vector<double> losses, first, last;
    lines.push_back({kind.name, {}});
    for (Index seed = 1; seed <= s.seeds; ++seed) {
      Learner<ChosenTraining> learner(s.ctx, static_cast<std::uint64_t>(seed));
      double sum = 0;
      for (Index t = 0; t < steps; ++t) {
        const auto report = learner.step({rate.at(static_cast<double>(t + 1)), {0, kind.balance_weight}, kind.bias_speed});
        double worst = 0;
        for (Index i = 0; i < report.loads.rows(); ++i)
          worst +=
              static_cast<double>(report.loads.row(i).maxCoeff() * report.loads.cols()) / static_cast<double>(report.loads.row(i).sum());
        sum += worst / static_cast<double>(report.loads.rows());
        if ((t + 1) % window == 0) {
          const double average = sum / static_cast<double>(window);
          if (seed == 1) lines.back().points.emplace_back(static_cast<double>(t + 1), average);
          if (t + 1 == window) first.push_back(average);
          if (t + window >= steps) last.push_back(average);
          sum = 0;
        }
      }
      losses.push_back(learner.loss(samples));
      if (seed == 1 && (&kind == &kinds[0] || &kind == &kinds[2] || &kind == &kinds[4]))
        for (int text = 0; text < Languages::kinds; ++text) {  // of the last layer: each expert's share of a kind, 1 being an even one
          const Matrix<Index> loads = learner.loads(text, samples);
          const auto row = loads.row(loads.rows() - 1);
          map_rows.push_back((text == 0 ? std::string(kind.name) + ", " : "") + "kind " + std::to_string(text + 1));
          map.emplace_back();
          for (Index e = 0; e < row.size(); ++e)
            map.back().push_back(static_cast<double>(row[e] * row.size()) / static_cast<double>(row.sum()));
        }
    }
    table.rows.push_back({kind.name, mean(first), mean(last), mean(losses), deviation(losses)});
  }
  s.results.write(table);
  s.results.plot(cli::line_plot("Largest load over the mean", "step", lines, 1));
  std::vector<std::string> experts;
  for (Index e = 1; e <= small_model().n_routed_experts; ++e) experts.push_back(std::to_string(e));
  s.results.beside("experts").plot(
      cli::heat_map("Load of each expert of the last layer by kind of text, 1 being an even share", map_rows, experts, map, 0, 4));
}

}  // namespace laboratory::inline DSV3_ISA
