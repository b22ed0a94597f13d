// LLaMA (Touvron et al., arXiv 2302.13971 and 2307.09288): pre-norm decoder with RMSNorm, rotary
// positions in the half-split layout of Hugging Face, SwiGLU, grouped key/value heads, no biases.
// The baseline of every comparison.
//   x <- x + O softmax(rot(Q h) rot(K h)^T / sqrt(hd)) V h,  h = norm(x)
//   x <- x + W_down (silu(W_gate h) * W_up h)
// Parameters per layer: 2 D hd (H + H_kv) + 3 D F + 2 D.  Decode state: 2 hd H_kv per token.
// The papers give no initialisation; N(0, 0.02) is that of transformers' LlamaForCausalLM.
#include <cmath>

#include "base/error.h"
#include "modules/layers/attention.h"
#include "modules/layers/hf_config.h"
#include "modules/layers/residual_block.h"
#include "modules/lm.h"
#include "modules/registry.h"

namespace ceiling {
namespace {

struct LlamaConfig final : ModelConfig {
  int64_t d_model = 512, n_layers = 8, n_heads = 8;
  std::optional<int64_t> n_kv_heads, head_dim, d_ff;
  double rope_base = 10000, norm_eps = 1e-5, init_std = 0.02;
  bool tie_embeddings = false, scale_residual_init = false;
  int64_t vocab_multiple = 1;

  void fields(Fields& f) override {
    f("d_model", d_model, AtLeast{1}, "residual width D");
    f("n_layers", n_layers, AtLeast{1}, "number of blocks L");
    f("n_heads", n_heads, AtLeast{1}, "query heads H");
    f("n_kv_heads", n_kv_heads, "auto", AtLeast{1},
      "key/value heads, each shared by n_heads / n_kv_heads queries; auto: n_heads");
    f("head_dim", head_dim, "auto", AtLeast{2}, "width of a head; auto: d_model / n_heads");
    f("d_ff", d_ff, "auto", AtLeast{1},
      "width F of the feed-forward; auto: 8/3 d_model rounded up to a multiple of 64");
    f("rope_base", rope_base, MoreThan{1}, "base of the rotary frequencies");
    f("norm_eps", norm_eps, MoreThan{0}, "epsilon of RMSNorm");
    f("tie_embeddings", tie_embeddings, "use the embedding matrix as output head");
    f("init_std", init_std, MoreThan{0}, "standard deviation of all matrices at the start");
    f("scale_residual_init", scale_residual_init,
      "divide the init of output projections by sqrt(2 n_layers)");
    f("vocab_multiple", vocab_multiple, AtLeast{1},
      "round the rows of embedding and head up to a multiple; padding rows take no probability");
  }

  int64_t kv_heads() const { return n_kv_heads.value_or(n_heads); }
  int64_t head_width() const { return head_dim.value_or(d_model / n_heads); }
  int64_t ff() const { return d_ff.value_or((8 * d_model / 3 + 63) / 64 * 64); }

  void check() const override {
    if (!head_dim && d_model % n_heads != 0)
      throw Error(
          "model.n_heads: {} does not divide model.d_model {}; choose another, or set "
          "model.head_dim",
          n_heads, d_model);
    if (n_heads % kv_heads() != 0)
      throw Error("model.n_kv_heads: {} does not divide model.n_heads {}", kv_heads(), n_heads);
    if (head_width() % 2 != 0)
      throw Error("model.head_dim: {} is odd; rotary positions need pairs", head_width());
  }

  std::unique_ptr<LanguageModel> build() const override {
    const double out_std =
        scale_residual_init ? init_std / std::sqrt(2.0 * static_cast<double>(n_layers)) : init_std;
    std::vector<std::unique_ptr<Block>> blocks;
    for (int64_t i = 0; i < n_layers; ++i) {
      auto attention =
          std::make_unique<Attention>(AttentionOptions{.d_model = d_model,
                                                       .n_heads = n_heads,
                                                       .n_kv_heads = kv_heads(),
                                                       .head_dim = head_width(),
                                                       .rope_base = rope_base,
                                                       .qkv_init = init::normal(init_std),
                                                       .out_init = init::normal(out_std)});
      auto ffn = std::make_unique<GatedFfn>(d_model, ff(), Activation::kSilu,
                                            init::normal(init_std), init::normal(out_std));
      blocks.push_back(std::make_unique<ResidualBlock>("attention", std::move(attention),
                                                       std::move(ffn), d_model, norm_eps));
    }
    return std::make_unique<LanguageModel>(
        LanguageModel::Options{
            .vocab_size = vocab_size,
            .vocab_rows = (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple,
            .d_model = d_model,
            .tie_embeddings = tie_embeddings,
            .norm_eps = norm_eps,
            .embedding_init = init::normal(init_std),
            .head_init = init::normal(init_std)},
        std::move(blocks));
  }

  HfLayout hf_layout() const override {
    HfLayout layout;
    layout.config = {{"architectures", {"LlamaForCausalLM"}},
                     {"model_type", "llama"},
                     {"hidden_size", d_model},
                     {"intermediate_size", ff()},
                     {"num_hidden_layers", n_layers},
                     {"num_attention_heads", n_heads},
                     {"num_key_value_heads", kv_heads()},
                     {"head_dim", head_width()},
                     {"hidden_act", "silu"},
                     {"max_position_embeddings", context},
                     {"rms_norm_eps", norm_eps},
                     {"rope_theta", rope_base},
                     {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", rope_base}}},
                     {"attention_bias", false},
                     {"attention_dropout", 0.0},
                     {"mlp_bias", false},
                     {"initializer_range", init_std},
                     {"tie_word_embeddings", tie_embeddings},
                     {"use_cache", true}};
    const int64_t q = n_heads * head_width(), kv = kv_heads() * head_width();
    layout.tensors.push_back({"model.embed_tokens.weight", "embedding.weight"});
    for (int64_t i = 0; i < n_layers; ++i) {
      const std::string theirs = fmt::format("model.layers.{}.", i),
                        ours = fmt::format("layers.{}.", i);
      layout.tensors.push_back({theirs + "input_layernorm.weight", ours + "attention_norm.weight"});
      layout.tensors.push_back(
          {theirs + "self_attn.q_proj.weight", ours + "attention.qkv.weight", 0, q});
      layout.tensors.push_back(
          {theirs + "self_attn.k_proj.weight", ours + "attention.qkv.weight", q, q + kv});
      layout.tensors.push_back(
          {theirs + "self_attn.v_proj.weight", ours + "attention.qkv.weight", q + kv, q + 2 * kv});
      layout.tensors.push_back({theirs + "self_attn.o_proj.weight", ours + "attention.out.weight"});
      layout.tensors.push_back(
          {theirs + "post_attention_layernorm.weight", ours + "ffn_norm.weight"});
      layout.tensors.push_back(
          {theirs + "mlp.gate_proj.weight", ours + "ffn.gate_up.weight", 0, ff()});
      layout.tensors.push_back(
          {theirs + "mlp.up_proj.weight", ours + "ffn.gate_up.weight", ff(), 2 * ff()});
      layout.tensors.push_back({theirs + "mlp.down_proj.weight", ours + "ffn.down.weight"});
    }
    layout.tensors.push_back({"model.norm.weight", "norm.weight"});
    if (!tie_embeddings) layout.tensors.push_back({"lm_head.weight", "head.weight"});
    return layout;
  }

  bool from_hf(const nlohmann::json& config) override {
    const HfConfigReader hf(config);
    if (!hf.is("model_type", "llama")) return false;
    hf.require("hidden_act", "silu");
    hf.require("attention_bias", false);
    hf.require("mlp_bias", false);
    d_model = hf.get<int64_t>("hidden_size");
    n_layers = hf.get<int64_t>("num_hidden_layers");
    n_heads = hf.get<int64_t>("num_attention_heads");
    n_kv_heads = hf.get<int64_t>("num_key_value_heads", n_heads);
    head_dim = hf.get<int64_t>("head_dim", d_model / n_heads);
    d_ff = hf.get<int64_t>("intermediate_size");
    norm_eps = hf.get<double>("rms_norm_eps", 1e-6);
    init_std = hf.get<double>("initializer_range", 0.02);
    tie_embeddings = hf.get<bool>("tie_word_embeddings", false);
    rope_base = hf.get<double>("rope_theta", 10000.0);
    if (config.contains("rope_parameters")) {
      const HfConfigReader rope(config.at("rope_parameters"));
      rope.require("rope_type", "default");
      rope_base = rope.get<double>("rope_theta", rope_base);
    }
    if (config.contains("rope_scaling") && !config.at("rope_scaling").is_null())
      throw Error("config.json: rope_scaling is not supported");
    vocab_size = hf.get<int64_t>("vocab_size");
    context = hf.get<int64_t>("max_position_embeddings", 2048);
    return true;
  }
};

const RegisterArchitecture<LlamaConfig> kLlama(
    "llama", "Transformer baseline: RoPE, SwiGLU, RMSNorm, GQA (arXiv 2302.13971, 2307.09288)",
    {"{d_model: 32, n_layers: 2, n_heads: 4, n_kv_heads: 2, d_ff: 48}",
     "{d_model: 32, n_layers: 2, n_heads: 2, tie_embeddings: true, vocab_multiple: 64}"});

}  // namespace
}  // namespace ceiling
