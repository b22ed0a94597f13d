// The language model that every architecture shares: embedding, blocks, final norm, head, loss.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "modules/mixer.h"

namespace ceiling {

struct ModelState {
  std::vector<State> layers;
  int64_t length = 0;  // tokens seen by every row
  at::Tensor carried;  // [B] int32: tokens since the start of the document each row is in;
                       // undefined: `length` in all rows
  bool empty() const { return layers.empty(); }
};

// What the backward pass computes again rather than find it kept.
enum class Recompute {
  kNone,
  kSelective,  // outputs of norms and gated activations (modules/ops/again.h)
  kBlock       // everything but each block's input
};

// Hears where a pass through the model is, so that communication can run beside it. Layers count
// from 0; the embedding is -1, final norm and head are n_layers.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  // Forward: the weights of `layer` are about to be read.
  virtual void before_forward(int64_t layer) = 0;
  // Backward: the gradients of `layer` and of all after it are complete (an untied head's before
  // any). Not called for the embedding, whose gradient is the last, nor where `layer` has no input
  // that needs a gradient.
  virtual void after_backward(int64_t layer) = 0;
};

struct LossOptions {
  double scale = 1;   // loss = scale * sum of token losses: 1 / targets of the whole global batch
  double z_loss = 0;  // adds scale * z_loss * sum of log^2 Z
  bool per_token = false;
};

struct LossOutput {
  at::Tensor loss;        // scalar, fp32 (fp64 for fp64 models); backward of anything but 1 is not
                          // supported (end of the graph)
  at::Tensor token_loss;  // [B, T] fp32, 0 where ignored; only if per_token
};

class LanguageModel final : public Module {
 public:
  struct Options {
    int64_t vocab_size = 0;  // of the tokenizer
    int64_t vocab_rows =
        0;  // rows of embedding and head: vocab_size, or more (padding rows take no probability)
    int64_t d_model = 0;
    bool tie_embeddings = false;
    double embedding_scale = 1;  // multiplies embedded tokens
    double logit_cap = 0;        // cap * tanh(logits / cap); 0: none
    double norm_eps = 1e-6;      // final RMSNorm
    Init embedding_init, head_init;
  };
  LanguageModel(const Options& options, std::vector<std::unique_ptr<Block>> blocks);

  // tokens [B, T] int32 -> [B, T, D], after the final norm.
  at::Tensor hidden(const at::Tensor& tokens, const Segments& segments, ModelState* state,
                    Recompute recompute = Recompute::kNone);
  at::Tensor logits(
      const at::Tensor& hidden);  // [..., D] -> [..., vocab_size], fp32 (fp64 for fp64 models)
  // targets [B, T] int32, -1 = ignored. The backward pass adds into every Parameter::grad.
  LossOutput loss(const at::Tensor& hidden, const at::Tensor& targets, const LossOptions& options);

  PassObserver* observer = nullptr;  // heard by hidden() and its backward pass, if set

  // Residual stream after each block, for tests against golden values: filled by hidden() if set.
  std::vector<at::Tensor>* trace = nullptr;

  const Options& options() const { return options_; }
  int64_t n_layers() const { return static_cast<int64_t>(blocks_.size()); }
  const Mixer& mixer(int64_t layer) const { return blocks_[static_cast<size_t>(layer)]->mixer(); }
  int64_t n_parameters();                // all, tied weights once
  int64_t n_non_embedding_parameters();  // without embedding and head matrices
  // Forward FLOPs per token: 2 per weight of each matrix product plus mixing; training is 3 times
  // that.
  double flops_per_token(int64_t seq_len);
  double state_bytes(int64_t n_tokens, int64_t element_bytes) const;  // one sequence, all layers

 private:
  void observe(const at::Tensor& input, int64_t layer);
  Options options_;
  Parameter& embedding_;
  std::vector<Block*> blocks_;
  Parameter& norm_;
  Parameter& head_;  // the embedding itself if tied
};

}  // namespace ceiling
