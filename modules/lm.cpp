#include "modules/lm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include "modules/layers/recompute.h"
#include "modules/ops/again.h"
#include "modules/ops/embedding/embedding.h"
#include "modules/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "modules/ops/rms_norm/rms_norm.h"

namespace ceiling {

namespace {
std::vector<Block*> adopt_blocks(
    std::vector<std::unique_ptr<Block>>& blocks,
    const std::function<void(std::string, std::unique_ptr<Module>)>& adopt) {
  std::vector<Block*> raw;
  for (size_t i = 0; i < blocks.size(); ++i) {
    raw.push_back(blocks[i].get());
    adopt("layers." + std::to_string(i), std::move(blocks[i]));
  }
  return raw;
}
}  // namespace

LanguageModel::LanguageModel(const Options& options, std::vector<std::unique_ptr<Block>> blocks)
    : options_(options),
      embedding_(parameter("embedding.weight", {options.vocab_rows, options.d_model},
                           {.init = options.embedding_init})),
      blocks_(adopt_blocks(blocks,
                           [this](std::string name, std::unique_ptr<Module> block) {
                             adopt(std::move(name), std::move(block));
                           })),
      norm_(parameter("norm.weight", {options.d_model}, {.init = init::ones(), .decay = false})),
      head_(options.tie_embeddings ? embedding_
                                   : parameter("head.weight", {options.vocab_rows, options.d_model},
                                               {.init = options.head_init})) {
  name_parameters();
}

at::Tensor LanguageModel::hidden(const at::Tensor& tokens, const Segments& segments,
                                 ModelState* state, Recompute recompute) {
  const int64_t batch = tokens.size(0), seq_len = tokens.size(1);
  const auto ints = at::TensorOptions().dtype(at::kInt).device(tokens.device());
  MixContext context{.segments = segments,
                     .position = segments.position,
                     .position_bound = (state ? state->length : 0) + seq_len,
                     .carried = {},
                     .attention_mask = {}};
  if (state) {
    state->layers.resize(blocks_.size());
    if (segments.any() && !state->carried.defined())
      state->carried = at::full({batch}, static_cast<int>(state->length), ints);
    context.carried = state->carried;
    const at::Tensor steps = at::arange(seq_len, ints);
    if (segments.any())
      context.position = segments.position + segments.document.eq(0) * state->carried.unsqueeze(1);
    else if (state->carried.defined())
      context.position = state->carried.unsqueeze(1) + steps;
    else if (state->length > 0)
      context.position = (steps + state->length).to(at::kInt).expand({batch, seq_len});
    state->length += seq_len;
    if (state->carried.defined())
      state->carried = (context.position.select(1, -1) + 1).to(at::kInt);
    if (context.position.defined()) context.position = context.position.to(at::kInt);
  }

  const MakeAgain again(recompute == Recompute::kSelective);
  if (trace) trace->clear();
  if (observer) observer->before_forward(-1);
  at::Tensor x = embedding(tokens, embedding_, options_.embedding_scale);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = *blocks_[i];
    if (observer) observe(x, static_cast<int64_t>(i));
    if (recompute == Recompute::kBlock && !state && at::GradMode::is_enabled())
      x = recomputed(block, x, context);
    else
      x = block.forward(x, context, state ? &state->layers[i] : nullptr);
    if (trace) trace->push_back(x.detach());
  }
  if (observer) observer->before_forward(n_layers());
  return rms_norm(x, norm_, options_.norm_eps);
}

// The gradient of a layer's input is complete when all of the layer's nodes have run: those of its
// parameters too, because autograd takes nodes that are ready in the reverse order of their making.
void LanguageModel::observe(const at::Tensor& input, int64_t layer) {
  observer->before_forward(layer);
  if (input.requires_grad())
    input.register_hook(
        [this, layer](const at::Tensor& /*grad*/) { observer->after_backward(layer); });
}

at::Tensor LanguageModel::logits(const at::Tensor& hidden) {
  return ceiling::logits(hidden, head_, options_.vocab_size, options_.logit_cap);
}

LossOutput LanguageModel::loss(const at::Tensor& hidden, const at::Tensor& targets,
                               const LossOptions& options) {
  LinearCrossEntropyOptions head{.vocab_size = options_.vocab_size,
                                 .scale = options.scale,
                                 .z_loss = options.z_loss,
                                 .logit_cap = options_.logit_cap,
                                 .per_token = options.per_token};
  const auto out = linear_cross_entropy(hidden, head_, targets, head);
  return {out.loss, out.token_loss};
}

int64_t LanguageModel::n_parameters() {
  int64_t total = 0;
  for (const Parameter* parameter : parameters()) total += parameter->numel();
  return total;
}

int64_t LanguageModel::n_non_embedding_parameters() {
  return n_parameters() - embedding_.numel() - (options_.tie_embeddings ? 0 : head_.numel());
}

double LanguageModel::flops_per_token(int64_t seq_len) {
  double flops = 2.0 * static_cast<double>(head_.numel());
  for (Block* block : blocks_) {
    for (const Parameter* parameter : block->parameters())
      if (parameter->shape.size() == 2 && parameter->options.decay)
        flops += 2.0 * static_cast<double>(parameter->numel());
    flops += block->mixer().mixing_flops_per_token(seq_len);
  }
  return flops;
}

double LanguageModel::state_bytes(int64_t n_tokens, int64_t element_bytes) const {
  double bytes = 0;
  for (const Block* block : blocks_) bytes += block->mixer().state_bytes(n_tokens, element_bytes);
  return bytes;
}

}  // namespace ceiling
