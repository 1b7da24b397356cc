// dsv3-logits --gradients: the loss of given tokens and its gradient for every tensor of a checkpoint.
#pragma once

#include "cli.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/safetensors_writer.hpp"
#include "dsv3/train/trainer.hpp"

namespace cli::inline DSV3_ISA {

/// Writes loss [1], with MTP modules loss_main [1] and loss_mtp [D] as well, and grad.NAME of every tensor that is learned.
template <class P>
void write_gradients(const Args& args, const dsv3::Matrix<int>& ids, const std::filesystem::path& out) {
  auto model = dsv3::io::load<P>(args[0]);
  const dsv3::train::Objective objective{args.number("--mtp-weight", 0.0, 0.0, 1e6), args.number("--balance-weight", 0.0, 0.0, 1e6)};
  dsv3::require(objective.mtp_weight == 0 || model.mtp_modules() > 0, args[0], ": --mtp-weight: the checkpoint has no MTP module");
  const auto executor = make_executor(args.threads());
  dsv3::Context ctx(executor);
  std::vector<dsv3::train::Sample> samples;
  for (dsv3::Index i = 0; i < ids.rows(); ++i) samples.push_back({{ids.row(i).data(), static_cast<std::size_t>(ids.cols())}});
  dsv3::train::Trainer<P> trainer(model, {});
  dsv3::train::StepReport report;
  trainer.gradients_of(ctx, samples, objective, report);

  std::vector<dsv3::io::Tensor> tensors;
  std::vector<float> losses{static_cast<float>(report.losses.total), static_cast<float>(report.losses.main)};
  for (const double mtp : report.losses.mtp) losses.push_back(static_cast<float>(mtp));
  const auto add = [&](std::string name, std::vector<dsv3::Index> shape, const float* data, dsv3::Index n) {
    tensors.push_back(
        {std::move(name), dsv3::io::Dtype::F32, std::move(shape), std::as_bytes(std::span(data, static_cast<std::size_t>(n))), {}});
  };
  add("loss", {1}, losses.data(), 1);
  if (!report.losses.mtp.empty()) {
    add("loss_main", {1}, &losses[1], 1);
    add("loss_mtp", {std::ssize(report.losses.mtp)}, &losses[2], std::ssize(report.losses.mtp));
  }
  for (const auto& p : trainer.parameters().list()) {
    if (p.kind == dsv3::train::Kind::buffer) continue;
    bool used = true;  // without their losses, MTP modules have no gradients
    for (dsv3::Index k = 0; k < model.mtp_modules(); ++k)
      used = used && (objective.mtp_weight != 0 || !p.name.starts_with(dsv3::Model<P>::layer_prefix(model.config().num_hidden_layers + k)));
    if (!used) continue;
    const auto shape = p.kind == dsv3::train::Kind::vector ? std::vector{p.cols} : std::vector{p.rows, p.cols};
    add("grad." + p.name, shape, trainer.gradients().values().data() + p.offset, p.size());
  }
  dsv3::io::write_safetensors(out, tensors);
}

}  // namespace cli::inline DSV3_ISA
