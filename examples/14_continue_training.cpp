// Going on with a checkpoint: a few steps on a text of one's own, and the result saved.   usage: 14_continue_training DIR OUT
//
// The checkpoint may be in FP8: training has float32 master weights, made from it. What is saved is float32.
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/save.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/train/compute.hpp"
#include "dsv3/train/evaluate.hpp"
#include "dsv3/train/trainer.hpp"

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s DIR OUT\n", argv[0]), 2;
  using Policy = dsv3::train::Training<dsv3::DeepSeekV3>;
  const std::string folder = argv[1];
  auto model = dsv3::io::load<Policy>(folder);
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto learned = tokenizer.encode(
                 "THE FOX:\nGood morrow, crow! What cheese is that thou hast?\n\nTHE CROW:\nMine own, sir fox; and I will keep it mine.\n"),
             other = tokenizer.encode("First Citizen:\nBefore we proceed any further, hear me speak.\n");
  const dsv3::train::Sample fable{learned}, play{other};

  dsv3::train::Trainer<Policy> trainer(model, {.adamw = {.weight_decay = 0}});
  dsv3::Context ctx;
  std::printf("before: loss %.3f on the fable, %.3f on a play\n", dsv3::train::evaluate(ctx, model, {&fable, 1}),
              dsv3::train::evaluate(ctx, model, {&play, 1}));
  for (int step = 0; step < 30; ++step) trainer.step(ctx, {&fable, 1}, {.learning_rate = 3e-4, .objective = {.mtp_weight = 0.1}});
  std::printf("after:  loss %.3f on the fable, %.3f on a play\n", dsv3::train::evaluate(ctx, model, {&fable, 1}),
              dsv3::train::evaluate(ctx, model, {&play, 1}));
  dsv3::io::save(model, argv[2]);

  const auto again = dsv3::io::load<dsv3::DeepSeekV3>(argv[2]);
  std::printf("saved and loaded: %.3f\n", dsv3::train::evaluate(ctx, again, {&fable, 1}));
}
